//! What makes the detector patient with applications: load, its own lateness, lost packets.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Conn, OPTIONS, World, ask, b1, conn, frozen, get, lives, response, serve};
use packet::{Flags, SegmentBuilder};
use transactionalizer::detector::probing::Question;

/// Everything becomes slow at once, as on a busy machine: nothing is called failed, and patience grows.
#[test]
fn a_busy_machine_is_not_a_failed_backend() {
    let mut world = World::new();
    let conns: Vec<Conn> = (0..4).map(|i| conn(5000 + i, b1())).collect();
    for conn in &conns {
        world.open(*conn);
    }
    for i in 0..20 {
        for conn in &conns {
            serve(&mut world, *conn, i, 2);
        }
    }
    for i in 20..40 {
        let (asked, at) = conns.iter().map(|conn| ask(&mut world, *conn, i)).last().unwrap();
        for conn in &conns {
            // Not even the check is answered in time.
            world.run(150, frozen);
            world.backend(*conn, at, &response(100), asked);
            world.client(*conn, asked, b"", at + response(100).len() as u32);
        }
    }
    assert_eq!(world.actions, []);
    assert!(world.counter("suspicions_withdrawn") > 0);
    assert!(world.engine.status().health[0].margin > 1);
}

/// The check of a starved machine's application takes as long as that of a frozen one would be given.
#[test]
fn who_is_late_himself_gives_others_more_time() {
    let detected_after = |late: u64| {
        let mut world = World::new();
        let conn = conn(5000, b1());
        world.open(conn);
        (0..20).for_each(|i| serve(&mut world, conn, i, 2));
        let due = world.engine.next_timer(world.now);
        world.now = due;
        world.pass(late);
        world.timers();
        ask(&mut world, conn, 20);
        let asked = world.now;
        while world.failures().is_empty() {
            world.run(1, frozen);
        }
        world.now.since(asked).as_millis()
    };
    assert!((395..=410).contains(&detected_after(0)), "{}", detected_after(0));
    // 30 ms late: 32 times as much for an answer.
    assert!((1150..=1170).contains(&detected_after(30)), "{}", detected_after(30));
    assert!(detected_after(5000) <= 5300, "bounded");
}

#[test]
fn a_check_whose_first_syn_is_lost_is_repeated_in_time() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    (0..20).for_each(|i| serve(&mut world, conn, i, 2));
    let (asked, at) = ask(&mut world, conn, 20);
    let mut lost = 0;
    for _ in 0..800 {
        world.pass(1);
        world.timers();
        let checks = world.probes.iter().filter(|(.., question)| *question == Question::Application).count();
        if lost == 0 && checks > 0 {
            lost = checks;
            world.probes.retain(|(.., question)| *question != Question::Application);
        }
        world.answer(&lives);
    }
    assert_eq!((lost, world.failures().len()), (1, 0));
    world.backend(conn, at, &response(100), asked);
}

/// A keep-alive of the client's, or one in its name, is dropped by the backend, whatever window it tells.
#[test]
fn a_backend_whose_client_has_no_room_owes_nothing() {
    let (mut world, conn) = (World::new(), conn(5000, b1()));
    world.handshake(conn);
    let (request, whole) = (get("/a"), response(60_000));
    let asked = request.len() as u32;
    world.client_says(conn, 0, &request, 0, 30_000);
    world.backend(conn, 0, &whole[..30_000], asked);
    world.client_says(conn, asked, b"", 30_000, 0);
    world.client_says(conn, asked - 1, b"", 30_000, 30_000);
    world.run(30_000, lives);
    assert_eq!(world.counter("suspicions"), 0);
    world.client_says(conn, asked, b"", 30_000, 30_000);
    world.run(30_000, lives);
    assert_eq!(world.counter("suspicions"), 1, "it has room");
}

/// A sender sends with half of the greatest window, however small that is (RFC 9293 §3.8.6.2.1).
#[test]
fn a_client_with_a_small_window_has_room_with_half_of_it() {
    let (mut world, conn) = (World::new(), conn(5000, b1()));
    let syn = SegmentBuilder {
        seq: conn.client_isn,
        flags: Flags::SYN,
        window: 4000,
        syn: Some(OPTIONS),
        ..SegmentBuilder::new(conn.flow.client, conn.flow.backend)
    };
    world.log(syn.build(), false, false);
    world.syn_ack(conn);
    let (request, whole) = (get("/a"), response(60_000));
    let asked = request.len() as u32;
    world.client_says(conn, 0, &request, 0, 4000);
    world.backend(conn, 0, &whole[..2200], asked);
    world.client_says(conn, asked, b"", 2200, 1768);
    world.run(30_000, lives);
    assert_eq!(world.counter("suspicions"), 0);
    world.client_says(conn, asked, b"", 2200, 2778);
    world.run(30_000, lives);
    assert_eq!(world.counter("suspicions"), 1);
}

/// A kernel goes on repeating when its application stands still; what it repeats may be lost behind the logger, so that the client,
/// which has it, never acknowledges it again.
#[test]
fn what_is_repeated_is_no_news_of_the_application() {
    let (mut world, (conn, asked)) = (World::new(), (conn(5000, b1()), get("/a").len() as u32));
    world.open(conn);
    world.client(conn, 0, &get("/a"), 0);
    let whole = response(60_000);
    world.backend(conn, 0, &whole[..1000], asked);
    world.client(conn, asked, b"", 1000);
    world.backend(conn, 0, &whole[..1000], asked);
    world.run(30_000, frozen);
    assert_eq!(world.failures().len(), 1);
}
