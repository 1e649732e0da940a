//! Held RSTs, case by case: what they mean, and that none is asked about for ever.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::Evidence;
use common::{Conn, World, asked, b1, get, lives, response};
use packet::{Flags, TcpSegment};
use transactionalizer::detector::probing::Answer;
use transactionalizer::engine::Action;

const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// Both have closed, the client has acknowledged the backend's FIN, and the acknowledgement of its own was lost. Gives the offsets
/// behind both.
fn closed(world: &mut World) -> (Conn, u32, u32) {
    let (conn, asked) = asked(world, 5000);
    let end = LAST.len() as u32 + 1;
    world.backend_flags(conn, Flags::FIN, 0, LAST, asked).unwrap();
    world.client_flags(conn, Flags::FIN, asked, b"", end);
    world.actions.clear();
    (conn, asked + 1, end)
}

/// What the backend's kernel, which has forgotten the connection, says to a segment that acknowledges `ack`.
fn reset(world: &mut World, conn: Conn, ack: u32) -> Vec<Action> {
    world.backend_flags(conn, Flags::RST, ack, b"", 0).unwrap();
    std::mem::take(&mut world.actions)
}

/// The client repeats its FIN; the first reset is lost on its way.
#[test]
fn a_reset_behind_a_fin_that_the_client_has_passes_as_often_as_it_comes() {
    let mut world = World::new();
    let (conn, asked, end) = closed(&mut world);
    for _ in 0..3 {
        world.client_flags(conn, Flags::FIN, asked - 1, b"", end);
        assert!(matches!(reset(&mut world, conn, end)[..], [Action::Release(_)]));
    }
    assert_eq!(world.counter("implausible_acks"), 0, "the log has the FIN");
}

#[test]
fn a_connection_whose_reset_was_let_pass_is_forgotten() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let end = LAST.len() as u32 + 1;
    world.backend_flags(conn, Flags::FIN, 0, LAST, asked).unwrap();
    world.client(conn, asked, b"", end);
    reset(&mut world, conn, end);
    world.run(11_000, lives);
    world.client(conn, asked, b"", end);
    assert_eq!(world.counter("opened_in_the_middle"), 1);
}

/// A reset at less would be challenged.
#[test]
fn a_question_on_a_connection_acknowledges_a_fin_that_the_client_has_taken() {
    let mut world = World::new();
    let (conn, _, end) = closed(&mut world);
    let actions = reset(&mut world, conn, end + 100);
    let [Action::KeepAlive(probe), Action::Suppress(_)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(TcpSegment::parse(probe).unwrap().ack(), conn.backend_isn + 1 + end);
}

#[test]
fn after_a_reset_was_let_pass_one_that_is_ahead_passes_too() {
    let mut world = World::new();
    let (conn, _, end) = closed(&mut world);
    assert!(matches!(reset(&mut world, conn, end)[..], [Action::Release(_)]));
    assert!(matches!(reset(&mut world, conn, end + 1)[..], [Action::Release(_)]));
}

#[test]
fn a_backend_that_answers_questions_with_resets_ahead_is_not_asked_for_ever() {
    let mut world = World::new();
    let (conn, _) = asked(&mut world, 5000);
    let question = |action: &Action| matches!(action, Action::KeepAlive(_));
    let asked = (0..100).filter(|_| reset(&mut world, conn, 100).iter().any(question)).count();
    assert_eq!((asked, world.counter("resets_ahead"), world.counter("suppressed")), (8, 100, 100));
    assert!(world.reports().is_empty());
}

#[test]
fn reset_in_the_middle_is_a_failure_and_one_outside_the_window_is_not() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    world.backend(conn, 0, &response(1000)[..300], asked);
    world.client(conn, asked, b"", 300);
    let hold = world.backend_flags(conn, Flags::RST, 50_000_000, b"", asked).unwrap();
    assert_eq!(world.actions, [Action::Release(hold)]);
    world.backend(conn, 300, &response(1000)[300..400], asked);
    world.backend_flags(conn, Flags::RST, 400, b"", asked).unwrap();
    let reports = world.reports();
    assert_eq!((reports[0].0, reports[0].2.unacked.len()), (Evidence::PrematureReset, 100));
}

/// Passed on, it would end the connection as soon as the bytes before it come.
#[test]
fn a_reset_that_overtook_data_is_dropped_and_counts_when_it_is_repeated() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    world.backend(conn, 0, &response(1000)[..300], asked);
    world.client(conn, asked, b"", 300);
    let hold = world.backend_flags(conn, Flags::RST, 400, b"", asked).unwrap();
    // If the data was lost, nobody would have the backend say it again.
    let [Action::KeepAlive(probe), Action::Suppress(suppressed)] = &world.actions[..] else {
        panic!("{:?}", world.actions)
    };
    let probe = TcpSegment::parse(probe).unwrap();
    assert_eq!((probe.destination(), probe.seq()), (b1(), conn.client_isn + asked));
    assert_eq!((probe.ack(), probe.payload().len()), (conn.backend_isn + 1 + 300, 0));
    assert_eq!((*suppressed, world.counter("resets_ahead")), (hold, 1));
    world.backend(conn, 300, &response(1000)[300..400], asked);
    world.client(conn, asked, b"", 400);
    assert!(world.reports().is_empty());
    world.backend_flags(conn, Flags::RST, 400, b"", asked).unwrap();
    assert_eq!(world.reports()[0].0, Evidence::PrematureReset);
}

/// The response was logged and lost on its way to the client, which repeats its request with its FIN.
#[test]
fn a_reset_before_bytes_that_the_client_lacks_is_a_failure_also_of_a_finished_connection() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = response(100);
    world.backend(conn, 0, &reply, asked);
    world.client_flags(conn, Flags::FIN, 0, &get("/a"), 0);
    world.backend_flags(conn, Flags::RST, 0, b"", asked).unwrap();
    let [(evidence, false, report)] = world.reports()[..] else { panic!("{:?}", world.actions) };
    assert_eq!((evidence, report.t_l, report.unacked.len()), (Evidence::PrematureReset, 1, reply.len()));
    assert!(report.client_fin && report.unrecoverable.is_none());
}

/// A server that closes with unread bytes resets behind what it has sent; the client may still get that.
#[test]
fn a_reset_behind_a_finished_response_is_released_once_the_client_has_that() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = response(100);
    world.backend(conn, 0, &reply, asked);
    world.client_flags(conn, Flags::FIN, asked, b"", 0);
    let hold = world.backend_flags(conn, Flags::RST, reply.len() as u32, b"", asked).unwrap();
    world.run(500, lives);
    assert_eq!(world.actions, []);
    world.client(conn, asked + 1, b"", reply.len() as u32);
    assert_eq!(world.actions, [Action::Release(hold)]);
}

/// Nobody else would repeat to the client what was lost on its way.
#[test]
fn a_reset_of_a_dead_backend_behind_a_finished_response_is_a_failure_while_the_client_lacks_that() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let reply = response(100);
    world.backend(conn, 0, &reply, asked);
    world.client_flags(conn, Flags::FIN, asked, b"", 0);
    world.backend_flags(conn, Flags::RST, reply.len() as u32, b"", asked).unwrap();
    world.run(20, |_| Some(Answer::Refused));
    let [(evidence, true, report)] = world.reports()[..] else { panic!("{:?}", world.actions) };
    assert_eq!((evidence, report.unacked.len()), (Evidence::PrematureReset, reply.len()));
}

/// Its receiver would ignore it now, but not any more when the data has come.
#[test]
fn a_reset_that_has_overtaken_all_data_does_not_pass() {
    let mut world = World::new();
    let (conn, asked) = asked(&mut world, 5000);
    let full = response(1000);
    let early = world.backend_flags(conn, Flags::RST, 500, b"", asked).unwrap();
    world.backend(conn, 0, &full[..500], asked);
    let [Action::KeepAlive(_), Action::Suppress(suppressed)] = world.actions[..] else {
        panic!("{:?}", world.actions)
    };
    assert_eq!(suppressed, early);
    // The client acknowledges; nobody is there to hear it.
    world.backend_flags(conn, Flags::RST, 500, b"", asked).unwrap();
    assert_eq!(world.reports()[0].0, Evidence::PrematureReset);
}
