//! Streams put together from packets, IPv4 and IPv6, against a reference that knows nothing of sequence numbers or pieces: a
//! map from each byte's place to its first copy.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Log, World, addr, b1, conn, response};
use packet::{SegmentBuilder, Seq, TcpSegment};
use proptest::prelude::*;
use transactionalizer::direction::{Direction, Taken};
use transactionalizer::spans::{Record, Spans};

/// What a direction takes before any window was announced, and what it still believes beyond.
const EDGE: i64 = 65_535 + (1 << 20);

/// A segment: the place of its first byte, counted from the one after the SYN, and its bytes.
#[derive(Debug, Clone)]
struct Piece {
    at: i64,
    data: Vec<u8>,
}

/// The stream as the receiver's stack would have it.
#[derive(Default)]
struct Reference {
    first_copies: BTreeMap<i64, u8>,
    /// Contiguous bytes: these have left for the application.
    given: i64,
}

impl Reference {
    /// True: a byte that waits for others before it came again with another value.
    fn push(&mut self, piece: &Piece) -> bool {
        let mut conflict = false;
        for (at, byte) in (piece.at..).zip(&piece.data).filter(|(at, _)| *at >= self.given) {
            conflict |= *self.first_copies.entry(at).or_insert(*byte) != *byte;
        }
        while self.first_copies.contains_key(&self.given) {
            self.given += 1;
        }
        conflict
    }

    fn stream(&self) -> Vec<u8> {
        self.first_copies.range(..self.given).map(|(_, byte)| *byte).collect()
    }

    fn waiting(&self) -> usize {
        self.first_copies.range(self.given..).count()
    }
}

/// What this project makes of the same packets.
struct Subject {
    ends: (SocketAddr, SocketAddr),
    isn: Seq,
    direction: Direction,
    stream: Vec<u8>,
    spans: Spans,
    log: Log,
}

impl Subject {
    fn new(isn: u32, ipv6: bool, max: usize) -> Self {
        let ends =
            if ipv6 { ("[2001:db8::1]:5000", "[2001:db8::2]:80") } else { ("10.0.0.1:5000", "10.0.0.2:80") };
        Self {
            ends: (addr(ends.0), addr(ends.1)),
            isn: Seq(isn),
            direction: Direction::new(Seq(isn), max),
            stream: Vec::new(),
            spans: Spans::default(),
            log: Log::default(),
        }
    }

    /// As a connection does it: from the packet's own bytes, first copies noted by their places in the log.
    fn push(&mut self, piece: &Piece) -> Taken {
        let seq = self.isn + 1 + piece.at as u32;
        let builder =
            SegmentBuilder { seq, payload: &piece.data, ..SegmentBuilder::new(self.ends.0, self.ends.1) };
        let packet = builder.build();
        let segment = TcpSegment::parse(&packet).unwrap();
        let stream = &mut self.stream;
        let deliver = &mut |bytes: &[u8]| stream.extend_from_slice(bytes);
        let taken = self.direction.push(segment.seq(), segment.payload(), deliver);
        if let Taken::At(at) = taken {
            let skip = (-at).max(0) as usize;
            let record = Record { position: None, number: self.log.0.len() as u64 };
            let length = piece.data.len().saturating_sub(skip);
            self.spans.insert(at.max(0) as u64, length, record, skip).unwrap();
        }
        self.log.0.push(packet);
        taken
    }
}

/// Around the ends of the number space, and anywhere.
fn isn() -> impl Strategy<Value = u32> {
    prop_oneof![(u32::MAX - 700)..=u32::MAX, any::<u32>()]
}

/// Segments of one sender that is honest about what it repeats, or not, anywhere in 600 bytes and a little before them.
fn pieces(honest: bool) -> impl Strategy<Value = Vec<Piece>> {
    let piece = (-20_i64..600, 1_usize..120, any::<u8>()).prop_map(move |(at, length, fill)| {
        let byte = |place: i64| if honest { (place * 7) as u8 } else { fill.wrapping_add(place as u8) };
        Piece { at, data: (at..at + length as i64).map(byte).collect() }
    });
    prop::collection::vec(piece, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Repeated, overlapping, partial, contradicting, in any order: each byte once, in order, the first copy; so also what a
    /// recovery would read back from the log.
    #[test]
    fn every_byte_once_in_order_and_the_first_copy_wins(
        isn in isn(), ipv6: bool, pieces in any::<bool>().prop_flat_map(pieces),
    ) {
        let (mut subject, mut reference) = (Subject::new(isn, ipv6, 1 << 20), Reference::default());
        for piece in &pieces {
            let before = subject.direction.conflicts;
            let conflict = reference.push(piece);
            prop_assert_eq!(subject.push(piece), Taken::At(piece.at));
            prop_assert_eq!(subject.direction.conflicts > before, conflict, "{:?}", piece);
            prop_assert_eq!(subject.direction.delivered(), reference.given as u64);
            prop_assert_eq!(subject.direction.kept(), reference.waiting());
        }
        prop_assert_eq!(&subject.stream, &reference.stream());
        let read = subject.spans.read(0..reference.given as u64, &subject.log);
        prop_assert_eq!(read, Some(reference.stream()));
    }

    /// What is kept beyond gaps stays within its bound. What does not fit is said to be missing, and the rest is right.
    #[test]
    fn gaps_are_bounded_in_memory(isn in isn(), max in 0_usize..300, pieces in pieces(true)) {
        let (mut subject, mut reference) = (Subject::new(isn, false, max), Reference::default());
        for piece in &pieces {
            let (waiting, taken) = (reference.waiting(), subject.push(piece));
            if taken == Taken::Overflow {
                prop_assert!(waiting + piece.data.len() > max, "refused though it fits");
                break;
            }
            reference.push(piece);
            prop_assert!(subject.direction.kept() <= max);
            prop_assert_eq!(subject.direction.kept(), reference.waiting());
        }
        prop_assert!(reference.stream().starts_with(&subject.stream) || subject.stream.starts_with(&reference.stream()));
    }

    /// Far outside the window, on either side of half the number space: as if it had not come.
    #[test]
    fn what_no_receiver_takes_is_no_part_of_it(isn in isn(), far in EDGE + 1..1 << 31, pieces in pieces(false)) {
        let (mut subject, mut reference) = (Subject::new(isn, true, 1 << 20), Reference::default());
        for piece in &pieces {
            let at = far.min(i64::from(i32::MAX) - 700) + subject.direction.delivered() as i64;
            prop_assert_eq!(subject.push(&Piece { at, data: vec![1] }), Taken::Outside);
            subject.push(piece);
            reference.push(piece);
        }
        prop_assert_eq!(&subject.stream, &reference.stream());
        prop_assert_eq!(subject.direction.kept(), reference.waiting());
    }
}

#[test]
fn a_stream_of_more_than_four_gigabytes_is_counted_on() {
    let mut subject = Subject::new(u32::MAX - 100, false, 1 << 20);
    let (mut at, data) = (0, vec![7; 60_000]);
    while at < 5 << 30 {
        let seq = subject.isn + 1 + at as u32;
        subject.direction.push(seq, &data, &mut |_| {});
        subject.direction.handle_ack(seq + 60_000, 60_000);
        at += 60_000;
    }
    assert_eq!(subject.direction.delivered(), at as u64);
    assert_eq!(subject.direction.offset(subject.direction.seq(at as u64 - 1)), at - 1);
}

/// A gap that nobody fills: its bytes are given back when the connection has been idle for as long as it may.
#[test]
fn gaps_are_bounded_in_time() {
    let mut world = World::new();
    let conn = conn(4000, b1());
    world.open(conn);
    world.client(conn, 0, &common::get("/x"), 0);
    let whole = response(20_000);
    world.backend(conn, 10_000, &whole[10_000..], 0);
    let kept = |world: &World| world.engine.status().counters["kept_bytes_now"];
    assert!(kept(&world) >= 10_000, "{}", kept(&world));
    world.pass(Duration::from_secs(10_000).as_millis() as u64);
    world.timers();
    assert_eq!(kept(&world), 0);
}

/// Nobody here offers Fast Open: such data is not acknowledged, and comes again (RFC 9293 §3.10.7.2).
#[test]
fn data_on_a_syn_is_no_part_of_the_stream() {
    let mut world = World::new();
    let conn = conn(4000, b1());
    let forged = b"GET /forged HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut syn = SegmentBuilder::new(conn.flow.client, conn.flow.backend);
    (syn.seq, syn.flags, syn.window, syn.payload) = (conn.client_isn, packet::Flags::SYN, 65535, forged);
    world.log(syn.build(), false, false);
    world.open(conn);
    world.client(conn, 0, &common::get("/real"), 0);
    world.backend(conn, 0, &response(1000)[..500], 40);
    world.backend_flags(conn, packet::Flags::FIN, 500, b"", 40);
    let reports = world.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].2.pending[0].bytes, common::get("/real"));
}

/// A greater scale counts as 14 (RFC 7323 §2.3): what is believed beyond the window stays within a gigabyte.
#[test]
fn a_window_scale_above_14_counts_as_14() {
    let mut direction = Direction::new(Seq(0), 1 << 20);
    direction.set_scale(255);
    direction.handle_ack(Seq(1), u16::MAX);
    assert_eq!(direction.window(), u32::from(u16::MAX) << 14);
    assert_eq!(direction.push(Seq(1) + (1 << 30) + (1 << 21), b"x", &mut |_| {}), Taken::Outside);
}
