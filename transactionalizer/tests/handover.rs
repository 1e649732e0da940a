//! A manager, the connection to it, or an earlier transactionalizer may die with a failure in hand: no client is left hanging.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

mod common;

use cluster::control::Evidence;
use common::*;
use packet::{Flags, Seq};
use transactionalizer::detector::probing::Answer;
use transactionalizer::engine::Action;

fn unended(world: &World) -> Vec<cluster::control::Flow> {
    world.engine.unended().flat_map(|failure| failure.connections).map(|report| report.flow).collect()
}

#[test]
fn a_failure_waits_for_a_manager_that_is_about_to_come() {
    let mut world = World::new();
    world.engine.handle_managers(0);
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    world.run(500, |_| None);
    assert_eq!(world.reports().len(), 0);
    world.engine.handle_managers(1);
    world.run(1, |_| None);
    assert_eq!((world.reports().len(), world.counter("unreported")), (1, 0));
}

/// Nothing is held that would have to be let go: its client would only be left hanging.
#[test]
fn a_silent_backends_failure_waits_for_a_manager_however_long() {
    let mut world = World::new();
    world.engine.handle_managers(0);
    let conn = conn(5000, b1());
    world.open(conn);
    world.client(conn, 0, &get("/a"), 0);
    world.run(5000, dead);
    assert_eq!((world.reports().len(), world.counter("unreported")), (0, 0));
    world.engine.handle_managers(1);
    world.run(1, dead);
    assert_eq!(world.reports()[0].2.flow, conn.flow);
}

#[test]
fn a_report_is_repeated_to_later_managers_until_its_recovery_has_ended() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(unended(&world), [conn.flow]);
    // The end of an earlier recovery, which led to the backend that has failed now.
    world.engine.handle_ended(conn.flow.client, Some(b1()));
    assert_eq!(unended(&world), [conn.flow]);
    world.engine.handle_ended(conn.flow.client, Some(b2()));
    assert_eq!(unended(&world), []);
}

#[test]
fn the_report_of_a_client_that_begins_anew_is_not_repeated() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    world.open(Conn { client_isn: Seq(5_000_000), ..conn });
    assert_eq!(unended(&world), []);
}

/// As a transactionalizer that begins with an old log sees it.
fn late(world: &mut World) {
    world.engine = World::starting().engine;
    world.engine.handle_managers(1);
}

#[test]
fn an_end_that_a_predecessor_did_not_report_is_reported() {
    let mut world = World::new();
    late(&mut world);
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(world.actions, [], "the log is still caught up with");
    world.engine.handle_live(world.now);
    world.run(1, |_| None);
    assert!(world.actions.contains(&Action::Fence(conn.flow)));
    let reports = world.reports();
    assert_eq!((reports[0].0, reports[0].2.unacked.len()), (Evidence::PrematureFin, 500));
}

#[test]
fn an_end_that_only_the_backend_can_explain_is_asked_about() {
    let mut world = World::new();
    late(&mut world);
    let conn = conn(5000, b1());
    world.open(conn);
    let hold = world.backend_flags(conn, Flags::FIN, 0, b"", 0).unwrap();
    assert_eq!(world.actions, [], "the log is still caught up with");
    world.engine.handle_live(world.now);
    world.run(100, |_| Some(Answer::Refused));
    assert!(!world.actions.contains(&Action::Release(hold)));
    assert_eq!(world.reports()[0].2.flow, conn.flow);
}

#[test]
fn an_end_that_reached_the_client_is_not() {
    let mut world = World::new();
    late(&mut world);
    let conn = conn(5000, b1());
    let asked = half(&mut world, conn);
    world.backend_flags(conn, Flags::FIN, 500, b"", asked).unwrap();
    world.client(conn, asked, b"", 501);
    world.engine.handle_live(world.now);
    world.run(1, |_| None);
    assert_eq!(world.reports().len(), 0);
}

#[test]
fn a_client_that_was_recovered_before_is_not_reported_and_its_ordinals_go_on() {
    let mut world = World::new();
    late(&mut world);
    let first = conn(5000, b1());
    world.open(first);
    let (request, reply) = (get("/a").len() as u32, response(100).len() as u32);
    world.client(first, 0, &get("/a"), 0);
    world.backend(first, 0, &response(100), request);
    world.client(first, request, &get("/a"), reply);
    let again = Conn { client_isn: first.client_isn + request, ..conn(5000, b2()) };
    world.open(again);
    world.client(again, 0, &get("/a"), 0);
    world.backend(again, 0, &response(1000)[..500], request);
    world.engine.handle_live(world.now);
    world.backend_flags(again, Flags::FIN, 500, b"", request).unwrap();
    world.run(200, |_| None);
    let reports = world.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].2.flow, reports[0].2.t_l), (again.flow, 1));
}

/// The predecessor had reported it, but its alternate is first heard of when the log has been read to its end.
#[test]
fn ordinals_go_on_where_only_a_predecessor_has_reported_the_failure_yet() {
    let mut world = World::starting();
    let first = conn(5000, b1());
    world.open(first);
    let (request, reply) = (get("/a").len() as u32, response(100).len() as u32);
    world.client(first, 0, &get("/a"), 0);
    world.backend(first, 0, &response(100), request);
    world.client(first, request, &get("/a"), reply);
    world.engine.handle_live(world.now);
    let again = Conn { client_isn: first.client_isn + request, ..conn(5000, b2()) };
    world.open(again);
    world.engine.handle_managers(1);
    world.engine.handle_fences(&[first.flow], world.now);
    world.run(1, |_| None);
    world.client(again, 0, &get("/a"), 0);
    world.backend(again, 0, &response(1000)[..500], request);
    world.engine.handle_ended(first.flow.client, Some(b2()));
    world.backend_flags(again, Flags::FIN, 500, b"", request).unwrap();
    world.run(200, |_| None);
    let reports: Vec<_> = world.reports().iter().map(|(_, _, report)| (report.flow, report.t_l)).collect();
    assert_eq!(reports, [(first.flow, 1), (again.flow, 1)]);
}

/// Its client begins anew.
#[test]
fn ordinals_begin_anew_with_the_client_after_a_restart() {
    let mut world = World::starting();
    let first = conn(5000, b1());
    world.open(first);
    let request = get("/a").len() as u32;
    world.client(first, 0, &get("/a"), 0);
    world.backend(first, 0, &response(100), request);
    world.engine.handle_live(world.now);
    world.engine.handle_managers(1);
    let again = Conn { client_isn: Seq(5_000_000), ..conn(5000, b2()) };
    let request = half(&mut world, again);
    world.backend_flags(again, Flags::FIN, 500, b"", request).unwrap();
    world.run(200, |_| None);
    assert_eq!(world.reports()[0].2.t_l, 0);
}

/// The manager that had ordered it dies after the transactionalizer that had reported it. What the alternate answers may be no good, and
/// nobody would order another one.
#[test]
fn a_client_that_was_to_be_recovered_is_reported_to_later_managers_until_one_knows_the_end() {
    let mut world = World::new();
    late(&mut world);
    let first = conn(5000, b1());
    let asked = half(&mut world, first);
    let again = Conn { client_isn: first.client_isn, ..conn(5000, b2()) };
    world.syn(again);
    world.engine.handle_live(world.now);
    assert_eq!(unended(&world), [first.flow]);
    let failure = world.engine.unended().next().unwrap();
    let report = &failure.connections[0];
    assert_eq!((report.unacked.len(), report.client_next), (500, (first.client_isn + 1 + asked).0));
    world.engine.handle_ended(first.flow.client, Some(b2()));
    assert_eq!(unended(&world), []);

    late(&mut world);
    half(&mut world, first);
    world.handshake(again);
    world.client(again, 0, &get("/a"), 0);
    world.backend(again, 0, &response(1000)[..100], asked);
    world.engine.handle_live(world.now);
    assert_eq!(unended(&world), [first.flow], "it answers");
    world.engine.handle_ended(first.flow.client, Some(b2()));
    assert_eq!(unended(&world), []);

    late(&mut world);
    half(&mut world, first);
    world.syn(Conn { client_isn: Seq(5_000_000), ..again });
    world.engine.handle_live(world.now);
    assert_eq!(unended(&world), [], "it has begun anew");
}

/// A proxy that was restarted in the middle of a set-up begins again with the same initial sequence number.
#[test]
fn a_handshake_that_was_reset_and_repeated_is_a_new_connection() {
    let mut world = World::new();
    let first = conn(5000, b1());
    world.open(first);
    world.client_flags(first, Flags::RST, 0, b"", 0);
    let second = Conn { backend_isn: Seq(77_000), ..first };
    let asked = half(&mut world, second);
    world.backend_flags(second, Flags::FIN, 500, b"", asked).unwrap();
    let reports = world.reports();
    assert_eq!((reports[0].2.ack_cl, reports[0].2.unacked.len()), (77_001, 500));
}

/// The proxy never got the first SYN-ACK. The process that had sent it is killed and started anew, and answers the repeated SYN.
#[test]
fn a_handshake_that_another_process_goes_on_with_is_a_new_connection() {
    let mut world = World::new();
    let first = conn(5000, b1());
    world.handshake(first);
    let hold = world.backend_flags(first, Flags::RST, 0, b"", 0).unwrap();
    let second = Conn { backend_isn: Seq(77_000), ..first };
    let asked = half(&mut world, second);
    assert!(world.actions.contains(&Action::Suppress(hold)));
    world.backend_flags(second, Flags::FIN, 500, b"", asked).unwrap();
    let reports = world.reports();
    assert_eq!((reports[0].2.ack_cl, reports[0].2.unacked.len()), (77_001, 500));
}

#[test]
fn a_late_syn_ack_is_not_another_process_once_the_first_was_acknowledged() {
    let mut world = World::new();
    let first = conn(5000, b1());
    let asked = half(&mut world, first);
    world.syn_ack(Conn { backend_isn: Seq(77_000), ..first });
    world.backend_flags(first, Flags::FIN, 500, b"", asked).unwrap();
    assert_eq!(world.reports()[0].2.ack_cl, (first.backend_isn + 1).0);
}

/// A copy of a SYN is late, and its client has gone on to another backend, because this one had refused it.
#[test]
fn a_late_copy_of_a_refused_syn_takes_its_client_nowhere() {
    let mut world = World::starting();
    let (refused, used) = (conn(5000, b2()), conn(5000, b1()));
    world.syn(refused);
    world.open(used);
    let asked = ask(&mut world, used, 0).0;
    world.syn(refused);
    world.backend(used, 0, &response(100), asked);
    world.engine.handle_live(world.now);
    world.engine.handle_managers(1);
    world.run(1, lives);
    assert_eq!(world.reports().len(), 0);
    assert_eq!(world.engine.status().counters["transactions"], 1);
}

/// The same of a backend that failed: its client was recovered meanwhile, with the same number.
#[test]
fn a_late_copy_of_a_failed_backends_syn_takes_its_client_nowhere() {
    let mut world = World::starting();
    let (failed, alternate) = (conn(5000, b2()), conn(5000, b1()));
    world.open(failed);
    world.open(alternate);
    world.syn(failed);
    world.engine.handle_live(world.now);
    assert!(
        world.engine.unended().all(|failure| failure.backend == failed.flow.backend),
        "{:?}",
        world.actions
    );
    assert_eq!(world.engine.unended().count(), 1, "nobody has said that this is over");
    let asked = ask(&mut world, alternate, 0).0;
    world.backend(alternate, 0, &response(100), asked);
    assert_eq!(world.engine.status().counters["transactions"], 1);
}

/// A backend that has not been heard repeats its answer for as long as the proxy's reset has not reached it; its client has gone on to another.
#[test]
fn a_late_syn_ack_takes_its_client_nowhere() {
    let mut world = World::starting();
    let (unheard, used) = (conn(5000, b2()), conn(5000, b1()));
    world.syn(unheard);
    world.open(used);
    let asked = ask(&mut world, used, 0).0;
    world.syn_ack(unheard);
    world.client_flags(unheard, Flags::RST, 0, b"", 0);
    world.backend(used, 0, &response(100), asked);
    world.engine.handle_live(world.now);
    assert_eq!(world.engine.unended().count(), 0);
    assert_eq!(world.engine.status().counters["transactions"], 1);
}

/// It comes behind the reset that withdraws it, and behind what its client said to the next backend.
#[test]
fn a_syn_that_its_reset_has_overtaken_takes_its_client_nowhere() {
    let mut world = World::starting();
    let (withdrawn, used) = (conn(5000, b2()), conn(5000, b1()));
    world.client_flags(withdrawn, Flags::RST, 0, b"", 0);
    world.open(used);
    let asked = ask(&mut world, used, 0).0;
    world.handshake(withdrawn);
    world.backend(used, 0, &response(100), asked);
    world.engine.handle_live(world.now);
    assert_eq!(world.engine.unended().count(), 0);
    assert_eq!(world.engine.status().counters["transactions"], 1);
}

/// The first one to it was lost but for its reset.
#[test]
fn a_client_that_takes_up_a_withdrawn_connection_has_gone_there() {
    let mut world = World::starting();
    let (again, left) = (conn(5000, b2()), conn(5000, b1()));
    world.client_flags(again, Flags::RST, 0, b"", 0);
    world.open(left);
    world.open(again);
    world.engine.handle_live(world.now);
    let flows: Vec<_> = world.engine.unended().map(|failure| failure.backend).collect();
    assert_eq!(flows, [left.flow.backend]);
}
