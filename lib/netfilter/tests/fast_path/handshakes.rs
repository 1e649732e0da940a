//! Clients that begin, made of any bytes: SYNs, acknowledgements of what the program answers, and what resembles them.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use netfilter::fast_path::{Answers, Tried};
use nft_rules::placement::queue_of;
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};
use proptest::prelude::*;
use sim::fast_path::{FastPath as Reference, Fate};

use crate::case::{Bytes, Packet, now, spoil};
use crate::{MTU, Router, THREADS};

/// A client that is on the fast path, one that is kept off, one whose connection may have ended, and others.
const SPLICED: u16 = 4000;
const KEPT_OFF: u16 = 4001;
const CLOSED: u16 = 4002;
const PORTS: [u16; 7] = [4003, 4004, 65_535, 1, SPLICED, KEPT_OFF, CLOSED];
/// Of what was answered, milliseconds.
const AGES: [u64; 12] = [0, 0, 1, 50, 3000, 9950, 9999, 10_050, 20_000, 40_000, 70_000, 10_000_000];
const MSS: [u16; 15] = [87, 88, 535, 536, 1219, 1220, 1359, 1360, 1439, 1440, 1459, 1460, 8959, 8960, 65_535];

fn service() -> SocketAddr {
    "10.9.9.9:8080".parse().unwrap()
}

#[derive(Debug)]
pub(crate) struct Handshakes {
    answers: Answers,
    /// Of a connection that is on the fast path to its end.
    end: Vec<Packet>,
    packets: Vec<Packet>,
}

impl Handshakes {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut bytes = Bytes(bytes);
        let answers = answers(&mut bytes);
        let count = 1 + bytes.byte() % 8;
        let packets = (0..count).map(|_| packet(&mut bytes, &answers)).collect();
        let end = end(&mut bytes);
        Self { answers, end, packets }
    }
}

/// Both sides close and acknowledge that, or nearly so.
fn end(bytes: &mut Bytes<'_>) -> Vec<Packet> {
    let (client, server) = (closed(), "10.0.2.2:80".parse().unwrap());
    let numbers = [bytes.number(), bytes.number()];
    let mut segment = |to_server: bool, fin: bool, ends: [u32; 2]| {
        let (source, destination) = if to_server { (client, service()) } else { (server, client) };
        let [own, other] = if to_server { numbers } else { [numbers[1], numbers[0]] };
        let [seq, ack] = [own.wrapping_add(ends[0]), other.wrapping_add(ends[1])];
        // Mostly as it should be.
        let seq = if bytes.byte() > 250 { seq.wrapping_add(1) } else { seq };
        let built = SegmentBuilder {
            seq: Seq(seq),
            ack: Some(Seq(ack)),
            flags: if fin { Flags::FIN } else { Flags(0) },
            timestamps: Some((1, 2)),
            ..SegmentBuilder::new(source, destination)
        };
        Packet { bytes: built.build(), to_server, segment: 0 }
    };
    let mut all =
        vec![segment(false, true, [0, 0]), segment(true, true, [0, 1]), segment(false, false, [1, 1])];
    all.truncate(3 - usize::from(bytes.byte() > 200));
    all
}

fn closed() -> SocketAddr {
    SocketAddr::new([10, 0, 1, 2].into(), CLOSED)
}

/// Of an owner who is there until then, and does not know yet how SYNs are to be answered.
pub(crate) fn owned_until(owned_until: Duration) -> Answers {
    Answers { until: Duration::ZERO, owned_until, ..answers(&mut Bytes(&[1; 50])) }
}

fn answers(bytes: &mut Bytes<'_>) -> Answers {
    let ended = bytes.byte() == 0;
    Answers {
        service: "10.9.9.9:8080".parse().unwrap(),
        key: [(); 16].map(|()| bytes.byte()),
        lead: bytes.number(),
        mss: bytes.of(&MSS),
        window_scale: bytes.byte() % 17,
        window: bytes.number() as u16,
        takes_acks: bytes.byte() < 240,
        until: if ended { now() } else { now() + Duration::from_secs(3600) },
        owned_until: if bytes.byte() < 128 { Duration::ZERO } else { Duration::MAX },
    }
}

fn packet(bytes: &mut Bytes<'_>, answers: &Answers) -> Packet {
    let syn = syn(bytes);
    let (to_server, made) = match bytes.byte() {
        240.. => (false, Some(syn_ack(bytes, &syn))),
        byte if byte % 5 < 2 => (true, Some(syn.build())),
        _ => (true, acknowledgement(bytes, answers, &syn)),
    };
    let mut made = made.unwrap_or_else(|| syn.build());
    // A program adds to checksums: whatever they say.
    spoil(bytes, &mut made);
    Packet { bytes: made, to_server, segment: bytes.of(&[0, 0, 0, 0, 0, 0, 0, 0, 1000, 1449]) }
}

/// Of a backend, or of somebody else.
fn syn_ack(bytes: &mut Bytes<'_>, syn: &SegmentBuilder<'_>) -> Vec<u8> {
    let address = bytes.of(&[[10, 0, 2, 2], [10, 0, 2, 2], [10, 0, 2, 2], [10, 0, 2, 3]]);
    let source = SocketAddr::new(address.into(), bytes.of(&[80, 80, 80, 81]));
    // The router itself is not asked for.
    let destination = if bytes.byte() < 16 { "10.0.2.1:4002".parse().unwrap() } else { syn.source };
    let flags = Flags::SYN.union(Flags(bytes.of(&[0, 0, 0, 0, 0, 0, 1, 4, 0x40])));
    let ack = (bytes.byte() < 240).then(|| Seq(bytes.number()));
    SegmentBuilder { ack, flags, ..SegmentBuilder { source, destination, ..syn.clone() } }.build()
}

fn syn(bytes: &mut Bytes<'_>) -> SegmentBuilder<'static> {
    let source = SocketAddr::new([10, 0, 1, 2].into(), bytes.of(&PORTS));
    let mut destination = service();
    match bytes.byte() {
        0 => destination.set_port(8081),
        1 => destination.set_ip([10, 9, 9, 8].into()),
        _ => {}
    }
    let options = SynOptions {
        mss: (bytes.byte() < 250).then(|| bytes.of(&MSS)),
        window_scale: (bytes.byte() < 250).then(|| bytes.byte() % 16),
        sack_permitted: bytes.byte() & 1 == 0,
        timestamp: None,
    };
    SegmentBuilder {
        seq: Seq(bytes.number()),
        ack: (bytes.byte() == 0).then_some(Seq(7)),
        flags: Flags::SYN.union(Flags(bytes.of(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 8, 0x20, 0xc0]))),
        window: bytes.number() as u16,
        syn: Some(options),
        timestamps: (bytes.byte() < 250).then(|| (bytes.number(), bytes.number())),
        payload: bytes.of(&[b"", b"", b"", b"", b"", b"", b"x"]),
        ..SegmentBuilder::new(source, destination)
    }
}

/// Of an answer made some time ago, perhaps by a program that was told something else.
fn acknowledgement(bytes: &mut Bytes<'_>, answers: &Answers, syn: &SegmentBuilder<'_>) -> Option<Vec<u8>> {
    let mut said = *answers;
    match bytes.byte() {
        0..=9 => said.window_scale = bytes.byte() % 15,
        10..=19 => said.lead = bytes.near(said.lead),
        20..=29 => said.key[0] ^= 1,
        _ => {}
    }
    said.until = now() + Duration::from_secs(1);
    let mut earlier = Reference::default();
    earlier.answer(&said);
    let mut answer = SegmentBuilder { flags: Flags::SYN, ack: None, payload: b"", ..syn.clone() }.build();
    let at = now().saturating_sub(Duration::from_millis(bytes.of(&AGES)));
    let fate = earlier.receive(at, &mut answer, |_, _| true);
    let answer = TcpSegment::parse(&answer).ok().filter(|_| fate == Fate::Answered)?;
    let (value, _) = answer.timestamps()?;
    // Mostly the acknowledgement alone, or the first data.
    let (flags, payload) = match bytes.byte() {
        0..=139 => (0, &b""[..]),
        140..=239 => (8, bytes.of(&[&b"x"[..], b"GET / HTTP/1.1", &[7; 1452], &[8; 1453]])),
        _ => (bytes.of(&[0, 1, 2, 4, 8, 0x20, 0x40, 0xc0]), bytes.of(&[&b""[..], b"x"])),
    };
    let acknowledgement = SegmentBuilder {
        seq: Seq(bytes.near(answer.ack().0)),
        ack: Some(Seq(bytes.near(answer.seq().0 + 1))),
        flags: Flags(flags),
        window: bytes.number() as u16,
        timestamps: (bytes.byte() < 250).then(|| (bytes.number(), bytes.near(value))),
        payload,
        ..SegmentBuilder::new(syn.source, syn.destination)
    };
    Some(acknowledgement.build())
}

/// What the reference does with a packet that comes at that time: what leaves, and what is handed over, to which thread.
pub(crate) fn expected(
    reference: &mut Reference,
    at: Duration,
    packet: &Packet,
) -> (Tried, Vec<(u16, Vec<u8>)>) {
    let mut bytes = packet.bytes.clone();
    let goes = |to: std::net::Ipv4Addr, length: usize| {
        let bytes = if packet.segment == 0 { length } else { packet.segment as usize + 52 };
        bytes <= MTU && [[10, 0, 1, 2], [10, 0, 2, 2]].contains(&to.octets())
    };
    match reference.receive(at, &mut bytes, goes) {
        Fate::Passed => (Tried::Passed, Vec::new()),
        Fate::Taken => (Tried::Dropped, Vec::new()),
        Fate::Answered | Fate::Translated => (Tried::Sent(bytes), Vec::new()),
        Fate::HandedOver => {
            let address = |ip, port| {
                let ip: [u8; 4] = bytes[ip..ip + 4].try_into().unwrap();
                SocketAddr::new(ip.into(), u16::from_be_bytes([bytes[port], bytes[port + 1]]))
            };
            let (source, destination) = (address(12, 20), address(16, 22));
            let client = if destination == service() { source } else { destination };
            let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            (Tried::Dropped, vec![(queue_of(client, THREADS), bytes[..length].to_vec())])
        }
    }
}

/// Each millisecond between the two, and both.
fn moments(before: Duration, after: Duration) -> impl Iterator<Item = Duration> {
    let first = before.as_millis() as u64 + 1;
    let between = (first..=after.as_millis() as u64).map(Duration::from_millis);
    [before].into_iter().chain(between).chain([after])
}

impl Router {
    /// The program, run by a kernel whose clock goes on meanwhile, does what the reference would at one of the times in between.
    pub(crate) fn conducts(&self, case: &Handshakes) -> Result<(), TestCaseError> {
        let mut reference = Reference::default();
        self.fast.answer(&case.answers).unwrap();
        reference.answer(&case.answers);
        let [spliced, kept_off] = [SPLICED, KEPT_OFF].map(|port| SocketAddr::new([10, 0, 1, 2].into(), port));
        let entry = crate::case::entry_of(spliced);
        prop_assert_eq!((self.fast.add(&entry).unwrap(), reference.add(&entry)), (true, true));
        self.fast.keep_off(kept_off).unwrap();
        reference.keep_off(kept_off);
        let backends = ["10.0.2.2:80".parse().unwrap()];
        self.fast.know_backends(backends).unwrap();
        reference.know_backends(&backends);
        let (entry, recorded) = (crate::case::entry_of(closed()), crate::case::to_its_end());
        let added = self.fast.add_recorded(&entry, &recorded).unwrap();
        prop_assert!(added && reference.add_recorded(&entry, &recorded));
        for packet in &case.end {
            let sent = self.leaves(packet);
            prop_assert_eq!(expected(&mut reference, now(), packet).0, sent);
        }
        for packet in &case.packets {
            let (before, counts, known) = (now(), self.fast.answered().unwrap(), reference.answered());
            let got = (self.leaves(packet), self.handed_over());
            let after = now();
            let found = moments(before, after).find_map(|at| {
                let mut tried = reference.clone();
                (expected(&mut tried, at, packet) == got).then_some(tried)
            });
            prop_assert!(found.is_some(), "{:?}\ngave {:?}", packet, got);
            reference = found.unwrap_or_default();
            let (now, known_now) = (self.fast.answered().unwrap(), reference.answered());
            prop_assert_eq!(now.syns - counts.syns, known_now.syns - known.syns);
            prop_assert_eq!(now.acks - counts.acks, known_now.acks - known.acks);
            prop_assert_eq!(now.handed_over - counts.handed_over, known_now.handed_over - known.handed_over);
        }
        let left = reference.look(closed());
        prop_assert_eq!(self.fast.look(closed()).unwrap(), left);
        self.displaced.fetch_add(u32::from(left.is_none()), Ordering::Relaxed);
        [spliced, kept_off, closed()].iter().try_for_each(|client| self.fast.remove(*client)).unwrap();
        Ok(())
    }
}

/// The statement is not empty: what it answers and takes is what it should.
#[test]
fn plain_ones_are_answered_and_taken() {
    let mut reference = Reference::default();
    let answers = Answers { takes_acks: true, until: Duration::MAX, ..answers(&mut Bytes(&[1; 50])) };
    reference.answer(&answers);
    let syn = SegmentBuilder { ack: None, flags: Flags::SYN, ..syn(&mut Bytes(&[2; 50])) };
    let mut packet = syn.build();
    let at = Duration::from_secs(1000);
    assert_eq!(reference.receive(at, &mut packet, |_, _| true), Fate::Answered);
    let answer = TcpSegment::parse(&packet).unwrap();
    assert!(answer.checksums_valid());
    let first = SegmentBuilder {
        seq: syn.seq + 1,
        ack: Some(answer.seq() + 1),
        timestamps: Some((9, answer.timestamps().unwrap().0)),
        ..SegmentBuilder::new(syn.source, syn.destination)
    };
    let mut takes = |seconds: u64, first: &SegmentBuilder<'_>| {
        reference.receive(at + Duration::from_secs(seconds), &mut first.build(), |_, _| true)
    };
    assert_eq!(takes(9, &first), Fate::Taken);
    let spoken = SegmentBuilder { flags: Flags::PSH, payload: b"GET", ..first.clone() };
    assert_eq!(takes(9, &spoken), Fate::HandedOver);
    assert_eq!(takes(11, &spoken), Fate::Passed);
    assert_eq!(takes(9, &SegmentBuilder { seq: syn.seq + 2, ..spoken.clone() }), Fate::Passed);
    assert_eq!(takes(11, &first), Fate::Passed);
    assert_eq!(takes(0, &SegmentBuilder { ack: Some(answer.seq() + 2), ..first.clone() }), Fate::Passed);
}
