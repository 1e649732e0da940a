//! What a connection costs in memory, counted by the allocator: the same on every machine.

#![allow(clippy::unwrap_used)]

mod common;

use allocation_counter::measure;
use common::{CONFIG, Conn, World, b1, conn, get, response};

const CONNECTIONS: u32 = 100_000;
/// As full a hash table as with four times as many.
const FEWER: u32 = CONNECTIONS / 4;

fn world() -> World {
    World::with(&format!("{CONFIG}\n[splice]\nconnections = 200000\n"))
}

fn numbered(number: u32) -> Conn {
    let mut conn = conn((number % 50_000) as u16 + 1000, b1());
    conn.flow.client.set_ip(std::net::Ipv4Addr::from_bits(0x0a01_0000 + number / 50_000).into());
    conn
}

/// The engine's bytes for each of the connections, as asked of the allocator, after `then` with each and `pause` ms.
fn bytes_each(connections: u32, pause: u64, then: impl Fn(&mut World, Conn)) -> u64 {
    let mut world = world();
    let counted = measure(|| {
        for number in 0..connections {
            let conn = numbered(number);
            world.open(conn);
            then(&mut world, conn);
            world.log.0.clear();
        }
        world.pass(pause);
        world.timers();
        world.log.0 = Vec::new();
        world.probes = Vec::new();
        world.actions = Vec::new();
    });
    assert_eq!(world.engine.status().counters["connections"], u64::from(connections));
    counted.bytes_current as u64 / u64::from(connections)
}

/// Many answers, all acknowledged, and then nothing: nothing is left that recovery could ask for.
#[test]
fn an_idle_connection_takes_at_most_1024_bytes() {
    let bytes = bytes_each(FEWER, 1000, |world, conn| {
        let (request, reply) = (get("/a"), response(100));
        for turn in 0..9 {
            let (asked, at) = (turn * request.len() as u32, turn * reply.len() as u32);
            world.client(conn, asked, &request, at);
            world.backend(conn, at, &reply, asked + request.len() as u32);
            world.client(conn, asked + request.len() as u32, b"", at + reply.len() as u32);
        }
    });
    println!("idle: {bytes} bytes each");
    assert!(bytes <= 1024, "{bytes}");
}

/// Half an answer: the request, the head and where the bytes lie are kept besides.
#[test]
fn a_connection_in_the_middle_of_an_answer_takes_little_more() {
    let bytes = bytes_each(CONNECTIONS, 0, |world, conn| {
        let request = get("/a");
        world.client(conn, 0, &request, 0);
        world.backend(conn, 0, &response(1000)[..500], request.len() as u32);
    });
    println!("answering: {bytes} bytes each");
    assert!(bytes <= 2560, "{bytes}");
}

/// At the bound the connections that grow become unrecoverable, and are counted; traffic is judged no more.
#[test]
fn all_together_are_bounded() {
    let config = CONFIG.replace("request_bytes = 65536", "request_bytes = 65536\nkept_bytes = 65536");
    let mut world = World::with(&config);
    let head = b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n";
    for port in 1..=20 {
        let conn = conn(port, b1());
        world.open(conn);
        world.client(conn, 0, head, 0);
        world.client(conn, head.len() as u32, &[b'x'; 9000], 0);
    }
    assert_eq!(world.counter("kept_bytes_limit_lost"), 13);
    assert!(world.engine.status().counters["kept_bytes_now"] <= 65_536);
    world.run(2, |_| None);
    world.backend_flags(conn(20, b1()), packet::Flags::FIN, 0, b"", 9000).unwrap();
    assert!(world.failures().is_empty(), "the client has the end of an unrecoverable connection");
    world.backend_flags(conn(1, b1()), packet::Flags::FIN, 0, b"", 9000).unwrap();
    assert_eq!(world.reports()[0].2.unrecoverable, None);
}
