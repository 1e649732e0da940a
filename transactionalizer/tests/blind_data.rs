//! Data that an endpoint would refuse for its acknowledgement (RFC 9293 §3.10.7.4, RFC 5961 §5.2) is no part of the stream:
//! the first copy that counts is the first that its receiver takes.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::Evidence;
use common::{World, b1, conn};
use packet::Flags;

const REQUEST: &[u8] = b"GET /real HTTP/1.1\r\nHost: h\r\n\r\n";
const FORGED: &[u8] = b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";

#[test]
fn forged_requests_and_responses_do_not_become_the_first_copy() {
    // Of what was never sent, and older than any window.
    for wrong in [5_000_u32, 0u32.wrapping_sub(20_000_000)] {
        let mut world = World::new();
        let conn = conn(1000, b1());
        world.open(conn);
        world.client(conn, 0, FORGED, wrong);
        world.client_flags(conn, Flags::FIN, FORGED.len() as u32, b"", wrong);
        world.client(conn, 0, REQUEST, 0);
        world.backend(conn, 0, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", wrong);
        world.backend(conn, 0, RESPONSE, REQUEST.len() as u32);
        world.backend_flags(conn, Flags::FIN, RESPONSE.len() as u32, b"", REQUEST.len() as u32);
        let reports = world.reports();
        let [(Evidence::PrematureFin, _, report)] = reports[..] else { panic!("{reports:?}") };
        assert_eq!(report.pending[0].bytes, REQUEST);
        assert_eq!(report.unacked, RESPONSE);
        assert!(!report.client_fin && report.unrecoverable.is_none(), "{report:?}");
        assert_eq!(world.counter("conflicts"), 0);
    }
}
