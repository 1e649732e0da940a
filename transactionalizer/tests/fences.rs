//! What is fenced, by whom, and what passes before the fence holds.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

mod common;

use common::*;
use packet::{Flags, Seq};
use transactionalizer::detector::probing::Answer;
use transactionalizer::engine::Action;

/// Its packets passed before the fence did, which then hit it.
#[test]
fn a_connection_that_is_opened_before_the_fence_holds_fails_with_the_one_before() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let first = conn(5000, b1());
    world.handshake(first);
    world.backend_flags(first, Flags::RST, 0, b"", 0).unwrap();
    world.run(1, |_| Some(Answer::Refused));
    assert!(world.actions.contains(&Action::Fence(first.flow)));
    let second = Conn { backend_isn: Seq(77_000), ..first };
    half(&mut world, second);
    world.fenced();
    assert_eq!(world.reports().len(), 0, "that connection is gone");
    world.run(1, |_| None);
    world.fenced();
    let reports = world.reports();
    assert_eq!((reports[0].2.ack_cl, reports[0].2.unacked.len()), (77_001, 500));
}

/// It died before it had said that the fence holds: its successor, which may have no fence, must not be taken at its word.
#[test]
fn the_next_logger_is_told_of_fences_before_it_is_asked_whether_they_hold() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    let mut again = vec![];
    world.engine.fence_again(&mut again);
    assert_eq!(again, [Action::Fence(conn.flow), Action::Barrier(1)]);
    assert_eq!(world.reports().len(), 0);
    world.fenced();
    assert_eq!(world.reports().len(), 1);
    again.clear();
    world.engine.fence_again(&mut again);
    assert_eq!(again, [Action::Fence(conn.flow)], "nothing is left to be asked");
}

/// Its SYN has lifted the fence, and its SYN-ACK is under way: a fence would take that SYN for its own connection's.
#[test]
fn what_is_being_opened_anew_is_not_fenced_again() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let first = conn(5000, b1());
    let asked = half(&mut world, first);
    world.backend_flags(first, Flags::FIN, 500, b"", asked).unwrap();
    world.syn(first);
    let mut again = vec![];
    world.engine.fence_again(&mut again);
    assert_eq!(
        again,
        [Action::Fence(first.flow), Action::Barrier(1)],
        "that SYN may have passed before the fence"
    );
    world.fenced();
    world.syn(Conn { client_isn: first.client_isn + 1000, ..first });
    again.clear();
    world.engine.fence_again(&mut again);
    assert_eq!(again, []);
}

/// A restarted transactionalizer takes a client's SYN to an earlier backend that was logged late for its move there: it may be
/// wrong, and has fenced nothing.
#[test]
fn only_what_was_fenced_is_fenced_again() {
    let mut world = World::starting();
    let (refused, used) = (conn(5000, b2()), conn(5000, b1()));
    world.open(used);
    world.syn(refused);
    world.engine.handle_live(world.now);
    let mut again = vec![];
    world.engine.fence_again(&mut again);
    assert_eq!(again, []);
}

/// It died between its fence and its report.
#[test]
fn what_a_predecessor_fenced_is_reported() {
    let mut world = World::new();
    let (fenced, failed) = (conn(5000, b1()), conn(5001, b1()));
    half(&mut world, fenced);
    let asked = half(&mut world, failed);
    world.backend_flags(failed, Flags::FIN, 500, b"", asked).unwrap();
    world.engine.handle_fences(&[fenced.flow, failed.flow], world.now);
    world.run(1, |_| None);
    let flows: Vec<_> = world.reports().iter().map(|(_, _, report)| report.flow).collect();
    assert_eq!(flows, [failed.flow, fenced.flow]);
}

/// It had suppressed a RST that its successor, which finds the backend alive again, takes for the ordinary end of an idle connection.
#[test]
fn what_is_released_of_what_a_predecessor_fenced_did_not_pass() {
    let mut world = World::starting();
    let conn = conn(5000, b1());
    world.open(conn);
    world.backend_flags(conn, Flags::RST, 0, b"", 0);
    world.engine.handle_live(world.now);
    world.engine.handle_managers(1);
    world.run(300, lives);
    assert_eq!(world.reports().len(), 0);
    assert!(world.actions.iter().any(|action| matches!(action, Action::Release(_))), "{:?}", world.actions);
    world.engine.handle_fences(&[conn.flow], world.now);
    world.run(1, lives);
    let flows: Vec<_> = world.reports().iter().map(|(_, _, report)| report.flow).collect();
    assert_eq!(flows, [conn.flow]);
}

/// The same, and it hears of the fence before a manager is there.
#[test]
fn what_a_predecessor_fenced_is_not_released_before_a_manager_comes() {
    let mut world = World::starting();
    let conn = conn(5000, b1());
    world.open(conn);
    world.backend_flags(conn, Flags::RST, 0, b"", 0);
    world.engine.handle_managers(0);
    world.engine.handle_live(world.now);
    world.engine.handle_fences(&[conn.flow], world.now);
    world.run(300, lives);
    assert!(!world.actions.iter().any(|action| matches!(action, Action::Release(_))), "{:?}", world.actions);
    world.engine.handle_managers(1);
    world.run(1, lives);
    assert_eq!(world.reports().len(), 1);
}

/// The backend's kernel has sent its FIN, but still acknowledges what comes: the client will not say it again.
#[test]
fn what_passes_before_the_fence_holds_counts_also_after_a_fin() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, reply) = (get("/a").len() as u32, response(100).len() as u32);
    world.client(conn, 0, &get("/a"), 0);
    world.backend(conn, 0, &response(100)[..50], asked);
    world.backend_flags(conn, Flags::FIN, 50, b"", asked).unwrap();
    world.client(conn, asked, &get("/a"), 50.min(reply));
    world.fenced();
    let reports = world.reports();
    assert_eq!(
        (reports[0].2.pending.len(), reports[0].2.client_next),
        (2, (conn.client_isn + 1 + 2 * asked).0)
    );
}

/// Its own backend's kernel has not sent a FIN yet on this connection, and goes on sending: the client has sent its own, and another
/// connection has shown that the backend is dead.
#[test]
fn what_passes_before_the_fence_holds_counts_also_where_another_connection_ended() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let (one, asked_one) = asked(&mut world, 5000);
    let (other, asked_other) = asked(&mut world, 5001);
    let full = response(1000);
    let (beginning, rest) = full.split_at(500);
    world.client_flags(one, Flags::FIN, asked_one, b"", 0);
    world.backend(one, 0, beginning, asked_one + 1);
    world.backend(other, 0, beginning, asked_other);
    world.backend_flags(other, Flags::FIN, 500, b"", asked_other).unwrap();
    world.run(5, |_| Some(Answer::Refused));
    assert!(world.reports().is_empty(), "the fence does not hold yet");
    world.backend(one, 500, &rest[..200], asked_one + 1);
    world.fenced();
    let reports = world.reports();
    let report = &reports.iter().find(|(_, _, report)| report.flow == one.flow).unwrap().2;
    assert_eq!(report.partial.head.len() as u64 + report.partial.body_bytes, 700);
}
