//! Requests that are more than `recovery.request_bytes` (here 65,536): their end is read from the log again.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{ConnectionReport, LoggedRequest, PIECE_BYTES};
use common::{CONFIG, Conn, World, b1, conn, response};
use packet::Flags;

const HEAD: &str = "POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n";

fn upload() -> Vec<u8> {
    let body = (0..400_000_u32).map(|at| (at * 31 % 251) as u8);
    HEAD.bytes().chain(body).collect()
}

/// Sends so many bytes, segments of 10,000, in an order in which every other one overtakes the one before it.
fn send(world: &mut World, conn: Conn, from: usize, to: usize) {
    let stream = upload();
    let mut starts: Vec<usize> = (from..to).step_by(10_000).collect();
    starts.chunks_mut(2).for_each(<[usize]>::reverse);
    for start in starts {
        world.client(conn, start as u32, &stream[start..(start + 10_000).min(to)], 0);
    }
    world.backend(conn, 0, b"", to as u32);
}

fn fail(world: &mut World, conn: Conn, at: u32) -> ConnectionReport {
    world.actions.clear();
    world.backend_flags(conn, Flags::RST, at, b"", 1);
    world.reports()[0].2.clone()
}

/// What is kept, and then the rest in pieces.
fn all(world: &mut World, report: &ConnectionReport) -> Result<Vec<u8>, String> {
    let mut bytes: Vec<u8> = report.pending.iter().flat_map(|request| request.bytes.clone()).collect();
    let Some(mut rest) = report.rest else { return Ok(bytes) };
    while rest.bytes > 0 {
        let asked = LoggedRequest { bytes: rest.bytes.min(50_000), ..rest };
        bytes.extend(world.engine.handle_read(asked, world.now, &world.log).bytes?);
        (rest.from, rest.bytes) = (rest.from + asked.bytes, rest.bytes - asked.bytes);
    }
    Ok(bytes)
}

fn counter(world: &World, name: &str) -> u64 {
    world.engine.status().counters[name]
}

#[test]
fn what_is_not_kept_is_read_from_the_log_again() {
    for to in [70_000, 123_456, 300_001, HEAD.len() + 399_999] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        send(&mut world, conn, 0, to);
        let report = fail(&mut world, conn, 0);
        assert_eq!(report.unrecoverable, None);
        let kept = report.pending[0].bytes.len();
        assert!(kept <= 65_536 && !report.pending[0].complete, "{kept}");
        let rest = report.rest.unwrap();
        assert_eq!(
            (rest.from, rest.bytes, rest.client_isn),
            (kept as u64, (to - kept) as u64, conn.client_isn.0)
        );
        assert!(all(&mut world, &report).unwrap() == upload()[..to], "other bytes");
        assert_eq!((counter(&world, "uploads"), counter(&world, "upload_pieces_lost")), (1, 0));
    }
}

#[test]
fn an_upload_takes_no_more_memory_than_its_kept_beginning_and_its_places() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    send(&mut world, conn, 0, 390_000);
    let kept = counter(&world, "kept_bytes_now");
    assert!((30_000..90_000).contains(&kept), "{kept}");
    send(&mut world, conn, 390_000, upload().len());
    world.backend(conn, 0, &response(3), upload().len() as u32);
    let kept = counter(&world, "kept_bytes_now");
    assert!(kept < 5_000, "{kept} bytes are kept of an answered upload");
}

#[test]
fn what_follows_in_the_pipeline_comes_from_the_log_too() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let length = upload().len();
    send(&mut world, conn, 0, length);
    let next = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    world.client(conn, length as u32, next, 0);
    let both = [upload(), next.to_vec()].concat();
    world.backend(conn, 0, b"", both.len() as u32);
    let answered = response(3);
    let mut other = World::new();
    std::mem::swap(&mut other, &mut world);
    other.backend(conn, 0, &answered, both.len() as u32);
    other.backend(conn, answered.len() as u32, &answered[..10], both.len() as u32);
    let report = fail(&mut other, conn, answered.len() as u32 + 10);
    assert_eq!((report.t_l, report.unrecoverable.as_deref(), report.pending.len()), (1, None, 1));
    assert_eq!(all(&mut other, &report).unwrap(), next);
}

#[test]
fn overwritten_beginnings_are_reported_and_overwritten_pieces_refused() {
    for at_once in [true, false] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        send(&mut world, conn, 0, 300_000);
        let newest = world.log.0.len();
        if at_once {
            world.log.1 = newest - 3;
            let report = fail(&mut world, conn, 0);
            let reason = report.unrecoverable.as_deref();
            assert_eq!((reason, report.rest), (Some("request bytes were overwritten in the log"), None));
        } else {
            let report = fail(&mut world, conn, 0);
            world.log.1 = newest - 3;
            let lost = all(&mut world, &report).unwrap_err();
            assert!(lost.contains("overwritten"), "{lost}");
            assert_eq!(counter(&world, "upload_pieces_lost"), 1);
        }
    }
}

#[test]
fn there_is_a_bound_and_a_piece_has_one() {
    let mut world =
        World::with(&CONFIG.replace("request_bytes = 65536", "request_bytes = 65536\nupload_bytes = 200000"));
    let conn = conn(1, b1());
    world.open(conn);
    send(&mut world, conn, 0, 300_000);
    let report = fail(&mut world, conn, 0);
    let reason = "the pending requests are larger than recovery.upload_bytes";
    assert_eq!(report.unrecoverable.as_deref(), Some(reason));
    let mut world = World::new();
    world.open(conn);
    send(&mut world, conn, 0, 390_000);
    let rest = fail(&mut world, conn, 0).rest.unwrap();
    let more = LoggedRequest { bytes: PIECE_BYTES as u64 + 1, ..rest };
    assert!(world.engine.handle_read(more, world.now, &world.log).bytes.is_err());
    let other = LoggedRequest { client_isn: rest.client_isn + 1, bytes: 1, ..rest };
    assert!(world.engine.handle_read(other, world.now, &world.log).bytes.unwrap_err().contains("forgotten"));
    let beyond = LoggedRequest { from: u64::MAX, bytes: 1, ..rest };
    assert!(world.engine.handle_read(beyond, world.now, &world.log).bytes.is_err());
}

#[test]
fn it_is_forgotten_when_the_client_is_given_up_and_when_nobody_asks_any_more() {
    for given_up in [true, false] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        send(&mut world, conn, 0, 300_000);
        let report = fail(&mut world, conn, 0);
        assert_eq!(counter(&world, "uploads_now"), 1);
        if given_up {
            world.engine.handle_ended(conn.flow.client, None);
        } else {
            world.engine.handle_ended(conn.flow.client, Some(common::b2()));
            assert!(all(&mut world, &report).is_ok(), "the alternate still takes it");
            for _ in 0..4 {
                world.pass(20_000);
                world.timers();
            }
        }
        assert_eq!(counter(&world, "uploads_now"), 0);
        assert!(all(&mut world, &report).unwrap_err().contains("forgotten"));
    }
}

/// The one that reported it has died, and the manager that ordered its recovery may have.
#[test]
fn a_later_transactionalizer_reads_it_from_the_log_and_reports_it_to_a_later_manager() {
    let mut world = World::new();
    world.engine = World::starting().engine;
    let first = conn(1, b1());
    world.open(first);
    send(&mut world, first, 0, 300_000);
    world.syn(Conn { client_isn: first.client_isn, ..conn(1, common::b2()) });
    world.engine.handle_live(world.now);
    let report = world.engine.unended().next().unwrap().connections.remove(0);
    assert!(report.rest.is_some() && report.unrecoverable.is_none());
    assert!(all(&mut world, &report).unwrap() == upload()[..300_000], "other bytes");
}

/// It has read the log to its end before the client went to the alternate, and has not heard of the fence yet.
#[test]
fn a_later_transactionalizer_reads_it_from_a_connection_that_it_takes_for_a_sound_one() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    send(&mut world, conn, 0, 300_000);
    let (flow, client_isn, from) = (conn.flow, conn.client_isn.0, 150_000);
    let asked = LoggedRequest { flow, client_isn, from, bytes: 100_000 };
    let piece = world.engine.handle_read(asked, world.now, &world.log);
    assert!(piece.bytes.unwrap() == upload()[150_000..250_000], "other bytes");
}
