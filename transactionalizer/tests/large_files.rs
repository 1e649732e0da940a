//! The large-file rule: which bodies are left out of the log, and what a report says of them.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{ConnectionReport, LargeBody, Stretch};
use common::{CONFIG, Conn, World, b1, conn, dead, get};
use packet::Flags;
use segment_log::LeftOut;
use transactionalizer::engine::Action;
use xxhash_rust::xxh3::xxh3_128;

const BODY: usize = 1_000_000;
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: \"v\"\r\n\r\n";

fn world() -> World {
    World::with(&CONFIG.replace("idempotent = true\n", "idempotent = true\nlarge_file = true\n"))
}

fn body() -> Vec<u8> {
    (0..BODY).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// The request, the head and the first 1000 body bytes.
fn begun(world: &mut World, head: &str) -> Conn {
    let c = conn(1, b1());
    world.open(c);
    world.client(c, 0, &get("/f.iso"), 0);
    let first = [head.as_bytes(), &body()[..1000]].concat();
    world.backend(c, 0, &first, get("/f.iso").len() as u32);
    c
}

/// Body bytes that were left out, hashed from `since` on.
fn leave_out(world: &mut World, c: Conn, since: usize, from: usize, to: usize) {
    let at = |place: usize| (HEAD.len() + place) as u32;
    let left_out = LeftOut {
        bytes: (to - from) as u32,
        since: (c.backend_isn + 1 + at(since)).0,
        hash: xxh3_128(&body()[since..to]),
    };
    world.backend_left_out(c, at(from), left_out, get("/f.iso").len() as u32);
}

fn acknowledge(world: &mut World, c: Conn, body: usize) {
    world.client(c, get("/f.iso").len() as u32, b"", (HEAD.len() + body) as u32);
}

fn orders(world: &World) -> Vec<LargeBody> {
    let order = |action: &Action| match action {
        Action::LeaveOut(body) => Some(*body),
        _ => None,
    };
    world.actions.iter().filter_map(order).collect()
}

/// The whole backend fails.
fn report(world: &mut World) -> ConnectionReport {
    world.run(30_000, dead);
    let reports = world.reports();
    assert_eq!(reports.len(), 1);
    reports[0].2.clone()
}

fn stretch(from: usize, to: usize) -> Stretch {
    Stretch { bytes: (to - from) as u64, hash: xxh3_128(&body()[from..to]) }
}

#[test]
fn the_logger_is_told_of_a_body_that_can_be_had_again() {
    let mut world = world();
    let c = begun(&mut world, HEAD);
    let from = (c.backend_isn + 1 + HEAD.len() as u32).0;
    let body = LargeBody { flow: c.flow, client_isn: c.client_isn.0, from, bytes: BODY as u64 };
    assert_eq!(orders(&world), [body]);
    assert_eq!(world.counter("large_bodies"), 1);
}

#[test]
fn no_other_body_is_left_out() {
    for head in [
        HEAD.replace("ETag: \"v\"\r\n", ""),
        HEAD.replace("\"v\"", "W/\"v\""),
        HEAD.replace("Content-Length: 1000000", "Transfer-Encoding: chunked"),
        HEAD.replace("Content-Length: 1000000", "Content-Length: 60000"),
        HEAD.replace("ETag", "Content-Encoding: gzip\r\nETag"),
        HEAD.replace("ETag", "Accept-Ranges: none\r\nETag"),
        HEAD.replace("200 OK", "404 Not Found"),
    ] {
        let mut world = world();
        begun(&mut world, &head);
        assert_eq!(orders(&world), [], "{head}");
    }
    let mut untagged = World::new();
    begun(&mut untagged, HEAD);
    assert_eq!(orders(&untagged), []);
}

#[test]
fn a_report_ends_where_the_client_lacks_what_was_left_out() {
    let mut world = world();
    let c = begun(&mut world, HEAD);
    leave_out(&mut world, c, 1000, 1000, 20_000);
    leave_out(&mut world, c, 1000, 20_000, 50_000);
    acknowledge(&mut world, c, 30_000);
    leave_out(&mut world, c, 1000, 50_000, 70_000);
    let report = report(&mut world);
    assert_eq!((report.unrecoverable, report.t_l, report.unacked.len()), (None, 0, 0));
    let partial = report.partial;
    assert_eq!((partial.body_bytes, partial.left_out, partial.tail.len()), (30_000, 40_000, 0));
    assert_eq!(partial.hashes, [stretch(0, 1000), stretch(1000, 20_000)]);
    assert_eq!(report.ack_cl, report.ack_tl.wrapping_add((HEAD.len() + 30_000) as u32));
}

#[test]
fn what_was_logged_whole_before_is_sent_again_from_the_log() {
    let mut world = world();
    let c = begun(&mut world, HEAD);
    leave_out(&mut world, c, 1000, 1000, 20_000);
    let report = report(&mut world);
    assert_eq!(report.unacked, [HEAD.as_bytes(), &body()[..1000]].concat());
    assert_eq!((report.partial.body_bytes, report.partial.left_out), (1000, 19_000));
    assert_eq!(report.partial.tail, body()[..1000]);
    assert_eq!(report.partial.hashes, [stretch(0, 1000)]);
}

#[test]
fn what_the_client_has_counts_as_logged() {
    let mut world = world();
    let c = begun(&mut world, HEAD);
    leave_out(&mut world, c, 1000, 1000, 20_000);
    acknowledge(&mut world, c, 20_000);
    let partial = report(&mut world).partial;
    assert_eq!((partial.body_bytes, partial.left_out), (20_000, 0));
    assert_eq!(partial.hashes, [stretch(0, 1000), stretch(1000, 20_000)]);
    assert!(partial.is_hashed());
}

/// The last bytes are logged whole, since the next response may begin in their segment.
fn completed(world: &mut World) -> Conn {
    let c = begun(world, HEAD);
    leave_out(world, c, 1000, 1000, BODY - 500);
    let end = (HEAD.len() + BODY - 500) as u32;
    world.backend(c, end, &body()[BODY - 500..], get("/f.iso").len() as u32);
    c
}

#[test]
fn a_complete_response_counts_only_when_the_client_has_what_was_left_out() {
    let mut lacking = world();
    let c = completed(&mut lacking);
    acknowledge(&mut lacking, c, 600_000);
    let lacks = report(&mut lacking);
    assert_eq!((lacks.unrecoverable, lacks.t_l), (None, 0));
    assert_eq!(lacks.pending.len(), 1);
    assert_eq!(lacks.pending[0].bytes, get("/f.iso"));
    assert_eq!((lacks.partial.body_bytes, lacks.partial.left_out), (600_000, 400_000));
    assert_eq!(lacks.ack_tl, (c.backend_isn + 1).0);

    let mut having = world();
    let c = completed(&mut having);
    acknowledge(&mut having, c, BODY - 300);
    let has = report(&mut having);
    assert_eq!((has.unrecoverable, has.t_l, has.pending.len()), (None, 1, 0));
    assert_eq!(has.unacked, body()[BODY - 300..]);
}

#[test]
fn a_response_behind_one_that_is_lacking_cannot_be_continued() {
    let mut world = world();
    let c = completed(&mut world);
    acknowledge(&mut world, c, 600_000);
    let asked = get("/f.iso").len() as u32;
    world.client(c, asked, &get("/2"), (HEAD.len() + 600_000) as u32);
    world.backend(c, (HEAD.len() + BODY) as u32, b"HTTP/1.1 200", asked + get("/2").len() as u32);
    assert!(report(&mut world).unrecoverable.unwrap().contains("large file"));
}

#[test]
fn what_is_left_out_elsewhere_makes_the_connection_unrecoverable() {
    for (from, to) in [(3000, 4000), (500, 1500), (1000, BODY + 1)] {
        let mut world = world();
        let c = begun(&mut world, HEAD);
        let hash = LeftOut { bytes: (to - from) as u32, since: 0, hash: 0 };
        world.backend_left_out(c, (HEAD.len() + from) as u32, hash, get("/f.iso").len() as u32);
        assert!(report(&mut world).unrecoverable.is_some(), "{from} to {to}");
    }
    let mut world = world();
    let c = begun(&mut world, HEAD);
    world.backend_flags(c, Flags(0), (HEAD.len() + 2000) as u32, &body()[2000..3000], 0);
    leave_out(&mut world, c, 1000, 1000, 2500);
    assert!(report(&mut world).unrecoverable.is_some(), "part of it is kept behind a hole");
}

#[test]
fn what_is_kept_behind_a_hole_follows_what_was_left_out() {
    let mut world = world();
    let c = begun(&mut world, HEAD);
    world.backend(c, (HEAD.len() + 2000) as u32, &body()[2000..3000], get("/f.iso").len() as u32);
    leave_out(&mut world, c, 1000, 1000, 2000);
    acknowledge(&mut world, c, 2000);
    let partial = report(&mut world).partial;
    assert_eq!((partial.body_bytes, partial.left_out), (3000, 0));
    assert_eq!(partial.hashes, [stretch(0, 1000), stretch(1000, 2000), stretch(2000, 3000)]);
    assert_eq!(partial.tail, body()[2000..3000]);
}
