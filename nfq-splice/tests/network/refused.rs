//! Splices that the kernel refuses.

use nfq_splice::{Action, Stage};
use packet::Seq;

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// What a backend says between the decision for the kernel and its refusal, in the same batch.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it";

#[test]
fn what_passed_before_the_refusal_may_be_acknowledged() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        world.splice(OFFER, OFFER);
        let answer = world.backend_segment(1, BACKEND_ISN + 1, ANSWER, 2000).build();
        world.receive(&answer, Stage::Tracked);
        world.engine.handle_splice_failed(world.now, world.client());
        world.sent();
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let acknowledged = world.client_segment(next, world.iss + 1 + ANSWER.len() as u32, b"").build();
        let sent = world.receive(&acknowledged, Stage::Raw);
        let passed = segments(&sent);
        assert_eq!(passed.len(), 1);
        assert_eq!(
            (passed[0].destination(), passed[0].ack()),
            (world.backend(1), BACKEND_ISN + 1 + ANSWER.len() as u32)
        );
        let forged = world.client_segment(next, world.iss + 2 + ANSWER.len() as u32, b"").build();
        world.receive(&forged, Stage::Raw);
        assert_eq!(world.counter("wrong_ack_dropped"), 1);
    }
}

/// An alternate has spoken, so that the client's packets need not be queued any more; they must be if the kernel refuses.
#[test]
fn packets_stay_queued_where_the_kernel_refuses_what_they_were_queued_for() {
    const ALTERNATE_ISN: Seq = Seq(7_000_000);
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        world.splice(OFFER, OFFER);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        world.receive(&world.syn_ack(2, ALTERNATE_ISN, next, OFFER).build(), Stage::Raw);
        let mut spoken = world.backend_segment(2, ALTERNATE_ISN + 1, b"", 1200).build();
        world.engine.handle_packet(world.now, &mut spoken, Stage::Raw);
        assert!(matches!(world.engine.poll_action(), Some(Action::Splice(_))));
        world.engine.handle_splice_failed(world.now, world.client());
        let wanted: Vec<Action> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let mut places =
            wanted.iter().filter(|wanted| matches!(wanted, Action::Suspend(_) | Action::Resume(_)));
        assert!(matches!(places.next_back(), Some(Action::Suspend(_))), "{wanted:?}");
    }
}
