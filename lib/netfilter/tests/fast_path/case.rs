//! A connection and packets, made of any bytes.

use std::net::SocketAddr;
use std::time::Duration;

use netfilter::conntrack::SpliceEntry;
use netfilter::fast_path::Recorded;
use packet::{Flags, SegmentBuilder, Seq};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(1 << 30);

#[derive(Debug)]
pub(crate) struct Packet {
    /// From IP's header on.
    pub(crate) bytes: Vec<u8>,
    /// It comes in at the client's side.
    pub(crate) to_server: bool,
    /// Bytes of data in each of its segments, if there are several.
    pub(crate) segment: u32,
}

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) entry: SpliceEntry,
    pub(crate) recorded: Option<Recorded>,
    pub(crate) packets: Vec<Packet>,
    /// Before this one of them it is added once more.
    pub(crate) again: usize,
    pub(crate) now: Duration,
    /// The owner is there.
    pub(crate) heard: bool,
}

/// Zeros follow.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Bytes<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    pub(crate) fn number(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    pub(crate) fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::from(self.byte()) % choice.len()]
    }

    /// Another, near it, or anything.
    pub(crate) fn near(&mut self, number: u32) -> u32 {
        match self.byte() {
            0..=99 => number,
            100..=179 => number.wrapping_add(u32::from(self.byte())),
            180..=247 => number.wrapping_sub(u32::from(self.byte())),
            _ => self.number(),
        }
    }
}

impl Case {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let heard = bytes.first().is_some_and(|first| first & 4 != 0);
        let mut bytes = Bytes(bytes);
        let entry = entry(&mut bytes);
        let recorded = recorded(&mut bytes);
        // Numbers of both sides, to which those of packets are near.
        let numbers = [bytes.number(), bytes.number()];
        let count = 1 + bytes.byte() % 8;
        let mut packets: Vec<_> = (0..count).map(|_| packet(&mut bytes, &entry, numbers)).collect();
        let again = usize::from(bytes.byte() % 16);
        if heard {
            packets.splice(..0, reset(&mut bytes, &entry));
        }
        Self { entry, recorded, packets, again, now: now(), heard }
    }
}

pub(crate) fn now() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap()
}

/// The owner sees nothing of it.
pub(crate) fn to_its_end() -> Recorded {
    Recorded { rescale: [(0, 0); 2], to_its_end: true, rest: 0, show: (LONG, LONG) }
}

/// Nothing of it is translated but its addresses.
pub(crate) fn entry_of(client: SocketAddr) -> SpliceEntry {
    SpliceEntry { client, has_timestamps: true, ..entry(&mut Bytes(&[])) }
}

fn entry(bytes: &mut Bytes<'_>) -> SpliceEntry {
    let [client, service, backend] = ["10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80"];
    let odd = bytes.byte();
    SpliceEntry {
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
        backend: backend.parse().unwrap(),
        server_offset: bytes.number(),
        client_offset: if odd & 1 == 0 { 0 } else { bytes.number() },
        timestamp_offset: bytes.number(),
        has_timestamps: odd < 250,
        mark: 77,
        timeout_s: 600,
        window_scales: None,
        sack_permitted: odd & 2 == 0,
    }
}

fn recorded(bytes: &mut Bytes<'_>) -> Option<Recorded> {
    let kind = bytes.of(&[None, Some(false), Some(true), Some(true)]);
    let mut scale = || bytes.byte() % 17;
    let rescale = [(scale(), scale()), (scale(), scale())];
    let show_at = bytes.of(&[LONG, LONG, LONG, Duration::ZERO]);
    kind.map(|to_its_end| Recorded { rescale, to_its_end, rest: 5, show: (show_at, LONG) })
}

fn packet(bytes: &mut Bytes<'_>, entry: &SpliceEntry, [of_client, of_server]: [u32; 2]) -> Packet {
    let to_server = bytes.byte() & 1 == 0;
    let (mut source, mut destination) =
        if to_server { (entry.client, entry.service) } else { (entry.backend, entry.client) };
    let (own, others) = if to_server { (of_client, of_server) } else { (of_server, of_client) };
    let strange: SocketAddr = "10.0.2.9:80".parse().unwrap();
    match bytes.byte() {
        0 => source = strange,
        1 => destination = strange,
        2 => (source, destination) = (destination, source),
        3 => destination = entry.client,
        4 => source.set_port(81),
        _ => {}
    }
    let flags = bytes.of(&[0, 0, 0, 0, 0, 0, 8, 8, 0x40, 0x80, 0xc0, 1, 1, 9, 2, 4, 0x20]);
    let payload = vec![bytes.byte(); bytes.of(&[0, 0, 1, 7, 100, 1000, 1448, 1449])];
    let bare = SegmentBuilder {
        seq: Seq(bytes.near(own)),
        ack: Some(Seq(bytes.near(others))),
        flags: Flags(flags),
        window: bytes.of(&[0, 1, 2, 127, 500, 40_000, 65_535]),
        timestamps: (bytes.byte() < 250).then(|| (bytes.number(), bytes.number())),
        payload: &payload,
        ..SegmentBuilder::new(source, destination)
    };
    let mut made = bare.build();
    spoil(bytes, &mut made);
    Packet { bytes: made, to_server, segment: bytes.of(&[0, 0, 0, 0, 0, 0, 1000, 1449]) }
}

/// What one side acknowledges, and a reset of the other, mostly at that number.
fn reset(bytes: &mut Bytes<'_>, entry: &SpliceEntry) -> [Packet; 2] {
    let (ack, by_client) = (bytes.number(), bytes.byte() & 1 == 0);
    let ways = [(entry.client, entry.service), (entry.backend, entry.client)];
    let [(here, there), (source, destination)] = if by_client { [ways[1], ways[0]] } else { ways };
    let add = if by_client { entry.client_offset } else { entry.server_offset };
    let acknowledges =
        SegmentBuilder { ack: Some(Seq(ack)), timestamps: Some((1, 2)), ..SegmentBuilder::new(here, there) };
    let reset = SegmentBuilder {
        seq: Seq(bytes.near(ack.wrapping_sub(add))),
        ack: (bytes.byte() & 1 == 0).then_some(Seq(7)),
        flags: Flags::RST.union(Flags(bytes.of(&[0, 0, 0, 0, 0, 1, 2, 8]))),
        ..SegmentBuilder::new(source, destination)
    };
    let mut made = [acknowledges.build(), reset.build()];
    for packet in &mut made {
        spoil(bytes, packet);
    }
    let [acknowledges, reset] = made;
    [(acknowledges, !by_client), (reset, by_client)].map(|(bytes, to_server)| Packet {
        bytes,
        to_server,
        segment: 0,
    })
}

/// Fields of the headers get any value, or the packet is cut off.
pub(crate) fn spoil(bytes: &mut Bytes<'_>, packet: &mut Vec<u8>) {
    let how = bytes.byte();
    for _ in 0..how.saturating_sub(190) / 16 {
        let at = usize::from(bytes.byte()) % packet.len().min(60);
        packet[at] = bytes.byte();
    }
    match how {
        // The kernel tries no packet without a header.
        0 => packet.truncate(20 + usize::from(bytes.byte())),
        1 => packet.extend([0; 9]),
        2..=9 => packet[1] = how,
        10 => packet[8] = 1,
        11 => packet[13 + 20] &= !Flags::ACK.0,
        _ => {}
    }
    packet.truncate(1500);
}
