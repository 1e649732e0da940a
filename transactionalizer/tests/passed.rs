//! Ends that nobody judged, and ends that were let go, which need not have reached their client.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::Evidence;
use common::{Conn, World, asked, dead, frozen, get, lives, response};
use packet::{Flags, SegmentBuilder};
use transactionalizer::engine::Action;

/// The backend's FIN behind `data` at `at`, that nothing holds.
fn pass_fin(world: &mut World, conn: Conn, at: u32, data: &[u8], asked: u32) {
    let fin = SegmentBuilder {
        seq: conn.backend_isn + 1 + at,
        ack: Some(conn.client_isn + 1 + asked),
        flags: Flags::FIN,
        window: 60_000,
        payload: data,
        ..SegmentBuilder::new(conn.flow.backend, conn.flow.client)
    };
    world.log(fin.build(), true, false);
}

/// Half a response and a FIN that nobody judges; the client acknowledges `taken` bytes.
fn half(world: &mut World, taken: u32) -> (Conn, u32) {
    let (conn, asked) = asked(world, 5000);
    pass_fin(world, conn, 0, &response(1000)[..500], asked);
    world.client(conn, asked, b"", taken);
    assert_eq!(world.actions, []);
    (conn, asked)
}

#[test]
fn a_premature_fin_that_passed_and_is_repeated_is_a_failure() {
    let mut world = World::new();
    let (conn, asked) = half(&mut world, 500);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    let [(evidence, false, report)] = world.reports()[..] else { panic!("{:?}", world.actions) };
    assert_eq!((evidence, report.ack_cl), (Evidence::PrematureFin, (conn.backend_isn + 501).0));
    assert_eq!(report.unrecoverable, None);
}

#[test]
fn one_that_the_client_has_taken_is_not() {
    let mut world = World::new();
    let (conn, asked) = half(&mut world, 501);
    let hold = world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    world.run(3000, dead);
    assert!(world.reports().is_empty());
}

/// Its FIN would be repeated, if there were somebody to repeat it.
#[test]
fn of_a_backend_that_falls_silent_behind_one_the_client_is_reported_as_of_any_other() {
    let mut world = World::new();
    half(&mut world, 500);
    world.run(1000, dead);
    assert_eq!(world.reports()[0].0, Evidence::HostSilent);
}

/// The backend has closed behind a response of so many bytes, which the client has; its FIN was let go.
fn let_go(world: &mut World, bytes: usize) -> (Conn, u32, u32) {
    let (conn, asked) = asked(world, 5000);
    let reply = response(bytes);
    world.backend_flags(conn, Flags::FIN, 0, &reply, asked).unwrap();
    world.client(conn, asked, b"", reply.len() as u32);
    world.run(200, lives);
    (conn, asked, reply.len() as u32)
}

/// The backend has closed an idle connection; its FIN was lost, and its host dies before it repeats that.
#[test]
fn a_request_behind_an_end_that_was_let_go_and_lost_is_not_left_unanswered() {
    let mut world = World::new();
    let (conn, asked, replied) = let_go(&mut world, 100);
    assert_eq!((world.actions.len(), world.counter("released")), (1, 1));
    world.client(conn, asked, &get("/b"), replied);
    world.run(1000, dead);
    let [(Evidence::HostSilent, true, report)] = world.reports()[..] else { panic!("{:?}", world.actions) };
    assert_eq!((report.t_l, report.pending.len()), (1, 1));
}

/// Nothing but the end of the connection may be lacking, and the client has asked for nothing.
#[test]
fn an_idle_end_that_was_let_go_is_no_failure_of_a_backend_that_dies_behind_it() {
    let mut world = World::new();
    let_go(&mut world, 100);
    world.run(5000, dead);
    assert!(world.reports().is_empty());
}

/// Where the connection ends the response, the client waits for that.
#[test]
fn an_end_that_ends_a_response_matters_until_the_client_has_it() {
    let body = b"HTTP/1.1 200 OK\r\n\r\nsome";
    for (taken, failed) in [(0, 1), (1, 0)] {
        let mut world = World::new();
        let (conn, asked) = asked(&mut world, 5000);
        world.backend_flags(conn, Flags::FIN, 0, body, asked).unwrap();
        world.run(200, lives);
        assert_eq!(world.counter("released"), 1);
        world.client(conn, asked, b"", body.len() as u32 + taken);
        world.run(500, frozen);
        assert!(world.reports().is_empty(), "its end is no debt");
        world.run(5000, dead);
        assert_eq!(world.reports().len(), failed);
    }
}
