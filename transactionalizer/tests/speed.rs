//! How fast the engine reads a large response; requests: `scripts/bench detection`. `cargo test --release -p transactionalizer --test speed -- --ignored --nocapture`

#![allow(clippy::disallowed_methods, reason = "a measurement owns a clock")]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use common::{World, b1, conn, get};

#[test]
#[ignore = "a measurement"]
fn bulk() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let request = get("/a");
    world.client(conn, 0, &request, 0);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n";
    let body = vec![7_u8; 60_000];
    let asked = request.len() as u32;
    world.backend(conn, 0, head, asked);
    let rounds = 20_000_u32;
    let begin = Instant::now();
    for round in 0..rounds {
        world.log.0.clear();
        world.log.0.resize(round as usize % 2, vec![]);
        let at = head.len() as u32 + round * 60_000;
        world.backend(conn, at, &body, asked);
        world.client(conn, asked, b"", at + 60_000);
    }
    let took = begin.elapsed();
    let megabytes = f64::from(rounds) * 0.06;
    println!("bulk: {:.0} MB/s, building the packets included", megabytes / took.as_secs_f64());
}
