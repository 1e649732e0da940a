//! Bytes that come again with other content: the first copy counts, the contradiction is counted, whatever had been delivered.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, b1, conn, get, response};
use packet::Flags;

#[test]
fn other_response_bytes_are_counted_and_the_first_copy_is_reported() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let request = get("/a");
    let asked = request.len() as u32;
    world.client(conn, 0, &request, 0);
    let full = response(1000);
    world.backend(conn, 0, &full[..600], asked);
    world.backend(conn, 100, &full[100..700], asked);
    assert_eq!(world.counter("conflicts"), 0, "the same again, and more");
    let mut other = full[200..800].to_vec();
    other[300] ^= 1;
    world.backend(conn, 200, &other, asked);
    assert_eq!(world.counter("conflicts"), 1);
    // Beyond what was delivered it is the first copy itself.
    let mut longer = full[790..900].to_vec();
    longer[50] ^= 1;
    world.backend(conn, 790, &longer, asked);
    assert_eq!(world.counter("conflicts"), 1);
    world.backend_flags(conn, Flags::FIN, 900, b"", asked);
    let reports = world.reports();
    assert_eq!(reports[0].2.unacked[..790], full[..790]);
}

#[test]
fn other_request_bytes_are_counted_and_the_first_copy_is_repeated() {
    let mut world = World::new();
    let conn = conn(5000, b1());
    world.open(conn);
    let request = [get("/first"), get("/second")].concat();
    world.client(conn, 0, &request, 0);
    world.client(conn, 0, &request, 0);
    world.client(conn, 10, &request[10..30], 0);
    // A keep-alive probe with a byte of anything (RFC 1122 §4.2.3.6).
    world.client(conn, request.len() as u32 - 1, b"?", 0);
    assert_eq!(world.counter("conflicts"), 0);
    world.client(conn, 5, b"other", 0);
    world.client(conn, request.len() as u32 - 20, b"X-Smuggled: 1", 0);
    assert_eq!(world.counter("conflicts"), 2);
    world.backend_flags(conn, Flags::FIN, 0, b"", request.len() as u32);
    let reports = world.reports();
    let pending: Vec<u8> = reports[0].2.pending.iter().flat_map(|request| request.bytes.clone()).collect();
    assert_eq!(pending, request);
}
