//! Silence, timeouts, heartbeats: with given time.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::config::BackendState;
use cluster::control::{Evidence, HealthState};
use common::{CONFIG, OPTIONS, World, ask, b1, conn, dead, frozen, get, lives, response, serve};
use packet::{Flags, SegmentBuilder};
use proptest::prelude::*;
use transactionalizer::detector::probing::Answer;
use transactionalizer::engine::Action;

#[test]
fn silent_host_is_found_within_the_configured_time() {
    let mut world = World::new();
    let (first, idle) = (conn(5000, b1()), conn(5001, b1()));
    world.open(first);
    world.open(idle);
    let (asked, _) = ask(&mut world, first, 0);
    world.backend(first, 0, b"", asked);
    world.run(79, dead);
    assert!(world.failures().is_empty());
    world.run(3, dead);
    let failures = world.failures();
    assert_eq!(failures.len(), 1, "one message");
    assert_eq!((failures[0].evidence, failures[0].backend_down), (Evidence::HostSilent, true));
    assert_eq!(failures[0].connections.len(), 2, "the idle one, too");
    let took = world.now.since(failures[0].since);
    assert!(took.as_millis() <= 83, "{took:?}");
}

/// It passed while the logger had no judge, and not all that it closes is in the log: the client cannot have all of it.
#[test]
fn a_backend_that_falls_silent_behind_a_fin_behind_a_hole_has_failed() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    let whole = response(100);
    let (first, last) = (whole.len() / 3, whole.len() / 2);
    world.backend(conn, 0, &whole[..first], asked);
    let mut fin = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
    (fin.seq, fin.ack) = (conn.backend_isn + 1 + last as u32, Some(conn.client_isn + 1 + asked));
    (fin.flags, fin.window, fin.payload) = (Flags::FIN, 60_000, &whole[last..]);
    world.log(fin.build(), true, false);
    world.client(conn, asked, b"", first as u32);
    world.run(5000, dead);
    let reports = world.reports();
    let found: Vec<_> =
        reports.iter().map(|(_, down, report)| (*down, report.unrecoverable.as_ref())).collect();
    assert_eq!(found, [(true, None)]);
}

#[test]
fn unacknowledged_client_bytes_are_owed_an_answer_too() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    world.client(conn, 0, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc", 0);
    world.run(120, dead);
    assert_eq!(world.reports()[0].0, Evidence::HostSilent);
}

#[test]
fn service_that_refuses_has_failed_at_once() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    ask(&mut world, conn, 0);
    world.run(32, |_| Some(Answer::Refused));
    assert!(world.failures()[0].backend_down);
}

#[test]
fn slow_application_on_a_live_host_is_no_silent_host() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    ask(&mut world, conn, 0);
    world.run(4900, lives);
    assert_eq!(world.actions, []);
    let probes = world.counter("probes");
    assert!(probes < 40, "{probes} probes: they must become rare");
}

#[test]
fn a_frozen_application_has_failed_when_it_does_not_answer_a_check_either() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    ask(&mut world, conn, 0);
    world.run(5100, frozen);
    assert_eq!(world.actions, []);
    world.run(110, frozen);
    let reports = world.reports();
    assert_eq!((reports[0].0, reports[0].1), (Evidence::ApplicationTimeout, true));
}

#[test]
fn an_unknown_kind_of_a_live_application_may_take_long() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, at) = ask(&mut world, conn, 0);
    world.run(60_000, lives);
    assert!(world.failures().is_empty());
    assert_eq!(world.counter("suspicions"), 1);
    world.backend(conn, at, &response(100), asked);
    assert_eq!((world.counter("suspicions_withdrawn"), world.counter("timeouts")), (1, 0));
    // But not for ever.
    world.client(conn, asked, b"", at + response(100).len() as u32);
    ask(&mut world, conn, 1);
    world.run(121_000, lives);
    assert!(matches!(world.reports()[..], [(Evidence::ApplicationTimeout, false, _)]));
}

/// Long polls are slow, fast requests beside them are not: neither disturbs the other.
#[test]
fn long_polls_neither_fail_nor_slow_down_the_detection_of_others() {
    let mut world = World::new();
    let (poll, fast) = (conn(5000, b1()), conn(5001, b1()));
    world.open(poll);
    world.open(fast);
    let (request, reply) = (get("/poll").len() as u32, response(100).len() as u32);
    for i in 0..12 {
        world.client(poll, i * request, &get("/poll"), i * reply);
        (0..3).for_each(|j| serve(&mut world, fast, 3 * i + j, 2));
        world.run(30_000, lives);
        world.backend(poll, i * reply, &response(100), (i + 1) * request);
        world.client(poll, (i + 1) * request, b"", (i + 1) * reply);
    }
    assert!(world.failures().is_empty());
    // The poll is a minute late, the fast one a second.
    world.run(60_000, lives);
    world.client(poll, 12 * request, &get("/poll"), 12 * reply);
    world.run(58_000, lives);
    let asked = world.now;
    ask(&mut world, fast, 36);
    while world.failures().is_empty() {
        world.run(1, frozen);
    }
    assert!(world.now.since(asked).as_millis() <= 450, "{:?}", world.now.since(asked));
}

#[test]
fn a_response_that_is_far_too_late_fails_its_connection_while_others_progress() {
    let mut world = World::new();
    let (slow, busy) = (conn(5000, b1()), conn(5001, b1()));
    world.open(slow);
    world.open(busy);
    (0..20).for_each(|i| serve(&mut world, slow, i, 2));
    (0..20).for_each(|i| serve(&mut world, busy, i, 2));
    let since = world.now;
    ask(&mut world, slow, 20);
    for i in 20..140 {
        serve(&mut world, busy, i, 10);
    }
    let reports = world.reports();
    let [(Evidence::ApplicationTimeout, false, report)] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.flow, report.t_l), (slow.flow, 20));
    assert!(world.now.since(since).as_millis() <= 1250);
    assert_eq!((world.counter("timeouts"), world.counter("backend_downs")), (1, 0));
}

/// The RST of a process that was killed is lost, and the next process answers checks.
#[test]
fn a_late_connection_of_a_live_application_is_asked_on() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    world.backend(conn, 0, &response(60_000)[..1000], asked);
    world.client(conn, asked, b"", 1000);
    world.run(12_000, lives);
    let [Action::KeepAlive(packet), ..] = world.actions.as_slice() else { panic!("{:?}", world.actions) };
    let probe = packet::TcpSegment::parse(packet).unwrap();
    assert_eq!((probe.seq(), probe.ack()), (conn.client_isn + asked, conn.backend_isn + 1 + 1000));
    world.backend_flags(conn, Flags::RST, 1000, b"", asked);
    assert_eq!(world.failures()[0].evidence, Evidence::PrematureReset);
}

#[test]
fn frozen_backend_goes_down_and_comes_back_only_when_its_application_answers() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    (0..20).for_each(|i| serve(&mut world, conn, i, 2));
    ask(&mut world, conn, 20);
    world.run(410, frozen);
    assert!(world.failures()[0].backend_down);
    assert_eq!(world.engine.down(), [b1()]);
    world.run(20_000, frozen);
    assert_eq!(world.engine.down(), [b1()], "its kernel accepts, its application does not answer");
    world.run(5000, |_| Some(Answer::Answered));
    assert!(world.actions.contains(&Action::BackendUp(b1())));
    assert!(world.engine.down().is_empty());
    assert_eq!(world.counter("wrong_suspicions"), 1, "it was alive all the time");
}

/// The client sent more than the window took: a probe, or what fits a window that the proxy had to round up.
#[test]
fn an_application_that_stops_reading_an_upload_times_out_whatever_is_sent_beyond_its_window() {
    for beyond in [0, 400] {
        let mut world = World::new();
        let conn = conn(5000, b1());
        world.open(conn);
        let mut upload = b"PUT /u HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".to_vec();
        upload.extend(vec![b'x'; 70_000]);
        // All of the first window.
        world.client(conn, 0, &upload[..40_000], 0);
        world.client(conn, 40_000, &upload[40_000..65_535 + beyond], 0);
        let mut full = packet::SegmentBuilder::new(conn.flow.backend, conn.flow.client);
        (full.seq, full.ack) = (conn.backend_isn + 1, Some(conn.client_isn + 1 + 65_535));
        world.log(full.build(), true, false);
        for _ in 0..100 {
            world.run(500, frozen);
            world.log(full.build(), true, false);
        }
        assert!(world.failures().first().is_some_and(|failure| failure.backend_down), "{beyond} B beyond");
    }
}

#[test]
fn client_that_does_not_read_is_not_the_backends_fault() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    let long = response(3_000_000);
    world.backend(conn, 0, &long[..50_000], asked);
    // All is acknowledged, but the window is closed.
    let mut segment = packet::SegmentBuilder::new(conn.flow.client, conn.flow.backend);
    (segment.seq, segment.ack) = (conn.client_isn + 1 + asked, Some(conn.backend_isn + 1 + 50_000));
    let mut fill = 50_000;
    world.log(segment.build(), false, false);
    // The first window allowed much; the backend fills it.
    while fill < 7_000_000_usize.min(long.len()) {
        let to = (fill + 60_000).min(long.len() - 1);
        if to == fill {
            break;
        }
        world.backend(conn, fill as u32, &long[fill..to], asked);
        fill = to;
    }
    world.run(20_000, lives);
    assert_eq!(world.actions, [], "bytes are in flight: the client's turn");
}

#[test]
fn stalled_response_with_everything_acknowledged_times_out() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    let long = response(4_000_000);
    for at in (0..2_000_000).step_by(50_000) {
        world.backend(conn, at as u32, &long[at..at + 50_000], asked);
        world.client(conn, asked, b"", at as u32 + 50_000);
        world.run(1, lives);
    }
    world.run(590, frozen);
    assert_eq!(world.actions, []);
    world.run(20, frozen);
    let reports = world.reports();
    assert_eq!(reports[0].0, Evidence::ApplicationTimeout);
    assert_eq!(reports[0].2.unacked, b"");
}

#[test]
fn idle_heartbeat_finds_a_dead_backend_and_its_return() {
    let mut world = World::new();
    let idle = conn(5000, b1());
    world.open(idle);
    world.run(2500, lives);
    assert_eq!(world.actions, []);
    world.run(2010, dead);
    let failures: Vec<_> = world.failures().into_iter().filter(|failure| failure.backend == b1()).collect();
    assert_eq!((failures[0].evidence, failures[0].connections.len()), (Evidence::Heartbeat, 1));
    world.run(6000, |_| Some(Answer::Answered));
    assert!(world.engine.down().is_empty());
}

/// An application that is busy with what it was asked before answers no heartbeat: that is no failure.
#[test]
fn a_mute_heartbeat_counts_only_for_an_idle_application() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    world.backend(conn, 0, b"", asked);
    world.run(4000, frozen);
    assert!(world.failures().iter().all(|failure| failure.backend != b1()), "{:?}", world.failures());
}

#[test]
fn a_check_by_tcp_is_content_with_a_kernel() {
    let mut world = World::with(&CONFIG.replace("[detector]", "[detector]\ncheck = \"tcp\""));
    world.open(conn(5000, b1()));
    world.run(10_000, frozen);
    assert_eq!(world.actions, []);
    world.run(3000, |_| Some(Answer::Refused));
    assert_eq!(world.failures()[0].evidence, Evidence::Heartbeat);
    world.run(10_000, frozen);
    assert!(world.engine.down().is_empty());
}

#[test]
fn an_unreachable_host_is_given_up_sooner_than_a_silent_one() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    ask(&mut world, conn, 0);
    world.run(50, |_| Some(Answer::Unreachable));
    assert_eq!(world.failures()[0].evidence, Evidence::Unreachable);
}

#[test]
fn a_first_unanswered_probe_is_followed_by_one_on_the_connection() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    world.run(55, dead);
    let [Action::KeepAlive(packet)] = world.actions.as_slice() else { panic!("{:?}", world.actions) };
    let probe = packet::TcpSegment::parse(packet).unwrap();
    assert_eq!((probe.source(), probe.destination()), (conn.flow.client, conn.flow.backend));
    assert_eq!((probe.seq(), probe.ack()), (conn.client_isn, conn.backend_isn + 1));
    assert!(probe.payload().is_empty());
    // A full queue of new connections drops SYNs; the connection's own answer shows that the host lives.
    world.actions.clear();
    world.backend(conn, 0, b"", asked);
    world.run(25, dead);
    assert_eq!(world.actions, []);
}

#[test]
fn maintenance_is_neither_asked_nor_declared_and_ends_with_one_good_heartbeat() {
    let mut world = World::new();
    world.run(3000, dead);
    assert_eq!(world.engine.down(), [b1()]);
    let wanted = |state| [(b1(), state)];
    world.engine.handle_wanted(&wanted(BackendState::Maintenance), world.now);
    let state = |world: &World| world.engine.status().health[0].state;
    assert_eq!(state(&world), HealthState::Maintenance);
    world.actions.clear();
    world.run(20_000, |_| Some(Answer::Answered));
    assert_eq!(world.engine.down(), [b1()]);
    world.engine.handle_wanted(&wanted(BackendState::Up), world.now);
    world.run(5, |_| Some(Answer::Answered));
    assert_eq!(state(&world), HealthState::Up);
}

#[test]
fn a_changed_detector_is_taken_at_once() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let slow = CONFIG.replace("[detector]", "[detector]\nprobe_after_ms = 500");
    world.engine.handle_reload(cluster::config::Cluster::parse(&slow, "test").unwrap(), world.now);
    ask(&mut world, conn, 0);
    world.run(550, dead);
    assert_eq!(world.failures().len(), 0);
    world.run(20, dead);
    assert_eq!(world.failures()[0].evidence, Evidence::HostSilent);
}

#[test]
fn packets_from_the_backend_stop_the_probing() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let (asked, _) = ask(&mut world, conn, 0);
    world.run(70, dead);
    world.backend(conn, 0, b"", asked);
    world.run(60, dead);
    assert!(world.failures().is_empty());
}

#[test]
fn records_caught_up_with_cause_no_action() {
    let mut world = World::new();
    world.engine = transactionalizer::engine::Engine::new(
        cluster::config::Cluster::parse(common::CONFIG, "test").unwrap(),
        world.now,
    );
    world.engine.handle_managers(1);
    let (failed, going) = (conn(5000, b1()), conn(5001, b1()));
    for conn in [failed, going] {
        world.open(conn);
        let (asked, _) = ask(&mut world, conn, 0);
        world.backend(conn, 0, &response(100)[..50], asked);
    }
    world.backend_flags(failed, Flags::FIN, 50, b"", 20);
    assert_eq!(world.actions, []);
    world.pass(60_000);
    world.engine.handle_live(world.now);
    world.run(25, dead);
    assert_eq!(world.actions, [], "old silence does not count");
    let asked = get("/a").len() as u32;
    world.backend_flags(going, Flags::FIN, 50, b"", asked);
    assert_eq!(world.reports()[0].2.flow, going.flow);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Log-normal and Pareto-like service times, far below the ceiling: hardly ever a false suspicion once the kind is
    /// known, and never before.
    #[test]
    fn heavy_tails_are_rarely_suspected(seed in any::<u64>(), scale in 1.0_f64..80.0) {
        let mut world = World::new();
        let mut state = seed | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut suspicions = 0;
        for round in 0..40_u16 {
            let conn = conn(6000 + round, b1());
            world.open(conn);
            for i in 0..10 {
                let millis = (scale * (1.0 - uniform()).powf(-0.6)).min(1500.0) as u64;
                serve(&mut world, conn, i, millis);
                if world.counter("timeouts") > suspicions {
                    suspicions = world.counter("timeouts");
                    break;
                }
            }
        }
        prop_assert!(suspicions <= 6, "{suspicions} of 400");
    }
}

/// A client with a small window lacks a segment, which its backend would have to repeat: as far as the log tells, that owes nothing, so that
/// only heartbeats notice its silence, also if the backend was called down, wrongly, before the connection was made.
#[test]
fn a_connection_made_to_a_backend_that_was_called_down_fails_with_its_host() {
    let mut world = World::new();
    let before = conn(5000, b1());
    world.open(before);
    world.client(before, 0, &get("/a"), 0);
    world.run(500, dead);
    assert_eq!(world.reports().len(), 1);
    let conn = conn(5001, b1());
    world.handshake(conn);
    let request = get("/a");
    for payload in [&b""[..], &request] {
        let small = SegmentBuilder {
            seq: conn.client_isn + 1,
            ack: Some(conn.backend_isn + 1),
            window: 4000 >> OPTIONS.window_scale.unwrap(),
            payload,
            ..SegmentBuilder::new(conn.flow.client, conn.flow.backend)
        };
        world.log(small.build(), false, false);
    }
    world.backend(conn, 0, &response(100_000)[..2700], request.len() as u32);
    world.run(3000, dead);
    let reports = world.reports();
    assert_eq!(reports.last().map(|(_, down, report)| (*down, report.flow)), Some((true, conn.flow)));
}
