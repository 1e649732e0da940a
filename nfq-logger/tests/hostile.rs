//! Traffic that no honest TCP sends, at the logger: what becomes of it, and that nobody else notices. `docs/hostile.md` names
//! the rows.

#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::net::SocketAddr;

use cluster::control::{Flow, ToLogger};
use common::{ACK, Bench, JUDGE, RST, SYN, SYN_ACK, flow, segment};
use nfq_logger::{Arrival, Decision, Engine, Limits};
use packet::{Flags as Tcp, SegmentBuilder, Seq, Time};
use proptest::prelude::*;
use segment_log::Flags;

const PLAIN: Decision = Decision::Accept(Flags::EMPTY);
const BACK: Decision = Decision::Accept(Flags::FROM_BACKEND);

/// A connection that has its handshake behind it; the next bytes are 101 and 501.
fn opened(limits: Limits) -> (Bench, Flow) {
    let (mut bench, flow) = (Bench::new(limits), flow(1000, 1));
    bench.engine.handle_control(JUDGE, &ToLogger::Judge);
    assert_eq!(bench.forth(flow, 100, SYN, b""), PLAIN);
    assert_eq!(bench.back(flow, 500, SYN_ACK, b""), BACK);
    (bench, flow)
}

/// The connection is followed as before: what is new is new, what is old is old.
fn is_followed(bench: &mut Bench, flow: Flow) {
    assert_eq!(bench.forth(flow, 101, ACK, b"GET"), PLAIN);
    assert_eq!(bench.back(flow, 501, ACK, b"200"), BACK);
    assert_eq!(bench.forth(flow, 101, ACK, b"GET"), Decision::Accept(Flags::RETRANSMISSION));
}

/// Data is found in whole packets only: a fragment could hide what its other parts overwrite (RFC 1858, RFC 8200 §4.5).
#[test]
fn fragments_are_neither_read_nor_passed() {
    let (mut bench, flow) = opened(Limits::default());
    let whole = segment(flow.client, flow.backend, 101, ACK, b"forged");
    // More follow; the last of some; a tiny first one; one that begins within the TCP header.
    for (field, length) in [(0x2000, 46), (0x0010, 46), (0x2000, 28), (0x0001, 40)] {
        let mut fragment = whole.clone();
        fragment[6..8].copy_from_slice(&u16::to_be_bytes(field));
        fragment.truncate(length);
        assert_eq!(bench.packet(&fragment), Decision::Drop);
    }
    let ends: [SocketAddr; 2] = ["[2001:db8::1]:9".parse().unwrap(), "[2001:db8::2]:80".parse().unwrap()];
    let mut v6 = segment(ends[0], ends[1], 101, ACK, b"forged");
    let fragment_header = [6, 0, 0, 1, 0, 0, 0, 7];
    v6[6] = 44;
    v6.splice(40..40, fragment_header);
    let length = v6.len() as u16 - 40;
    v6[4..6].copy_from_slice(&length.to_be_bytes());
    assert_eq!(bench.packet(&v6), Decision::Drop);
    assert_eq!(bench.counter("unparsable"), 5);
    is_followed(&mut bench, flow);
}

/// Its endpoint may reject it, so it must not end anything here (RFC 5961 §3).
#[test]
fn a_reset_from_anywhere_makes_the_logger_forget_nothing() {
    let (mut bench, flow) = opened(Limits::default());
    for seq in [0, 90, 101, 5000, 0x8000_0000, u32::MAX] {
        assert!(matches!(bench.forth(flow, seq, RST, b""), Decision::Accept(_)));
    }
    is_followed(&mut bench, flow);
    // The backend's is for the judge, wherever it lies; it is logged, so that the judge can see where.
    let Decision::Hold(_, hold) = bench.back(flow, 0x7000_0000, RST, b"") else { panic!("not held") };
    bench.engine.handle_control(JUDGE, &ToLogger::Suppress { hold });
    assert_eq!(bench.forth(flow, 104, ACK, b"more"), PLAIN);
}

/// The same bytes with other content are logged, too: which copy counts is for the reader, and the first one it is.
#[test]
fn other_content_for_logged_bytes_is_marked_as_repeated() {
    let (mut bench, flow) = opened(Limits::default());
    assert_eq!(bench.forth(flow, 101, ACK, b"GET /mine"), PLAIN);
    assert_eq!(bench.forth(flow, 105, ACK, b"/yours"), Decision::Accept(Flags::RETRANSMISSION));
}

#[test]
fn numbers_wrap() {
    let mut bench = Bench::new(Limits::default());
    let flow = flow(1000, 1);
    bench.forth(flow, u32::MAX - 5, SYN, b"");
    assert_eq!(bench.forth(flow, u32::MAX - 4, ACK, b"0123456789"), PLAIN);
    assert_eq!(bench.forth(flow, 5, ACK, b"next"), PLAIN);
    assert_eq!(bench.forth(flow, u32::MAX - 4, ACK, b"0123456789"), Decision::Accept(Flags::RETRANSMISSION));
    assert_eq!(bench.forth(flow, 20, ACK, b"later"), Decision::Accept(Flags::OUT_OF_ORDER));
}

/// 100,000 SYNs of clients that do not exist: the tables stay bounded, and who is really there is not forgotten.
#[test]
fn a_flood_of_syns_forgets_those_who_say_nothing_more() {
    let limits = Limits { flows: 1000, ..Limits::default() };
    let (mut bench, flow) = opened(limits);
    for number in 0..100_000_u32 {
        let [_, host, high, low] = number.to_be_bytes();
        let client = SocketAddr::from(([10, host, high, low], 9));
        assert_eq!(bench.forth(Flow { client, ..flow }, number, SYN, b""), PLAIN);
        if number % 500 == 0 {
            assert_ne!(bench.forth(flow, 101, ACK, b"GET"), Decision::Accept(Flags::OUT_OF_ORDER));
        }
    }
    let gauges = bench.engine.gauges();
    assert!(gauges.contains(&("flows_now", 1000)), "{gauges:?}");
    assert!(bench.counter("flows_forgotten") > 98_000);
    assert_eq!(bench.forth(flow, 101, ACK, b"GET"), Decision::Accept(Flags::RETRANSMISSION));
}

/// Control messages that make no sense: for flows that nobody knows, for holds that never were, again and again.
#[test]
fn fences_and_judgements_of_anything_stay_bounded() {
    let limits = Limits { fences: 100, ..Limits::default() };
    let (mut bench, flow) = opened(limits);
    for port in 2000..12_000 {
        let unknown = common::flow(port, 1);
        for message in [
            ToLogger::Fence(unknown),
            ToLogger::Fence(unknown),
            ToLogger::Release { hold: u64::from(port) },
            ToLogger::Suppress { hold: u64::MAX },
        ] {
            bench.engine.handle_control(77, &message);
        }
    }
    assert_eq!(bench.engine.fenced_flows().len(), 100);
    assert_eq!(bench.counter("fences_forgotten"), 9900);
    assert_eq!(bench.counter("judgements_unknown"), 20_000);
    assert_eq!(bench.released(), []);
    is_followed(&mut bench, flow);
}

/// Offset of the options in a packet that [`with_options`] makes.
const OPTIONS: usize = 40;

/// An IPv4 segment with this option field, padded with its end marker, and a right checksum.
fn with_options(flow: Flow, seq: u32, field: &[u8], payload: &[u8]) -> Vec<u8> {
    let ends = SegmentBuilder::new(flow.client, flow.backend);
    let room = field.len().next_multiple_of(4);
    let body = [field, &vec![0; room - field.len()], payload].concat();
    let mut packet = SegmentBuilder { seq: Seq(seq), ack: Some(Seq(501)), payload: &body, ..ends }.build();
    packet[32] = (5 + room as u8 / 4) << 4;
    packet::fill_checksum(&mut packet).unwrap();
    assert_eq!(OPTIONS + body.len(), packet.len());
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Unknown ones, illegal lengths, in any segment (RFC 9293 MUST-5 to MUST-7): logged and passed as they are, and the data
    /// behind them is where it is.
    #[test]
    fn options_of_any_kind_and_length_hide_no_data(field in prop::collection::vec(any::<u8>(), 0..40)) {
        let (mut bench, flow) = opened(Limits::default());
        prop_assert_eq!(bench.packet(&with_options(flow, 101, &field, b"GET")), PLAIN);
        let again = bench.forth(flow, 101, ACK, b"GET");
        prop_assert_eq!(again, Decision::Accept(Flags::RETRANSMISSION));
        prop_assert_eq!(bench.forth(flow, 104, ACK, b"more"), PLAIN);
    }

    /// Any change of a packet: dropped, or logged and passed with its checksum right; never a panic.
    #[test]
    fn changed_packets_pass_only_with_a_right_checksum(
        changes in prop::collection::vec((0_usize..60, any::<u8>()), 1..4),
        repaired: bool,
    ) {
        let (mut bench, flow) = opened(Limits::default());
        let mut packet = segment(flow.client, flow.backend, 101, ACK, &[7; 20]);
        let original = packet.clone();
        for (at, value) in &changes {
            packet[*at] = *value;
        }
        if repaired {
            let _ = packet::fill_checksum(&mut packet);
        }
        let decision = bench.packet(&packet);
        // Bytes that no checksum covers: TTL and the like; a router has checked the IP header's own.
        let covered = packet[12..] != original[12..];
        prop_assert!(repaired || !covered || decision == Decision::Drop || checksums_agree(&packet, &original));
    }
}

/// A change that leaves the sums as they were, such as two swapped words.
fn checksums_agree(packet: &[u8], original: &[u8]) -> bool {
    let valid =
        |bytes: &[u8]| packet::TcpSegment::parse(bytes).is_ok_and(|segment| segment.checksums_valid());
    valid(original) && valid(packet)
}

/// What the kernel has put together itself has no checksum yet, and up to 64 KiB.
#[test]
fn the_largest_packet_is_taken_whole() {
    let flow = flow(1000, 1);
    let mut engine = Engine::new([flow.backend], 1, Limits::default());
    let payload = vec![7; 65_495];
    let packet = segment(flow.backend, flow.client, 1, ACK, &payload);
    let arrival = Arrival { id: 1, gso: true, verify: false, packet: &packet };
    let decision = engine.handle_packet(Time::from_millis(1), arrival);
    assert_eq!(decision, Decision::Accept(Flags::FROM_BACKEND | Flags::GSO));
    let next = segment(flow.backend, flow.client, 65_496, Tcp::ACK, b"x");
    let arrival = Arrival { id: 2, gso: false, verify: true, packet: &next };
    assert_eq!(engine.handle_packet(Time::from_millis(2), arrival), BACK);
}
