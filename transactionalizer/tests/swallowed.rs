//! What a client sends into the fence of its failed backend: no part of the failed connection, and told behind its report.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{SWALLOWED_BYTES, Swallowed};
use common::{CONFIG, Conn, World, b1, b2, conn, get, response};
use packet::{Flags, SegmentBuilder};
use transactionalizer::engine::Action;

const UPDATE: &[u8] = b"POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

/// The stream offset behind the one request that was answered.
fn asked() -> u32 {
    get("/a").len() as u32
}

fn into_fence(world: &mut World, conn: Conn, at: u32, data: &[u8]) {
    let mut segment = SegmentBuilder::new(conn.flow.client, conn.flow.backend);
    (segment.seq, segment.ack) = (conn.client_isn + 1 + at, Some(conn.backend_isn + 1));
    (segment.timestamps, segment.payload) = (Some((77, 5)), data);
    world.swallow(segment.build());
}

/// A connection with one answered request, whose backend then ends it; when the fence holds, that is reported.
fn failing(world: &mut World, conn: Conn) {
    world.open(conn);
    common::serve(world, conn, 0, 1);
    let (at, _) = common::ask(world, conn, 1);
    world.actions.clear();
    world.fences_are_slow = true;
    world.backend_flags(conn, Flags::RST, response(100).len() as u32, b"", at);
}

/// The bytes that are told of, with their stream offsets, and whether that comes behind the report.
fn told(world: &World, conn: Conn) -> Vec<(u32, Vec<u8>)> {
    let mut reported = None;
    let mut told = Vec::new();
    for action in &world.actions {
        match action {
            Action::Failed(failure) => reported = Some(failure.connections[0].client_next),
            Action::Swallowed(Swallowed { flow, client_next, seq, timestamp, bytes }) => {
                assert_eq!((*flow, Some(*client_next), *timestamp), (conn.flow, reported, Some(77)));
                told.push((seq.wrapping_sub((conn.client_isn + 1).0), bytes.clone()));
            }
            _ => {}
        }
    }
    told
}

#[test]
fn an_update_that_only_the_fence_saw_is_told_behind_the_report_and_no_part_of_it() {
    let mut world = World::new();
    let conn = conn(1, b1());
    failing(&mut world, conn);
    let at = 2 * asked();
    into_fence(&mut world, conn, at, UPDATE);
    assert!(told(&world, conn).is_empty() && world.reports().is_empty(), "not before the fence holds");
    world.fenced();
    {
        let reports = world.reports();
        let report = reports[0].2;
        assert_eq!(report.client_next, (conn.client_isn + 1 + at).0);
        let pending: Vec<&str> = report.pending.iter().map(|request| request.summary.as_str()).collect();
        assert_eq!((pending, report.unrecoverable.clone()), (vec!["GET /a"], None));
    }
    assert_eq!(told(&world, conn), [(at, UPDATE.to_vec())]);
    // What comes after the report is told at once.
    into_fence(&mut world, conn, at + UPDATE.len() as u32, b"GET");
    assert_eq!(told(&world, conn)[1..], [(at + UPDATE.len() as u32, b"GET".to_vec())]);
    assert_eq!(world.counter("swallowed"), 2);
    assert_eq!(world.engine.status().counters["kept_bytes_now"], 0);
}

#[test]
fn what_was_logged_before_the_fence_is_not_told_again() {
    let mut world = World::new();
    let conn = conn(1, b1());
    failing(&mut world, conn);
    into_fence(&mut world, conn, asked(), &get("/a"));
    world.fenced();
    into_fence(&mut world, conn, asked(), &get("/a"));
    assert!(told(&world, conn).is_empty());
    let longer = [get("/a"), b"GET /b".to_vec()].concat();
    into_fence(&mut world, conn, asked(), &longer);
    assert_eq!(told(&world, conn), [(asked(), longer)]);
}

#[test]
fn there_is_a_bound_for_each_connection_and_for_all() {
    let mut world = World::new();
    let one = conn(1, b1());
    failing(&mut world, one);
    for part in 0..=8 {
        into_fence(&mut world, one, 2 * asked() + part * 8192, &[b'x'; 8192]);
        if part == 3 {
            world.fenced();
        }
    }
    let bytes: usize = told(&world, one).iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((bytes, world.counter("swallowed_limit_dropped")), (SWALLOWED_BYTES, 1));
    // At one moment some are told of, of many; later others may be.
    let mut passed = 0;
    for port in 2..200 {
        let conn = conn(port, b2());
        failing(&mut world, conn);
        into_fence(&mut world, conn, 2 * asked(), &vec![b'x'; 60_000]);
        world.fenced();
        passed += told(&world, conn).len();
    }
    assert!((130..=140 * 2).contains(&passed), "{passed}");
    world.pass(1000);
    let conn = conn(200, b2());
    failing(&mut world, conn);
    into_fence(&mut world, conn, 2 * asked(), &vec![b'x'; 60_000]);
    world.fenced();
    assert_eq!(told(&world, conn).len(), 1);
}

#[test]
fn what_waits_counts_as_kept() {
    let config = CONFIG.replace("[recovery]", "[recovery]\nkept_bytes = 65536");
    let mut world = World::with(&config);
    for port in 1..=2 {
        let conn = conn(port, b1());
        failing(&mut world, conn);
        into_fence(&mut world, conn, 2 * asked(), &vec![b'x'; 40_000]);
    }
    assert_eq!(world.counter("swallowed_limit_dropped"), 1);
    world.fenced();
    assert!(world.reports().iter().all(|(_, _, report)| report.unrecoverable.is_none()));
}

#[test]
fn of_flows_that_are_not_known_or_cannot_be_recovered_nothing_is_told() {
    let mut world = World::new();
    into_fence(&mut world, conn(9, b1()), 0, UPDATE);
    let conn = conn(1, b1());
    failing(&mut world, conn);
    world.client(conn, 2 * asked(), b"no HTTP\r\n\r\n", 0);
    into_fence(&mut world, conn, 2 * asked() + 11, UPDATE);
    world.fenced();
    into_fence(&mut world, conn, 2 * asked() + 11, UPDATE);
    assert!(world.reports()[0].2.unrecoverable.is_some());
    assert!(told(&world, conn).is_empty());
}

fn kept(world: &World, conn: Conn) -> Vec<u32> {
    let offset = |swallowed: &Swallowed| swallowed.seq.wrapping_sub((conn.client_isn + 1).0);
    world.engine.unended_swallowed().map(offset).collect()
}

/// The one that was told, or might have been, is gone.
#[test]
fn a_later_manager_is_told_of_it_as_long_as_the_recovery_has_not_ended() {
    let mut world = World::new();
    let conn = conn(1, b1());
    failing(&mut world, conn);
    let at = 2 * asked();
    into_fence(&mut world, conn, at, UPDATE);
    world.fenced();
    world.engine.handle_managers(0);
    into_fence(&mut world, conn, at + 100, UPDATE);
    assert_eq!(told(&world, conn).len(), 1, "nobody is there");
    assert_eq!(kept(&world, conn), [at, at + 100]);
    let report = world.engine.unended().next().unwrap().connections.remove(0);
    assert!(world.engine.unended_swallowed().all(|swallowed| swallowed.client_next == report.client_next));
    world.engine.handle_ended(conn.flow.client, Some(b2()));
    assert!(kept(&world, conn).is_empty());
}

/// Both have died, and the client is to be on another backend already.
#[test]
fn a_later_transactionalizer_finds_it_in_the_log_for_a_later_manager() {
    let mut world = World::new();
    world.engine = World::starting().engine;
    let first = conn(1, b1());
    world.open(first);
    world.client(first, 0, &get("/a"), 0);
    into_fence(&mut world, first, asked(), UPDATE);
    world.syn(Conn { client_isn: first.client_isn, ..conn(1, b2()) });
    world.engine.handle_live(world.now);
    assert_eq!((world.engine.unended().count(), kept(&world, first)), (1, vec![asked()]));
    assert!(told(&world, first).is_empty());
}
