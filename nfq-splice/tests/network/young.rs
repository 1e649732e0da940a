//! The beginning of a connection, which the fast path translates alone.

use nfq_splice::{Action, Stage};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// A connection that the fast path was given; all else that the engine wanted then.
fn begun(kernel: bool) -> (World, Vec<Action>) {
    let mut world = beginning(kernel);
    let actions = actions(&mut world);
    (world, actions)
}

/// One that it is to be given.
fn beginning(kernel: bool) -> World {
    let mut world = World::new(false, kernel);
    world.engine.handle_fast_path();
    let syn = world.syn(OFFER).build();
    world.request(&syn);
    let mut syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
    world.engine.handle_packet(world.now, &mut syn_ack, Stage::Tracked);
    world
}

fn actions(world: &mut World) -> Vec<Action> {
    std::iter::from_fn(|| world.engine.poll_action()).collect()
}

/// What the fast path recorded of both sides, in their own numbers: they have sent so many bytes, perhaps closed, and
/// acknowledged all. The client's window is closed.
fn passed(world: &mut World, answer: u32, closed: bool) {
    passed_but(world, answer, closed, 0);
}

/// The client lacks the last bytes.
fn passed_but(world: &mut World, answer: u32, closed: bool, lacks: u32) {
    let (client_end, fin) = (CLIENT_ISN + 1 + REQUEST.len() as u32, u32::from(closed));
    let flags = if closed { Flags::FIN } else { Flags(0) };
    let server = SegmentBuilder {
        seq: BACKEND_ISN + 1 + answer,
        ack: Some(client_end + fin),
        flags,
        window: 500,
        timestamps: Some((2000, 1100)),
        ..SegmentBuilder::new(world.service(), world.client())
    };
    let bare = world.client_segment(client_end, world.iss + 1 + answer + fin - lacks, b"");
    let client = SegmentBuilder { flags, window: 0, ..bare };
    for side in [server, client] {
        world.engine.handle_passed(world.now, &side.build());
    }
}

/// It is not young any more: the fast path is asked, and says what passed.
fn grow_up(world: &mut World, answer: u32, closed: bool) -> Vec<Action> {
    let client = world.client();
    come_of_age(world);
    passed(world, answer, closed);
    world.engine.handle_looked(world.now, client);
    if closed {
        assert_eq!(actions(world), [Action::Recall(client)]);
        world.engine.handle_recalled(world.now, client);
    }
    actions(world)
}

/// It stays on the fast path, where a daemon after this one would find it.
fn come_of_age(world: &mut World) {
    world.pass(251);
    world.engine.handle_timeout(world.now);
    assert_eq!(actions(world), [Action::Look(world.client())]);
}

/// A daemon that dies after any of them leaves something of the connection: in the map, until there is an entry.
fn is_queued(actions: &[Action]) -> bool {
    matches!(actions, [Action::Park(_), Action::Suspend(_), Action::Record(_)])
}

/// No entry, no set, and the request leaves after the fast path knows the connection.
#[test]
fn a_connection_begins_on_the_fast_path_alone() {
    for kernel in [true, false] {
        let (world, actions) = begun(kernel);
        assert!(matches!(actions.as_slice(), [Action::Hasten(_), Action::Send(_)]), "{actions:?}");
        assert_eq!(world.state().as_deref(), Some("spliced-young"));
    }
}

#[test]
fn what_ended_while_it_was_young_leaves_nothing() {
    let (mut world, _) = begun(true);
    assert_eq!(grow_up(&mut world, 1000, true), []);
    assert_eq!(world.engine.status().total, 0);
    assert_eq!(world.counter("connections_ended"), 1);
}

/// The fast path has answered another SYN of its client, and has nothing of it any more.
#[test]
fn what_was_displaced_leaves_nothing() {
    for kernel in [true, false] {
        let (mut world, _) = begun(kernel);
        come_of_age(&mut world);
        world.engine.handle_displaced(world.now, world.client());
        assert_eq!(actions(&mut world), []);
        assert_eq!((world.engine.status().total, world.counter("connections_ended")), (0, 1));
    }
}

/// A segment that claims to end it took it off the fast path, and was none of the client's: a daemon that dies now leaves an entry.
#[test]
fn what_a_forged_reset_took_off_the_fast_path_is_kept_for_the_next_daemon_at_once() {
    for kernel in [true, false] {
        let (mut world, _) = begun(kernel);
        let forged = world.client_segment(CLIENT_ISN + 100_000, world.iss + 1, b"");
        let forged = SegmentBuilder { flags: Flags::RST, ..forged }.build();
        world.engine.handle_packet(world.now, &mut forged.clone(), Stage::Tracked);
        actions(&mut world);
        world.engine.handle_set_aside(world.now, world.client());
        let actions = actions(&mut world);
        let kept = matches!(actions.first(), Some(Action::Splice(_) | Action::Park(_)));
        assert!(kept, "{actions:?}");
        assert_ne!(world.state().as_deref(), Some("spliced-young"));
    }
}

/// As configured: an entry, or the set and an entry for the next daemon.
#[test]
fn what_lives_on_goes_the_configured_way() {
    let (mut world, _) = begun(true);
    let actions = grow_up(&mut world, 1000, false);
    let [Action::Splice(_), Action::Send(probe)] = &actions[..] else { panic!("{actions:?}") };
    let probe = TcpSegment::parse(probe).unwrap();
    let client_end = CLIENT_ISN + 1 + REQUEST.len() as u32;
    assert_eq!((probe.seq(), probe.ack()), (client_end - 1, BACKEND_ISN + 1001), "conntrack sees the answer");
    assert_eq!(probe.destination(), world.backend(1));
    assert_eq!(probe.window(), 0, "the log would wait for a backend that has no room");
    assert_eq!(world.state().as_deref(), Some("spliced-kernel"));
    let (mut world, _) = begun(false);
    let actions = grow_up(&mut world, 1000, false);
    assert!(is_queued(&actions), "{actions:?}");
}

/// Conntrack would wait for the FIN that it has not seen.
#[test]
fn what_has_closed_on_one_side_is_no_entry() {
    let (mut world, _) = begun(true);
    come_of_age(&mut world);
    let client = world.client_segment(CLIENT_ISN + 1 + REQUEST.len() as u32, world.iss + 1, b"");
    let closed = SegmentBuilder { flags: Flags::FIN, ..client }.build();
    world.engine.handle_passed(world.now, &closed);
    world.engine.handle_looked(world.now, world.client());
    let actions = actions(&mut world);
    assert!(is_queued(&actions), "{actions:?}");
}

/// After the look, before its packets were queued.
#[test]
fn what_ends_as_it_is_queued_is_forgotten_after_a_while() {
    let (mut world, _) = begun(false);
    assert!(is_queued(&grow_up(&mut world, 1000, false)));
    passed(&mut world, 1000, true);
    let actions = actions(&mut world);
    assert!(matches!(actions.as_slice(), [Action::Unsplice(_)]), "{actions:?}");
    world.pass(10_001);
    world.engine.handle_timeout(world.now);
    assert_eq!(world.engine.status().total, 0);
}

/// Between the look and the entry.
#[test]
fn what_closed_unseen_by_its_entry_goes_on_in_user_space() {
    let (mut world, _) = begun(true);
    grow_up(&mut world, 1000, false);
    world.engine.handle_splice_failed(world.now, world.client());
    passed(&mut world, 1000, true);
    let actions = actions(&mut world);
    let Some((Action::Unsplice(_), before)) = actions.split_last() else { panic!("{actions:?}") };
    assert!(is_queued(before), "{actions:?}");
    world.pass(10_001);
    world.engine.handle_timeout(world.now);
    assert_eq!(world.engine.status().total, 0);
}

/// The map is full, say.
#[test]
fn what_the_fast_path_does_not_take_goes_the_configured_way_once_its_backend_speaks() {
    let (mut world, _) = begun(true);
    world.engine.handle_recalled(world.now, world.client());
    assert!(is_queued(&actions(&mut world)));
    let sent = world.receive(&world.backend_segment(1, BACKEND_ISN + 1, b"HTTP", 2000).build(), Stage::Raw);
    assert_eq!(segments(&sent).last().map(TcpSegment::payload), Some(&b"HTTP"[..]));
    assert_eq!((world.splices.len(), world.state().as_deref()), (1, Some("spliced-kernel")));
}

/// A daemon that died in between would let them be said again.
#[test]
fn what_the_fast_path_does_not_take_is_kept_for_the_next_daemon_before_its_bytes_go() {
    for kernel in [true, false] {
        let mut world = beginning(kernel);
        assert!(matches!(world.engine.poll_action(), Some(Action::Hasten(_))));
        world.engine.handle_recalled(world.now, world.client());
        let actions = actions(&mut world);
        let [kept @ .., Action::Send(request)] = &actions[..] else { panic!("{actions:?}") };
        assert!(is_queued(kept), "{actions:?}");
        assert_eq!(TcpSegment::parse(request).unwrap().payload(), REQUEST);
    }
}

/// Conntrack would believe an answer to a forged acknowledgement then.
#[test]
fn a_connection_whose_backend_has_not_spoken_is_not_conntracks() {
    let (mut world, _) = begun(true);
    come_of_age(&mut world);
    world.engine.handle_looked(world.now, world.client());
    assert!(is_queued(&actions(&mut world)));
    world.receive(&world.backend_segment(1, BACKEND_ISN + 1, b"", 2000).build(), Stage::Raw);
    assert_eq!((world.splices.len(), world.state().as_deref()), (1, Some("spliced-kernel")));
}

/// What the fast path leaves alone comes after conntrack and is sent anew, in the other side's numbers.
#[test]
fn odd_segments_of_a_young_connection_are_translated_here() {
    let (mut world, _) = begun(true);
    let segment = world.backend_segment(1, BACKEND_ISN + 1, b"answer", 2000);
    let urgent = SegmentBuilder { flags: Flags::PSH, ..segment }.build();
    let sent = world.receive(&urgent, Stage::Tracked);
    let sent = segments(&sent);
    assert_eq!(
        (sent[0].seq(), sent[0].source(), sent[0].payload()),
        (world.iss + 1, world.service(), &b"answer"[..])
    );
}

/// A port that comes round before the connection is looked at again.
#[test]
fn a_new_connection_of_the_same_port_is_accepted_after_the_end_of_a_young_one() {
    for closed in [true, false] {
        let (mut world, _) = begun(true);
        passed(&mut world, 1000, closed);
        let syn = SegmentBuilder { seq: Seq(70_000), ..world.syn(OFFER) }.build();
        let sent = world.receive(&syn, Stage::Fresh);
        let answer = TcpSegment::parse(&sent[0]).unwrap();
        assert_eq!(answer.flags().syn(), closed, "otherwise a challenge");
        assert_eq!(answer.ack() == Seq(70_001), closed);
    }
}

/// The world with the daemon after this one's, which found the connection in the fast path's map.
fn taken_over() -> (World, Seq) {
    let (world, actions) = begun(true);
    let Some(Action::Hasten(parked)) = actions.first() else { panic!("{actions:?}") };
    let parked = nfq_splice::Parked::new(parked.splice, parked.rest());
    let mut later = World::new(false, true);
    (later.iss, later.stamps, later.stamp) = (world.iss, world.stamps, world.stamp);
    later.engine.handle_fast_path();
    later.engine.handle_young(later.now, &parked);
    (later, world.iss)
}

/// As configured.
#[test]
fn another_daemon_takes_it_over() {
    let (mut later, _) = taken_over();
    passed(&mut later, 1000, false);
    later.engine.handle_recalled(later.now, later.client());
    let actions = actions(&mut later);
    assert!(matches!(actions.as_slice(), [Action::Splice(_), Action::Send(_)]), "{actions:?}");
}

/// Of what the fast path got only the client's side has passed, if that: what ended the handshake may have been lost. Conntrack would
/// believe an answer to a forged acknowledgement.
#[test]
fn another_daemon_translates_itself_what_no_backend_has_spoken_on() {
    let (mut later, _) = taken_over();
    let forged = later.client_segment(CLIENT_ISN + 2000, later.iss + 1_500_000_000, b"");
    later.engine.handle_passed(later.now, &forged.build());
    later.engine.handle_recalled(later.now, later.client());
    assert!(is_queued(&actions(&mut later)));
    later.receive(&later.backend_segment(1, BACKEND_ISN + 1, b"HTTP", 2000).build(), Stage::Raw);
    assert_eq!((later.splices.len(), later.state().as_deref()), (1, Some("spliced-kernel")));
}

/// One side has closed.
#[test]
fn another_daemon_translates_itself_what_is_half_closed() {
    let (mut later, iss) = taken_over();
    let last = later.backend_segment(1, BACKEND_ISN + 1, b"", 1000);
    later.engine.handle_passed(later.now, &SegmentBuilder { flags: Flags::FIN, ..last }.build());
    later.engine.handle_recalled(later.now, later.client());
    let actions = actions(&mut later);
    assert!(is_queued(&actions), "{actions:?}");
    let segment = later.backend_segment(1, BACKEND_ISN + 1, b"answer", 2000).build();
    let sent = later.receive(&segment, Stage::Raw);
    assert_eq!(segments(&sent)[0].seq(), iss + 1);
}

/// Both sides have closed, but the client may lack the last of it: it is repeated, and then all is forgotten.
#[test]
fn another_daemon_hears_the_end_of_what_closed_before() {
    let (mut later, iss) = taken_over();
    passed_but(&mut later, 1000, true, 501);
    later.engine.handle_recalled(later.now, later.client());
    let last = later.backend_segment(1, BACKEND_ISN + 501, &[7; 500], 2000);
    let sent = later.receive(&SegmentBuilder { flags: Flags::FIN, ..last }.build(), Stage::Raw);
    assert_eq!(segments(&sent)[0].seq(), iss + 501);
    later.pass(11_000);
    later.engine.handle_timeout(later.now);
    assert_eq!(later.engine.status().total, 0);
}

/// The client's first data are lost on the way to the backend, and what comes first was forged: the backend resets what that acknowledges,
/// in a handshake that has not ended. That is no end of the connection, whose place nobody may take.
#[test]
fn an_answer_to_a_forged_acknowledgement_ends_nothing() {
    for forged in [BACKEND_ISN + 1_500_000_000, BACKEND_ISN - 1_500_000_000] {
        let (mut world, _) = begun(false);
        let reset = SegmentBuilder {
            seq: forged,
            ack: None,
            flags: Flags::RST,
            ..world.backend_segment(1, forged, b"", 0)
        };
        assert_eq!(world.receive(&reset.build(), Stage::Tracked).len(), 0);
        assert_eq!(world.counter("rst_of_backend_outside_window_dropped"), 1);
        let syn = SegmentBuilder { seq: Seq(99), ..world.syn(OFFER) }.build();
        let sent = world.request(&syn);
        let challenge = segments(&sent)[0];
        assert!(!challenge.flags().syn() && challenge.flags().ack(), "{challenge:?}");
    }
}
