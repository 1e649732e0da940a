//! Transactions beyond what 16 bits count, of IPv4 and IPv6 clients, found both ways between names and sequence numbers.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::Flow;
use cluster::tags::TagRules;
use cluster::transaction::TransactionId;
use common::{CONFIG, OPTIONS, World, addr, get, response};
use packet::{SegmentBuilder, Seq, TcpSegment, Time};
use transactionalizer::connection::{Connection, Handshake, Payload};
use transactionalizer::kept::Total;
use transactionalizer::spans::Record;
use transactionalizer::transactions::Side;

const CLIENT_ISN: Seq = Seq(u32::MAX - 1000);
const BACKEND_ISN: Seq = Seq(7);
/// Pipelined requests in a segment.
const TOGETHER: u32 = 500;

fn segment(from: SocketAddr, to: SocketAddr, seq: Seq, ack: Seq, payload: &[u8]) -> Vec<u8> {
    let mut segment = SegmentBuilder::new(from, to);
    (segment.seq, segment.ack, segment.window, segment.payload) = (seq, Some(ack), 65_000, payload);
    segment.build()
}

/// A connection that has answered `count` requests; where its streams stand.
fn answered(client: SocketAddr, backend: SocketAddr, count: u32) -> (Connection, Seq, Seq) {
    let cluster = Cluster::parse(CONFIG, "test").unwrap();
    let rules = TagRules::new(&cluster.tags);
    let handshake = Handshake {
        client_isn: CLIENT_ISN,
        backend_isn: BACKEND_ISN,
        options: OPTIONS,
        backend_options: OPTIONS,
        base: 0,
    };
    let now = Time::default();
    let share = Total::new(1 << 20).share();
    let mut connection = Connection::new(Flow { client, backend }, &handshake, &cluster, share, now);
    let (mut asked, mut said) = (CLIENT_ISN + 1, BACKEND_ISN + 1);
    for _ in 0..count / TOGETHER {
        let (requests, replies) =
            (get("/a").repeat(TOGETHER as usize), response(3).repeat(TOGETHER as usize));
        let packet = segment(client, backend, asked, said, &requests);
        connection.handle_client(&TcpSegment::parse(&packet).unwrap(), Record::default(), now, &rules);
        asked = asked + requests.len() as u32;
        let packet = segment(backend, client, said, asked, &replies);
        let payload = Payload::In(Record::default());
        connection.handle_backend(&TcpSegment::parse(&packet).unwrap(), payload, now);
        said = said + replies.len() as u32;
        while connection.poll_measured().is_some() {}
    }
    (connection, asked, said)
}

#[test]
fn ordinals_beyond_65_535_are_counted_on_and_found_both_ways() {
    const COUNT: u32 = 70_000;
    for (client, backend) in [("10.0.1.1:4000", "10.0.3.1:8080"), ("[2001:db8::5]:4000", "[2001:db8::80]:80")]
    {
        let client = addr(client);
        let (connection, asked, said) = answered(client, addr(backend), COUNT);
        assert_eq!((connection.t_l(), connection.unrecoverable()), (COUNT, None));
        let last = TransactionId::new(client, COUNT);
        assert_eq!(u32::from(last.ordinal), COUNT - 65_536);
        let ends = [(Side::Requests, asked, get("/a").len()), (Side::Responses, said, response(3).len())];
        for (side, end, length) in ends {
            for byte in [1, length as u32] {
                assert_eq!(connection.transaction_at(side, end - byte), Some(last));
            }
            assert_eq!(connection.place_of(side, last), Some((end - length as u32, length as u64)));
            assert_eq!(connection.transaction_at(side, end), None, "it has not been logged");
            let long_over = TransactionId::new(client, COUNT - 1000);
            assert_eq!(connection.place_of(side, long_over), None);
        }
        let other = TransactionId::new(addr("10.0.9.9:4000"), COUNT);
        assert_eq!(connection.place_of(Side::Requests, other), None, "of another client");
    }
}

/// From the packets of an IPv6 client to the report of its failure; the other one on the same backend is left alone.
#[test]
fn an_ipv6_clients_connection_is_followed_and_reported() {
    let config =
        CONFIG.replace("10.0.3.2:8080", "[2001:db8::80]:80").replace("10.9.9.9:80", "[2001:db8::99]:80");
    let mut world = World::with(&config.replace("10.0.3.1:8080", "[2001:db8::81]:80"));
    for client in ["[2001:db8::5]:4000", "[2001:db8::6]:4000"] {
        let flow = Flow { client: addr(client), backend: addr("[2001:db8::80]:80") };
        let conn = common::Conn { flow, client_isn: CLIENT_ISN, backend_isn: BACKEND_ISN };
        world.open(conn);
        world.client(conn, 0, &get("/a"), 0);
        world.backend(conn, 0, &response(100)[..60], get("/a").len() as u32);
    }
    let flow = Flow { client: addr("[2001:db8::6]:4000"), backend: addr("[2001:db8::80]:80") };
    let conn = common::Conn { flow, client_isn: CLIENT_ISN, backend_isn: BACKEND_ISN };
    world.backend_flags(conn, packet::Flags::FIN, 60, b"", get("/a").len() as u32);
    let reports = world.reports();
    assert_eq!((reports.len(), reports[0].2.flow, reports[0].2.unacked.len()), (1, flow, 60));
    assert_eq!(reports[0].2.unrecoverable, None);
}
