//! Held FIN and RST, case by case, through the whole engine.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::Evidence;
use common::{Conn, World, asked, b1, b2, conn, get, response};
use packet::Flags;
use transactionalizer::detector::probing::{Answer, Question};
use transactionalizer::engine::Action;

#[test]
fn premature_fin_is_suppressed_fenced_and_reported_at_once() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let full = response(1000);
    world.backend(conn, 0, &full[..500], asked);
    world.client(conn, asked, b"", 100);
    let hold = world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(world.actions[..2], [Action::Suppress(hold), Action::Fence(conn.flow)]);
    let reports = world.reports();
    let [(Evidence::PrematureFin, false, report)] = reports.as_slice() else { panic!("{reports:?}") };
    let head = full.len() - 1000;
    assert_eq!((report.t_l, report.ack_tl), (0, (conn.backend_isn + 1).0));
    assert_eq!(report.ack_cl, (conn.backend_isn + 101).0);
    assert_eq!(report.client_next, (conn.client_isn + 1 + asked).0);
    assert_eq!(report.partial.head, full[..head]);
    assert_eq!(report.partial.body_bytes as usize, 500 - head);
    assert_eq!(report.partial.tail, full[head..500]);
    assert_eq!(report.unacked, full[100..500]);
    assert_eq!(report.pending[0].bytes, get("/a"));
    assert_eq!(report.unrecoverable, None);
    assert_eq!(world.probes.len(), 0, "the probe follows the report");
    world.timers();
    assert_eq!(world.probes[0].2, Question::Service);
}

/// The logger did not wait for the judgement any longer: what follows the FIN the client would not take, or in the FIN's place.
#[test]
fn a_premature_fin_that_the_client_has_taken_is_not_recovered() {
    for taken in [false, true] {
        let mut world = World::new();
        let (conn, asked) = asked(&mut world, 5000);
        let full = response(1000);
        world.backend(conn, 0, &full[..500], asked);
        world.fences_are_slow = true;
        world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
        assert!(world.reports().is_empty());
        world.client(conn, asked, b"", 500 + u32::from(taken));
        world.fenced();
        let reports = world.reports();
        let [(Evidence::PrematureFin, false, report)] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!(report.unrecoverable.is_some(), taken);
        // A reset before what it has acknowledged it would ignore.
        assert_eq!(report.ack_cl, (conn.backend_isn + 501 + u32::from(taken)).0);
    }
}

#[test]
fn fin_with_the_last_data_counts_the_data_as_logged() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let full = response(1000);
    world.backend_flags(conn, Flags::FIN, 0, &full[..700], asked);
    assert_eq!(world.reports()[0].2.unacked, full[..700]);
}

#[test]
fn complete_response_with_close_is_released_at_once() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let hold = world.backend_flags(conn, Flags::FIN, 0, reply, asked).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
}

#[test]
fn clients_connection_close_and_http_1_0_are_released_at_once() {
    for request in ["GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"] {
        let mut world = World::new();
        let conn = conn(1, b1());
        world.open(conn);
        world.client(conn, 0, request.as_bytes(), 0);
        world.backend(conn, 0, &response(3), request.len() as u32);
        let end = response(3).len() as u32;
        let hold = world.backend_flags(conn, Flags::FIN, end, b"", request.len() as u32).unwrap();
        assert_eq!(world.actions, [Action::Release(hold)]);
    }
}

#[test]
fn answer_to_the_clients_fin_is_released_at_once() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = response(10);
    world.backend(conn, 0, &reply, asked);
    world.client_flags(conn, Flags::FIN, asked, b"", reply.len() as u32);
    let hold = world.backend_flags(conn, Flags::FIN, reply.len() as u32, b"", asked + 1).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
}

fn idle(world: &mut World, port: u16) -> (Conn, u32, u32) {
    let (conn, asked) = asked(world, port);
    let reply = response(10);
    world.backend(conn, 0, &reply, asked);
    world.client(conn, asked, b"", reply.len() as u32);
    (conn, asked, reply.len() as u32)
}

#[test]
fn idle_close_of_a_serving_backend_is_released() {
    let mut world = World::new();
    let (conn, asked, replied) = idle(&mut world, 5000);
    let hold = world.backend_flags(conn, Flags::FIN, replied, b"", asked).unwrap();
    world.run(99, |_| Some(Answer::Answered));
    assert_eq!(world.actions, []);
    world.run(3, |_| Some(Answer::Answered));
    assert_eq!(world.actions, [Action::Release(hold)]);
}

/// Its last process still accepts while the others are dead already.
#[test]
fn idle_close_of_a_dying_backend_is_a_failure() {
    let mut world = World::new();
    let (conn, asked, replied) = idle(&mut world, 5000);
    let hold = world.backend_flags(conn, Flags::FIN, replied, b"", asked).unwrap();
    world.run(60, |_| Some(Answer::Answered));
    assert_eq!(world.actions, []);
    world.run(60, |_| Some(Answer::Refused));
    assert_eq!(world.actions[0], Action::Suppress(hold));
    let failures = world.failures();
    assert_eq!((failures[0].evidence, failures[0].backend_down), (Evidence::PrematureFin, true));
    assert_eq!(failures[0].connections[0].flow, conn.flow);
}

/// Its kernel needs longer than one FIN is kept back for to close all of them; as long as its last process listens it seems to serve.
#[test]
fn many_idle_closes_of_a_dying_backend_are_failures_however_long_they_take() {
    let mut world = World::new();
    let idle: Vec<_> = (0..100).map(|port| idle(&mut world, 5000 + port)).collect();
    for part in idle.chunks(40) {
        for (conn, asked, replied) in part {
            world.backend_flags(*conn, Flags::FIN, *replied, b"", *asked).unwrap();
        }
        world.run(80, |_| Some(Answer::Answered));
    }
    assert_eq!(world.actions, [], "the first ones have waited for 240 ms");
    world.run(60, |_| Some(Answer::Refused));
    assert_eq!(world.failures()[0].connections.len(), 100);
}

/// They are ordinary ends after all.
#[test]
fn many_idle_closes_of_a_serving_backend_are_released() {
    let mut world = World::new();
    let idle: Vec<_> = (0..40).map(|port| idle(&mut world, 5000 + port)).collect();
    for (conn, asked, replied) in &idle {
        world.backend_flags(*conn, Flags::FIN, *replied, b"", *asked).unwrap();
    }
    world.run(150, |_| Some(Answer::Answered));
    assert_eq!(world.actions.iter().filter(|action| matches!(action, Action::Release(_))).count(), 40);
}

#[test]
fn idle_close_of_a_dead_backend_is_a_failure_of_all_its_connections() {
    let mut world = World::new();
    let (first, asked, replied) = idle(&mut world, 5000);
    let (second, ..) = idle(&mut world, 5001);
    let other = conn(5002, b2());
    world.open(other);
    world.backend_flags(first, Flags::FIN, replied, b"", asked).unwrap();
    world.run(2, |_| Some(Answer::Refused));
    let failures = world.failures();
    assert_eq!(failures.len(), 1, "one message");
    assert_eq!((failures[0].evidence, failures[0].backend_down), (Evidence::PrematureFin, true));
    let flows: Vec<_> = failures[0].connections.iter().map(|report| report.flow).collect();
    assert_eq!(flows, [first.flow, second.flow]);
    assert_eq!(failures[0].connections[0].t_l, 1);
    assert!(failures[0].connections[0].pending.is_empty());
    // The second one's FIN comes later: it must not pass.
    let hold = world.backend_flags(second, Flags::FIN, replied, b"", asked).unwrap();
    assert_eq!(world.actions.last(), Some(&Action::Suppress(hold)));
}

#[test]
fn of_a_dead_backends_connections_those_are_reported_first_that_wait_for_something() {
    let mut world = World::new();
    idle(&mut world, 1);
    let (waiting, _) = asked(&mut world, 2);
    let (conn, at, ack) = idle(&mut world, 3);
    world.backend_flags(conn, Flags::FIN, at, b"", ack).unwrap();
    world.run(2, |_| Some(Answer::Refused));
    let reports = world.reports();
    let clients: Vec<_> = reports.iter().map(|(_, _, report)| report.flow.client).collect();
    assert_eq!((clients.len(), clients[0]), (3, waiting.flow.client));
}

#[test]
fn idle_close_without_any_answer_is_a_failure() {
    let mut world = World::new();
    let (conn, asked, replied) = idle(&mut world, 5000);
    world.backend_flags(conn, Flags::FIN, replied, b"", asked).unwrap();
    world.run(100, |_| None);
    assert!(world.failures()[0].backend_down);
}

#[test]
fn listener_that_accepts_and_dies_is_a_failure() {
    let mut world = World::new();
    let (conn, asked, replied) = idle(&mut world, 5000);
    world.backend_flags(conn, Flags::FIN, replied, b"", asked).unwrap();
    world.timers();
    let probes = world.probes.clone();
    world.answer(&|_| Some(Answer::Accepted));
    assert_eq!(world.actions, []);
    world.probes = probes;
    world.answer(&|_| Some(Answer::Closed));
    assert!(world.failures()[0].backend_down);
}

#[test]
fn request_that_crosses_an_undecided_fin_makes_it_premature() {
    let mut world = World::new();
    let (conn, asked, replied) = idle(&mut world, 5000);
    world.backend_flags(conn, Flags::FIN, replied, b"", asked).unwrap();
    world.client(conn, asked, &get("/b"), replied);
    let reports = world.reports();
    assert_eq!(reports[0].0, Evidence::PrematureFin);
    assert_eq!((reports[0].2.t_l, reports[0].2.pending[0].ordinal), (1, 2));
}

#[test]
fn until_close_body_of_a_serving_backend_is_released_and_counted() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let hold = world.backend_flags(conn, Flags::FIN, 0, b"HTTP/1.1 200 OK\r\n\r\nsome", asked).unwrap();
    world.run(2, |_| Some(Answer::Answered));
    assert_eq!(world.actions, [Action::Release(hold)]);
    assert_eq!(world.counter("ambiguous"), 1);
}

/// A worker dies in the middle of one response: its idle connection and its body without a length end at the same moment,
/// while the backend goes on with others.
#[test]
fn what_ends_together_with_a_failed_connection_died_with_the_same_worker() {
    let mut world = World::new();
    let (quiet, asked_quiet, replied) = idle(&mut world, 5000);
    let (endless, asked_endless) = asked(&mut world, 5001);
    let (cut, asked_cut) = asked(&mut world, 5002);
    let (healthy, ..) = idle(&mut world, 5003);
    world.backend(cut, 0, &response(1000)[..500], asked_cut);
    world.backend_flags(quiet, Flags::FIN, replied, b"", asked_quiet);
    world.backend_flags(endless, Flags::FIN, 0, b"HTTP/1.1 200 OK\r\n\r\nsome", asked_endless);
    world.backend_flags(cut, Flags::FIN, 500, b"", asked_cut);
    world.run(3, |_| Some(Answer::Answered));
    let mut failed: Vec<_> = world.reports().iter().map(|(_, down, report)| (*down, report.flow)).collect();
    failed.sort();
    assert_eq!(failed, [(false, quiet.flow), (false, endless.flow), (false, cut.flow)]);
    assert_eq!((world.counter("worker_ends"), world.counter("ambiguous")), (2, 0));
    // Much later, the healthy one ends by itself.
    world.run(500, |_| Some(Answer::Answered));
    let hold = world.backend_flags(healthy, Flags::FIN, replied, b"", asked_quiet).unwrap();
    world.run(102, |_| Some(Answer::Answered));
    assert_eq!(world.actions.last(), Some(&Action::Release(hold)));
}

/// It may have been whole: an update is not run again on mere suspicion.
#[test]
fn an_update_without_a_length_is_not_taken_for_a_workers_victim() {
    let mut world = World::new();
    let (cut, asked_cut) = asked(&mut world, 5000);
    world.backend(cut, 0, &response(1000)[..500], asked_cut);
    let update = conn(5001, b1());
    world.open(update);
    let request = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    world.client(update, 0, request, 0);
    world.backend_flags(cut, Flags::FIN, 500, b"", asked_cut);
    let asked = request.len() as u32;
    let hold = world.backend_flags(update, Flags::FIN, 0, b"HTTP/1.1 200 OK\r\n\r\nsome", asked).unwrap();
    world.run(3, |_| Some(Answer::Answered));
    assert_eq!(world.actions.last(), Some(&Action::Release(hold)));
    assert_eq!(world.counter("ambiguous"), 1);
}

#[test]
fn until_close_body_of_a_dead_backend_is_a_failure() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    world.backend_flags(conn, Flags::FIN, 0, b"HTTP/1.1 200 OK\r\n\r\nsome", asked).unwrap();
    world.run(2, |_| Some(Answer::Refused));
    assert_eq!(world.reports()[0].2.partial.body_bytes, 4);
}

#[test]
fn half_a_request_is_premature() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    world.client(conn, 0, b"GET /half HT", 0);
    world.backend_flags(conn, Flags::FIN, 0, b"", 12).unwrap();
    let reports = world.reports();
    assert_eq!((reports[0].2.pending[0].complete, reports[0].2.pending[0].ordinal), (false, 1));
    assert_eq!(reports[0].2.pending[0].bytes, b"GET /half HT");
}

#[test]
fn fin_that_overtook_data_is_judged_when_the_data_has_come() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let (first, second) = reply.split_at(30);
    let hold = world.backend_flags(conn, Flags::FIN, 30, second, asked).unwrap();
    assert_eq!(world.actions, []);
    world.backend(conn, 0, first, asked);
    assert_eq!(world.actions, [Action::Release(hold)]);
}

#[test]
fn without_a_manager_the_client_gets_what_the_backend_sent() {
    let mut world = World::new();
    world.engine.handle_managers(0);
    let (conn, asked) = asked(&mut world, 5000);
    world.backend(conn, 0, &response(1000)[..500], asked);
    let hold = world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(world.actions, [], "one may come");
    world.run(1001, |_| Some(Answer::Accepted));
    let unreported = Action::Unreported(conn.flow, Evidence::PrematureFin);
    assert!(world.actions.ends_with(&[Action::Release(hold), unreported]), "{:?}", world.actions);
    assert_eq!(world.counter("unreported"), 1);
}

#[test]
fn connection_first_seen_in_the_middle_is_let_alone_but_reported_with_its_backend() {
    let mut world = World::new();
    let (a, b) = (conn(5000, b1()), conn(5001, b1()));
    for conn in [a, b] {
        world.client(conn, 500, b"xyz", 700);
        world.backend(conn, 700, b"abc", 503);
    }
    let hold = world.backend_flags(a, Flags::FIN, 703, b"", 503).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    let (c, asked) = asked(&mut world, 5002);
    world.backend_flags(c, Flags::RST, 0, b"", asked);
    world.run(2, |_| Some(Answer::Refused));
    let reports = world.reports();
    assert_eq!(reports.iter().map(|(_, _, report)| report.flow).collect::<Vec<_>>(), [c.flow, b.flow]);
    assert_eq!(reports[1].2.unrecoverable.as_deref(), Some("log began in mid-connection"));
    assert_eq!(reports[1].2.client_next, (b.client_isn + 504).0);
}

#[test]
fn malformed_foreign_and_unknown_holds_are_released() {
    let mut world = World::new();
    let hold = world.log(vec![1, 2, 3], true, true).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    let foreign = conn(5000, common::addr("192.0.2.1:80"));
    let hold = world.backend_flags(foreign, Flags::FIN, 0, b"", 0).unwrap();
    assert_eq!(world.actions.last(), Some(&Action::Release(hold)));
    assert_eq!((world.counter("malformed"), world.counter("foreign")), (1, 1));
}
