//! The beginning of a connection, which the fast path translates alone.

use nfq_splice::{Action, Stage};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// A connection that the fast path was given; all else that the engine wanted then.
fn begun() -> (World, Vec<Action>) {
    let mut world = World::new(false, false);
    world.engine.handle_fast_path();
    let syn = world.syn(OFFER).build();
    world.request(&syn);
    let mut syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
    world.engine.handle_packet(world.now, &mut syn_ack, Stage::Tracked);
    let actions = actions(&mut world);
    (world, actions)
}

fn actions(world: &mut World) -> Vec<Action> {
    std::iter::from_fn(|| world.engine.poll_action()).collect()
}

/// What the fast path recorded of both sides, in their own numbers: they have sent so many bytes, perhaps closed, and
/// acknowledged all.
fn passed(world: &mut World, answer: u32, closed: bool) {
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
    let client =
        SegmentBuilder { flags, ..world.client_segment(client_end, world.iss + 1 + answer + fin, b"") };
    for side in [server, client] {
        world.engine.handle_passed(world.now, &side.build());
    }
}

/// It is not young any more: the fast path is asked, and says what passed.
fn grow_up(world: &mut World, answer: u32, closed: bool) -> Vec<Action> {
    world.pass(251);
    world.engine.handle_timeout(world.now);
    assert_eq!(actions(world), [Action::Recall(world.client())]);
    passed(world, answer, closed);
    world.engine.handle_recalled(world.now, world.client());
    actions(world)
}

/// No entry, no set, and the request leaves after the fast path knows the connection.
#[test]
fn a_connection_begins_on_the_fast_path_alone() {
    let (world, actions) = begun();
    assert!(matches!(actions.as_slice(), [Action::Hasten(_), Action::Send(_)]), "{actions:?}");
    assert_eq!(world.state().as_deref(), Some("spliced-young"));
}

#[test]
fn what_ended_while_it_was_young_leaves_nothing() {
    let (mut world, _) = begun();
    assert_eq!(grow_up(&mut world, 1000, true), []);
    assert_eq!(world.engine.status().total, 0);
    assert_eq!(world.counter("connections_ended"), 1);
}

/// In the set, and with an entry for the next daemon.
#[test]
fn what_lives_on_is_queued_from_then_on() {
    let (mut world, _) = begun();
    let actions = grow_up(&mut world, 1000, false);
    assert!(matches!(actions.as_slice(), [Action::Suspend(_), Action::Park(_)]), "{actions:?}");
}

/// The map is full, say.
#[test]
fn what_the_fast_path_does_not_take_is_queued_at_once() {
    let (mut world, _) = begun();
    world.engine.handle_recalled(world.now, world.client());
    let actions = actions(&mut world);
    assert!(matches!(actions.as_slice(), [Action::Suspend(_), Action::Park(_)]), "{actions:?}");
}

/// What the fast path leaves alone comes after conntrack and is sent anew, in the other side's numbers.
#[test]
fn odd_segments_of_a_young_connection_are_translated_here() {
    let (mut world, _) = begun();
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
        let (mut world, _) = begun();
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
    let (world, actions) = begun();
    let Some(Action::Hasten(parked)) = actions.first() else { panic!("{actions:?}") };
    let parked = nfq_splice::Parked::new(parked.splice, parked.rest());
    let mut later = World::new(false, false);
    (later.iss, later.stamps, later.stamp) = (world.iss, world.stamps, world.stamp);
    later.engine.handle_fast_path();
    later.engine.handle_parked(later.now, &parked);
    (later, world.iss)
}

/// It goes on in user space.
#[test]
fn another_daemon_takes_it_over() {
    let (mut later, iss) = taken_over();
    let segment = later.backend_segment(1, BACKEND_ISN + 1, b"answer", 2000).build();
    let sent = later.receive(&segment, Stage::Raw);
    assert_eq!(segments(&sent)[0].seq(), iss + 1);
}

/// Both sides have closed, but the client may lack the last of it: it is repeated, and then all is forgotten.
#[test]
fn another_daemon_hears_the_end_of_what_closed_before() {
    let (mut later, iss) = taken_over();
    passed(&mut later, 1000, true);
    let last = later.backend_segment(1, BACKEND_ISN + 501, &[7; 500], 2000);
    let sent = later.receive(&SegmentBuilder { flags: Flags::FIN, ..last }.build(), Stage::Raw);
    assert_eq!(segments(&sent)[0].seq(), iss + 501);
    later.pass(11_000);
    later.engine.handle_timeout(later.now);
    assert_eq!(later.engine.status().total, 0);
}
