//! Orders that are repeated or late (design, section 6: operations are idempotent and replay-safe).

use cluster::control::{FromProxy, Outcome};
use packet::{Flags, Seq, TcpSegment};

use nfq_splice::{Action, Stage};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const ALTERNATE_ISN: Seq = Seq(u32::MAX - 3000);

/// The manager has given an alternate up for another one when its first order comes again.
#[test]
fn a_late_repetition_of_an_earlier_order_changes_nothing() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let first = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        let second = world.order(2, 1, 3, BACKEND_ISN + 1, Vec::new());
        for order in [&first, &second] {
            world.engine.handle_order(world.now, order.clone());
            let syns = world.sent();
            let syn = |packet: &&Vec<u8>| TcpSegment::parse(packet).unwrap().flags().contains(Flags::SYN);
            let syn = syns.iter().find(syn).unwrap();
            assert_eq!(TcpSegment::parse(syn).unwrap().destination(), order.alternate);
        }
        for late in [first, second] {
            world.engine.handle_order(world.now, late);
            assert_eq!(world.sent(), Vec::<Vec<u8>>::new());
        }
    }
}

/// The failed backend has spoken on until it was fenced, and the log knows more when the failure is reported again.
#[test]
fn a_second_order_for_the_same_failure_brings_what_was_logged_since() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let logged: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        let mut got = Vec::new();
        for (id, alternate, known) in [(1, 2, 3000), (2, 3, 5000), (3, 2, 4000), (4, 3, 5000)] {
            let order = world.order(id, 1, alternate, BACKEND_ISN + 1, logged[..known].to_vec());
            world.engine.handle_order(world.now, order);
            let sent = world.sent();
            for segment in segments(&sent).iter().filter(|segment| segment.destination() == world.client()) {
                assert_eq!(segment.seq(), world.iss + 1 + got.len() as u32);
                got.extend_from_slice(segment.payload());
            }
            let ack = world.client_segment(
                CLIENT_ISN + 1 + REQUEST.len() as u32,
                world.iss + 1 + got.len() as u32,
                b"",
            );
            let more = world.receive(&ack.build(), Stage::Raw);
            for segment in segments(&more).iter().filter(|segment| !segment.payload().is_empty()) {
                got.extend_from_slice(segment.payload());
            }
        }
        assert_eq!(got, logged);
        let syn_ack = world.syn_ack(3, ALTERNATE_ISN, CLIENT_ISN + 1 + REQUEST.len() as u32, OFFER).build();
        world.receive(&syn_ack, Stage::Raw);
        assert_eq!(world.state().as_deref(), Some("spliced-userspace"));
        let data = world.backend_segment(3, ALTERNATE_ISN + 1, b"on", 1200).build();
        let passed = world.receive(&data, Stage::Raw);
        assert_eq!(segments(&passed)[0].seq(), world.iss + 1 + logged.len() as u32);
    }
}

/// A manager that was restarted gives its predecessor's order anew: the alternate's answer to the first SYN counts, and no reset
/// can come between.
#[test]
fn a_second_order_with_the_same_alternate_asks_it_nothing_anew_while_it_has_not_answered() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let first = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, first);
        assert!(segments(&world.sent()).iter().any(|segment| segment.flags().syn()));
        let second = world.order(2, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, second);
        assert_eq!(world.sent(), Vec::<Vec<u8>>::new());
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, next, OFFER).build();
        world.engine.handle_packet(world.now, &mut syn_ack.clone(), Stage::Tracked);
        let ended = |action| match action {
            Action::Tell(FromProxy::Ended { id, outcome: Outcome::Respliced { .. } }) => Some(id),
            _ => None,
        };
        let told = std::iter::from_fn(|| world.engine.poll_action()).find_map(ended);
        assert_eq!(told, Some(2));
    }
}

/// What the manager is told, timer by timer, until it is told something.
fn told(world: &mut World) -> FromProxy {
    loop {
        world.pass(10);
        world.engine.handle_timeout(world.now);
        while let Some(action) = world.engine.poll_action() {
            if let Action::Tell(message) = action {
                return message;
            }
        }
    }
}

/// The path to the only alternate is interrupted for seconds: its silence is told as such, and it is asked anew on the same connection.
#[test]
fn a_silent_alternate_can_be_ordered_again_until_it_answers() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let start = world.now;
        for id in 1..=4 {
            let order = world.order(id, 1, 2, BACKEND_ISN + 1, b"logged".to_vec());
            world.engine.handle_order(world.now, order);
            assert_eq!(told(&mut world), FromProxy::Ended { id, outcome: Outcome::AlternateSilent });
            assert_eq!(world.state().as_deref(), Some("recovering"), "the client is kept");
        }
        assert!(world.now.since(start).as_millis() >= 6000);
        let order = world.order(5, 1, 2, BACKEND_ISN + 1, b"logged".to_vec());
        world.engine.handle_order(world.now, order);
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1 + REQUEST.len() as u32, OFFER).build();
        world.receive(&syn_ack, Stage::Raw);
        assert_eq!(world.state().as_deref(), Some("spliced-userspace"));
    }
}

/// Its outcome was lost with the manager; the next one hears of the same failure and gives the same order.
#[test]
fn an_order_that_has_been_carried_out_is_told_so_again() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1 + REQUEST.len() as u32, OFFER).build();
        world.receive(&syn_ack, Stage::Raw);
        let state = world.state();
        for (id, alternate) in [(7, 2), (8, 3)] {
            let order = world.order(id, 1, alternate, BACKEND_ISN + 1, Vec::new());
            world.engine.handle_order(world.now, order);
            let outcome = Outcome::Elsewhere(world.backend(2));
            assert_eq!(told(&mut world), FromProxy::Ended { id, outcome });
            assert_eq!(world.state(), state);
        }
    }
}

/// The manager is restarted in mid-recovery, and hears only of the alternate that failed meanwhile: the client has nothing of it.
#[test]
fn a_recovery_goes_on_for_a_manager_that_knows_only_of_an_alternates_failure() {
    for (v6, kernel) in ALL {
        for last in [2, 3, 4] {
            let mut world = World::new(v6, kernel);
            world.splice(OFFER, OFFER);
            let logged = b"logged".to_vec();
            for (id, alternate) in [(1, 2), (2, 3)] {
                let order = world.order(id, 1, alternate, BACKEND_ISN + 1, logged.clone());
                world.engine.handle_order(world.now, order);
            }
            let failed = if last == 2 { 3 } else { 2 };
            let order = world.order(9, failed, last, BACKEND_ISN + 70_000, Vec::new());
            world.engine.handle_order(world.now, order);
            let isn = CLIENT_ISN + 1 + REQUEST.len() as u32;
            let syn_ack = world.syn_ack(last, ALTERNATE_ISN, isn, OFFER).build();
            world.receive(&syn_ack, Stage::Raw);
            assert_eq!(world.state().as_deref(), Some("spliced-userspace"));
            let data = world.backend_segment(last, ALTERNATE_ISN + 1, b"on", 1200).build();
            let passed = world.receive(&data, Stage::Raw);
            assert_eq!(segments(&passed)[0].seq(), world.iss + 1 + logged.len() as u32);
        }
    }
}

/// What the client sends along the new way echoes a clock older than the alternate's SYN-ACK: Linux (6.15 and later) refuses that until the
/// handshake has ended.
#[test]
fn the_handshake_has_ended_before_the_new_way_is_open() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        let next = Seq(order.client_next);
        world.engine.handle_order(world.now, order);
        world.sent();
        let mut syn_ack = world.syn_ack(2, ALTERNATE_ISN, next, OFFER).build();
        world.engine.handle_packet(world.now, &mut syn_ack, Stage::Raw);
        let actions: Vec<Action> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let [Action::SendFirst(end), Action::Splice(_) | Action::Park(_), ..] = actions.as_slice() else {
            panic!("{actions:?}");
        };
        let end = TcpSegment::parse(end).unwrap();
        assert_eq!((end.seq(), end.ack(), end.sequence_length()), (next, ALTERNATE_ISN + 1, 0));
    }
}
