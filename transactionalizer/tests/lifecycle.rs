//! Beginnings, ends, epochs, ordinals, bounds, and what cannot be recovered.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{ConnectionReport, Evidence};
use common::{CONFIG, Conn, OPTIONS, World, b1, b2, conn, dead, frozen, get, lives, response};
use packet::{Flags, SegmentBuilder, Seq};
use transactionalizer::detector::probing::Answer;
use transactionalizer::engine::Action;

/// One request and half its response; gives the request's length.
fn half(world: &mut World, conn: Conn, at: (u32, u32)) -> u32 {
    let request = get("/a");
    world.client(conn, at.0, &request, at.1);
    let asked = at.0 + request.len() as u32;
    world.backend(conn, at.1, &response(100)[..50], asked);
    asked
}

/// Ends the connection prematurely and gives the report.
fn fail(world: &mut World, conn: Conn, at: u32) -> ConnectionReport {
    world.actions.clear();
    world.backend_flags(conn, Flags::RST, at, b"", 1);
    let reports = world.reports();
    assert_eq!(reports.len(), 1, "{:?}", world.actions);
    reports[0].2.clone()
}

fn syn(world: &mut World, conn: Conn, isn: Seq) {
    let mut syn = SegmentBuilder::new(conn.flow.client, conn.flow.backend);
    (syn.seq, syn.flags, syn.syn) = (isn, Flags::SYN, Some(OPTIONS));
    world.log(syn.build(), false, false);
}

#[test]
fn syn_on_an_open_connection_does_not_disturb_it() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    half(&mut world, conn, (0, 0));
    syn(&mut world, conn, Seq(77));
    let report = fail(&mut world, conn, 50);
    assert_eq!((report.unacked.len(), report.unrecoverable), (50, None));
}

#[test]
fn answered_syn_begins_a_new_epoch() {
    let mut world = World::new();
    let old = conn(1, b1());
    world.open(old);
    half(&mut world, old, (0, 0));
    let new = Conn { client_isn: Seq(1_000_000), backend_isn: Seq(9_000_000), ..old };
    world.open(new);
    half(&mut world, new, (0, 0));
    let report = fail(&mut world, new, 50);
    assert_eq!(
        (report.t_l, report.ack_tl, report.client_next),
        (0, 9_000_001, 1_000_001 + get("/a").len() as u32)
    );
    assert_eq!(report.unacked, response(100)[..50]);
}

#[test]
fn ordinals_continue_on_the_alternate_and_begin_anew_for_a_new_connection() {
    let mut world = World::new();
    let first = conn(1, b1());
    world.open(first);
    let (request, reply) = (get("/a").len() as u32, response(100).len() as u32);
    world.client(first, 0, &get("/a"), 0);
    world.backend(first, 0, &response(100), request);
    half(&mut world, first, (request, reply));
    let report = fail(&mut world, first, reply + 50);
    assert_eq!((report.t_l, report.pending[0].ordinal), (1, 2));
    // ISN S − R − 1, with the pending request replayed.
    let replayed = report.pending[0].bytes.len() as u32;
    let isn = Seq(report.client_next) - replayed - 1;
    let again = Conn { client_isn: isn, ..conn(1, b2()) };
    world.open(again);
    world.engine.handle_ended(again.flow.client, Some(b2()));
    half(&mut world, again, (0, 0));
    let report = fail(&mut world, again, 50);
    assert_eq!((report.t_l, report.pending[0].ordinal), (1, 2));
    assert_eq!(report.client_next, (isn + 1 + replayed).0);
    // The same port, but not the continuation.
    let other = Conn { client_isn: Seq(5_000_000), ..conn(1, b1()) };
    world.open(other);
    half(&mut world, other, (0, 0));
    assert_eq!(fail(&mut world, other, 50).t_l, 0);
}

#[test]
fn overwritten_bytes_are_never_served() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    half(&mut world, conn, (0, 0));
    world.log.1 = world.log.0.len();
    let report = fail(&mut world, conn, 50);
    assert_eq!(report.unrecoverable.as_deref(), Some("response bytes were overwritten in the log"));
    assert!(report.unacked.is_empty());
}

#[test]
fn overwritten_but_acknowledged_bytes_cost_only_the_tail() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    world.client(conn, asked, b"", 50);
    world.log.1 = world.log.0.len();
    let report = fail(&mut world, conn, 50);
    assert_eq!((report.unrecoverable, report.partial.tail.len()), (None, 0));
    assert!(report.partial.body_bytes > 0);
}

#[test]
fn pending_requests_beyond_the_bound_are_unrecoverable_until_they_are_answered() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let mut upload = b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".to_vec();
    upload.extend(vec![b'x'; 100_000]);
    for (i, piece) in upload.chunks(10_000).enumerate() {
        world.client(conn, i as u32 * 10_000, piece, 0);
        world.backend(conn, 0, b"", (i * 10_000 + piece.len()) as u32);
    }
    let asked = upload.len() as u32;
    world.backend(conn, 0, &response(3), asked);
    let replied = response(3).len() as u32;
    half(&mut world, conn, (asked, replied));
    let report = fail(&mut world, conn, replied + 50);
    assert_eq!((report.unrecoverable, report.t_l), (None, 1));
}

#[test]
fn early_answer_is_unrecoverable_until_the_request_is_complete() {
    for complete in [false, true] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        let upload = b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789";
        let half = upload.len() - 5;
        world.client(conn, 0, &upload[..half], 0);
        world.backend(conn, 0, &response(3), half as u32);
        let at = response(3).len() as u32;
        if complete {
            world.client(conn, half as u32, &upload[half..], at);
            world.client(conn, upload.len() as u32, &get("/n"), at);
        }
        world.actions.clear();
        world.backend_flags(conn, Flags::RST, at, b"", 1);
        world.run(1, |_| Some(Answer::Refused));
        let reports = world.reports();
        let report = reports[0].2;
        assert_eq!(report.t_l, 1);
        assert_eq!(report.unrecoverable.is_none(), complete);
        if complete {
            assert_eq!((report.pending[0].ordinal, report.pending[0].bytes.clone()), (2, get("/n")));
        }
    }
}

#[test]
fn streams_that_are_no_http_are_let_alone() {
    let cases: [(&[u8], &[u8]); 4] = [
        (b"\x16\x03\x01 rubbish\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: w\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH\r\n\r\n"),
    ];
    for (request, reply) in cases {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        world.client(conn, 0, request, 0);
        world.backend(conn, 0, reply, request.len() as u32);
        let hold = world.backend_flags(conn, Flags::FIN, reply.len() as u32, b"", 0).unwrap();
        assert_eq!(world.actions, [Action::Release(hold)]);
    }
}

#[test]
fn urgent_data_taints() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    world.client_flags(conn, Flags::URG, asked, b"!", 50);
    assert_eq!(fail(&mut world, conn, 50).unrecoverable.as_deref(), Some("urgent data"));
}

#[test]
fn lapped_connections_are_unrecoverable_until_their_streams_are_seen_to_be_whole() {
    for whole in [false, true] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        let asked = half(&mut world, conn, (0, 0));
        let mut out = vec![];
        world.engine.handle_lapped(10, &mut out);
        assert!(matches!(&out[..], [Action::Note(text)] if text.contains("1 connections")));
        if whole {
            world.client(conn, asked, b"", 50);
            world.backend(conn, 50, &response(100)[50..60], asked);
            assert_eq!(fail(&mut world, conn, 60).unrecoverable, None);
        } else {
            assert!(fail(&mut world, conn, 50).unrecoverable.unwrap().contains("overwritten"));
        }
    }
}

#[test]
fn lapped_connection_with_a_gap_is_let_alone() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    world.engine.handle_lapped(10, &mut vec![]);
    world.backend(conn, 70, &response(100)[70..80], asked);
    let hold = world.backend_flags(conn, Flags::FIN, 80, b"", asked).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
}

#[test]
fn end_that_passed_without_a_judge_is_the_clients_business() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    let mut fin = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
    (fin.seq, fin.ack, fin.flags) = (conn.backend_isn + 51, Some(conn.client_isn + 1 + asked), Flags::FIN);
    world.log(fin.build(), true, false);
    world.run(6000, lives);
    assert_eq!(world.actions, []);
}

/// The client has a FIN that passed without a judge, but lacks bytes before it: until they have come, their backend still matters.
fn ended_with_a_hole(world: &mut World, conn: Conn) -> u32 {
    world.open(conn);
    let (request, answer) = (get("/a"), [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 81]].concat());
    let asked = request.len() as u32;
    world.client_flags(conn, Flags::FIN, 0, &request, 0);
    world.backend(conn, 0, &answer[..50], asked + 1);
    let mut last = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
    (last.seq, last.ack) = (conn.backend_isn + 1 + 70, Some(conn.client_isn + 2 + asked));
    (last.flags, last.payload) = (Flags::FIN, &answer[70..]);
    world.log(last.build(), true, false);
    world.client(conn, asked + 1, b"", 50);
    asked + 1
}

#[test]
fn bytes_missing_before_an_end_that_passed_without_a_judge_are_still_owed() {
    let mut world = World::new();
    ended_with_a_hole(&mut world, conn(1, b1()));
    world.run(6000, dead);
    let [(evidence, down, report)] = world.reports()[..] else { panic!("{:?}", world.actions) };
    assert_eq!((evidence, down, report.unacked.len()), (Evidence::HostSilent, true, 0));
    assert_eq!((report.client_fin, report.beyond.len()), (true, 1));
    assert_eq!(report.unrecoverable, None);
}

#[test]
fn a_hole_before_an_end_means_nothing_once_it_is_filled_or_reset() {
    let mut world = World::new();
    let (filled, reset) = (conn(1, b1()), conn(2, b1()));
    let asked = ended_with_a_hole(&mut world, filled);
    world.backend(filled, 50, &[b'x'; 20], asked);
    world.client(filled, asked, b"", 101);
    ended_with_a_hole(&mut world, reset);
    let mut rst = SegmentBuilder::new(reset.flow.backend, reset.flow.client);
    (rst.seq, rst.flags) = (reset.backend_isn + 1 + 50, Flags::RST);
    world.log(rst.build(), true, false);
    world.run(6000, dead);
    assert!(world.reports().is_empty(), "{:?}", world.reports());
}

#[test]
fn unanswered_syn_finds_a_silent_host() {
    let mut world = World::new();
    syn(&mut world, conn(1, b1()), Seq(5));
    world.run(95, |_| None);
    let failures = world.failures();
    assert_eq!((failures[0].evidence, failures[0].connections.len()), (Evidence::HostSilent, 0));
    assert_eq!(failures[0].backend, b1());
}

#[test]
fn refused_syn_finds_a_dead_service() {
    let mut world = World::new();
    let conn = conn(1, b1());
    syn(&mut world, conn, Seq(5));
    let mut reset = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
    (reset.ack, reset.flags) = (Some(Seq(6)), Flags::RST);
    let hold = world.log(reset.build(), true, true).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    world.run(1, |_| Some(Answer::Refused));
    assert!(world.failures()[0].backend_down);
}

#[test]
fn frozen_backend_that_reads_no_more_of_an_upload_times_out() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let head = b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n";
    world.client(conn, 0, head, 0);
    let mut at = head.len() as u32;
    // The window was 65,535 in the beginning and is not opened any more.
    while at < 65_535 {
        let length = (65_535 - at).min(30_000);
        world.client(conn, at, &vec![b'x'; length as usize], 0);
        at += length;
    }
    let mut ack = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
    (ack.seq, ack.ack, ack.window) = (conn.backend_isn + 1, Some(conn.client_isn + 1 + at), 0);
    for _ in 0..24 {
        world.log(ack.build(), true, false);
        world.run(200, frozen);
    }
    assert_eq!(world.actions, []);
    world.run(600, frozen);
    assert_eq!(world.reports()[0].0, Evidence::ApplicationTimeout);
}

#[test]
fn table_is_bounded_and_ended_flows_make_room() {
    let mut world = World::with(&format!("{CONFIG}\n[splice]\nconnections = 10\nhalf_open = 5\n"));
    for port in 1..=10 {
        world.open(conn(port, b1()));
    }
    world.open(conn(11, b1()));
    assert!(world.counter("untracked") > 0);
    assert_eq!(world.engine.status().counters["connections"], 10);
    let hold = world.backend_flags(conn(11, b1()), Flags::FIN, 0, b"", 0).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    world.client_flags(conn(1, b1()), Flags::RST, 0, b"", 0);
    world.open(conn(12, b1()));
    half(&mut world, conn(12, b1()), (0, 0));
    assert_eq!(fail(&mut world, conn(12, b1()), 50).unrecoverable, None);
}

#[test]
fn idle_and_ended_flows_are_forgotten() {
    let mut world = World::new();
    let (ended, idle) = (conn(1, b1()), conn(2, b1()));
    world.open(ended);
    world.open(idle);
    world.client_flags(ended, Flags::RST, 0, b"", 0);
    world.pass(11_000);
    world.timers();
    assert_eq!(world.engine.status().counters["connections"], 1);
    world.pass(7_500_000);
    world.timers();
    assert_eq!(world.engine.status().counters["connections"], 0);
}

#[test]
fn clients_reset_outside_the_window_is_ignored() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    world.client_flags(conn, Flags::RST, asked + 5_000_000, b"", 0);
    let report = fail(&mut world, conn, 50);
    assert_eq!(report.pending.len(), 1);
}

#[test]
fn what_passes_before_the_fence_holds_counts_as_logged() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let conn = conn(1, b1());
    world.open(conn);
    let asked = half(&mut world, conn, (0, 0));
    world.client(conn, asked, b"", 50);
    world.run(5300, frozen);
    assert_eq!(world.actions, [Action::Fence(conn.flow)]);
    // The slow application wakes up after all, and the client acknowledges.
    world.backend(conn, 50, &response(100)[50..80], asked);
    world.client(conn, asked, b"", 70);
    world.fenced();
    let reports = world.reports();
    let [(Evidence::ApplicationTimeout, true, report)] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!(report.unacked, response(100)[70..80]);
    assert_eq!(report.ack_cl, (conn.backend_isn + 71).0);
}

#[test]
fn flow_opened_anew_before_the_fence_holds_is_not_reported() {
    let mut world = World::new();
    world.fences_are_slow = true;
    let old = conn(1, b1());
    world.open(old);
    half(&mut world, old, (0, 0));
    world.backend_flags(old, Flags::RST, 50, b"", 1);
    world.open(Conn { client_isn: Seq(7_000_000), ..old });
    world.fenced();
    assert!(world.failures().is_empty());
}

#[test]
fn bytes_before_the_stream_are_not_taken_for_its_own() {
    let mut world = World::new();
    let conn = conn(1, b1());
    world.open(conn);
    world.client(conn, 0, &get("/a"), 0);
    let probe = [b"??", &response(100)[..50]].concat();
    world.backend(conn, 2_u32.wrapping_neg(), &probe, 1);
    assert_eq!(fail(&mut world, conn, 50).unacked, response(100)[..50]);
}
