//! The kernel's splice and [`Translation`] are two ways to say the same: random segments go through a real conntrack entry and
//! must arrive as the packets that the translation makes of them.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Net, config, wait};
use netfilter::Family;
use netfilter::conntrack::{Conntrack, SpliceEntry};
use netfilter::fast_path::{FastPath, Kept, Recorded, Rescale};
use netfilter::queue::{Queue, Verdict};
use netfilter::raw::RawSender;
use netfilter::target::{self, Chain};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Translation};

/// Segments of each direction and family.
const SEGMENTS: usize = 1500;
/// Sent before what has arrived is looked at: no buffer on the way overflows.
const BATCH: usize = 50;
const DELTA: u32 = 0xffff_0001;
const STAMPS: u32 = 0x7fff_ffff;
const QUEUE: u16 = 9;

fn router_rules(family: &str) -> String {
    format!(
        "table {family} test {{
            chain nat {{ type nat hook prerouting priority -100; }}
            chain never {{
                type filter hook input priority 0;
                meta mark 1 meta mark 2 tcp dport 1 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
            }}
        }}"
    )
}

fn host_rules(family: &str) -> String {
    format!(
        "table {family} test {{
            chain to_queue {{ }}
            chain hand_over {{ jump to_queue; drop; }}
            chain arrived {{ type filter hook prerouting priority raw; meta l4proto tcp goto hand_over; }}
        }}"
    )
}

/// splitmix64: the same segments in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// Timestamps, selective acknowledgements, padding and unknown kinds in any order, well formed, on even places (see
    /// [`options_on_odd_places_need_the_other_way`]).
    fn options(&mut self) -> Vec<u8> {
        let mut field = Vec::new();
        let (mut stamps, mut sack) = (false, false);
        for _ in 0..self.below(6) {
            let option = match self.below(4) {
                0 if !stamps => {
                    stamps = true;
                    [vec![8, 10], self.bytes(8)].concat()
                }
                1 if !sack => {
                    sack = true;
                    let blocks = 1 + self.below(3);
                    [vec![5, 2 + 8 * blocks as u8], self.bytes(8 * blocks)].concat()
                }
                2 => {
                    let length = 2 * self.below(5);
                    [vec![[19, 28, 30, 34, 254][self.below(5)], 2 + length as u8], self.bytes(length)]
                        .concat()
                }
                _ => vec![1, 1],
            };
            if field.len() + option.len() <= 40 {
                field.extend(option);
            }
        }
        field.resize(field.len().next_multiple_of(4), [0, 1][self.below(2)]);
        field
    }

    fn segment(&mut self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let longest = [0, 1, 1300][self.below(3)];
        let length = self.below(longest + 1);
        let payload = self.bytes(length);
        let bits = [0, Flags::PSH.0, Flags::ECE.0, Flags::CWR.0, Flags::PSH.0 | Flags::ECE.0][self.below(5)];
        let bare = SegmentBuilder {
            seq: Seq(self.next() as u32),
            ack: Some(Seq(self.next() as u32)),
            flags: Flags(bits),
            window: self.next() as u16,
            payload: &payload,
            ..SegmentBuilder::new(source, destination)
        };
        let packet = with_options(bare.build(), &self.options());
        self.ip_fields(packet)
    }

    /// Traffic class, identification, and now and then IPv4 options or an extension header.
    fn ip_fields(&mut self, mut packet: Vec<u8>) -> Vec<u8> {
        let odd = self.below(4) == 0;
        if packet[0] >> 4 == 4 {
            packet[1] = self.next() as u8;
            packet[4..6].copy_from_slice(&(self.next() as u16).to_be_bytes());
            if odd {
                insert(&mut packet, 20, &[1, 1, 1, 0]);
                packet[0] = 0x46;
            }
        } else {
            packet[1..4].copy_from_slice(&self.bytes(3));
            if odd {
                insert(&mut packet, 40, &[6, 0, 1, 4, 0, 0, 0, 0]);
                packet[6] = 60;
            }
        }
        packet
    }
}

fn insert(packet: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    packet.splice(at..at, bytes.iter().copied());
    let (field, length) = if packet[0] >> 4 == 6 { (4, packet.len() - 40) } else { (2, packet.len()) };
    packet[field..field + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

fn with_options(mut packet: Vec<u8>, field: &[u8]) -> Vec<u8> {
    let tcp = if packet[0] >> 4 == 6 { 40 } else { 20 };
    insert(&mut packet, tcp + 20, field);
    packet[tcp + 12] = ((20 + field.len()) as u8 / 4) << 4;
    packet
}

/// Right checksums: a translation that changes nothing writes them.
fn sealed(mut packet: Vec<u8>, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let nothing =
        Translation { source, destination, seq: 0, ack: 0, sack: 0, ts_value: 0, ts_echo: 0, rescale: None };
    nothing.apply(&mut packet).unwrap();
    packet
}

/// As it was one hop ago; the header's checksum says nothing then.
fn one_hop_back(packet: &[u8]) -> Vec<u8> {
    assert!(TcpSegment::parse(packet).unwrap().checksums_valid());
    let mut packet = packet.to_vec();
    let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
    packet[hops] += 1;
    without_header_checksum(packet)
}

fn without_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
    }
    packet
}

/// Packets that reach a host, in order, until there are so many.
fn arrived(queue: &mut Queue, count: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while packets.len() < count && Instant::now() < end {
        wait(queue);
        queue
            .recv_batch(&mut |packet, verdicts| {
                packets.push(packet.payload.to_vec());
                verdicts.push(packet.id, Verdict::Drop).unwrap();
            })
            .unwrap();
        queue.flush().unwrap();
    }
    packets
}

/// One direction: what one host sends, and the other must get.
struct Direction {
    from: &'static str,
    to: &'static str,
    source: SocketAddr,
    destination: SocketAddr,
    translation: Translation,
}

fn directions(entry: &SpliceEntry) -> [Direction; 2] {
    let (client, service, backend) = (entry.client, entry.service, entry.backend);
    let nothing = Translation {
        source: client,
        destination: backend,
        seq: 0,
        ack: 0,
        sack: 0,
        ts_value: 0,
        ts_echo: 0,
        rescale: None,
    };
    let back = DELTA.wrapping_neg();
    let to_backend = Translation { ack: back, sack: back, ts_echo: STAMPS.wrapping_neg(), ..nothing };
    let to_client =
        Translation { source: service, destination: client, seq: DELTA, ts_value: STAMPS, ..nothing };
    [
        Direction { from: "c", to: "s", source: client, destination: service, translation: to_backend },
        Direction { from: "s", to: "c", source: backend, destination: client, translation: to_client },
    ]
}

fn agree(net: &Net, direction: &Direction, chance: &mut Chance) {
    let Direction { from, to, source, destination, translation } = direction;
    let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
    let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
    // Neighbours are found by the first packet.
    let first = sealed(chance.segment(*source, *destination), *source, *destination);
    sender.send(&first).unwrap();
    assert_eq!(arrived(&mut queue, 1).len(), 1, "{from} to {to}: nothing arrives");
    for _ in 0..SEGMENTS / BATCH {
        let sent: Vec<Vec<u8>> = (0..BATCH)
            .map(|_| sealed(chance.segment(*source, *destination), *source, *destination))
            .collect();
        assert_eq!(sender.send_batch(&sent).sent, BATCH);
        let got = arrived(&mut queue, BATCH);
        assert_eq!(got.len(), BATCH, "{from} to {to}: some did not arrive");
        for (mut expected, got) in sent.into_iter().zip(got) {
            let before = expected.clone();
            translation.apply(&mut expected).unwrap();
            let expected = without_header_checksum(expected);
            assert_eq!(one_hop_back(&got), expected, "{from} to {to}, sent {before:?}");
        }
    }
}

/// A network whose router has this splice; what reaches a host waits in its queue.
fn spliced(family: Family, entry: &SpliceEntry, name: &str) -> Option<Net> {
    let net = Net::up(name)?;
    if family == Family::Ip6 {
        net.add_ipv6();
    }
    net.nft("r", &router_rules(family.name()));
    for host in ["c", "s"] {
        net.nft(host, &host_rules(family.name()));
        let chain = Chain { family, table: "test", name: "to_queue" };
        net.inside(host, || target::fill_chain(chain, QUEUE)).unwrap();
    }
    net.inside("r", Conntrack::open).unwrap().create(entry).unwrap();
    Some(net)
}

fn all_agree(family: Family, entry: &SpliceEntry, name: &str) {
    let Some(net) = spliced(family, entry, name) else { return };
    let mut chance = Chance(7);
    for direction in directions(entry) {
        agree(&net, &direction, &mut chance);
    }
}

fn entry(client: &str, service: &str, backend: &str) -> SpliceEntry {
    SpliceEntry {
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
        backend: backend.parse().unwrap(),
        server_offset: DELTA,
        client_offset: 0,
        timestamp_offset: STAMPS.wrapping_neg(),
        has_timestamps: true,
        mark: 77,
        timeout_s: 600,
        window_scales: Some((7, 7)),
        sack_permitted: true,
    }
}

#[test]
fn both_ways_make_equal_packets() {
    all_agree(Family::Ip, &entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80"), "te");
}

#[test]
fn both_ways_make_equal_packets_over_ipv6() {
    all_agree(Family::Ip6, &entry("[fd00:1::2]:4000", "[fd00:9::9]:8080", "[fd00:2::2]:80"), "tv");
}

fn fast(net: &Net, entry: &SpliceEntry) -> FastPath {
    net.inside("r", || {
        let fast = FastPath::open(10).unwrap();
        assert!(fast.add(entry).unwrap());
        fast.attach().unwrap();
        fast
    })
}

/// Some are taken by the program, some by conntrack.
#[test]
fn three_ways_make_equal_packets() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tf") else { return };
    let _fast = fast(&net, &entry);
    let mut chance = Chance(8);
    for direction in directions(&entry) {
        agree(&net, &direction, &mut chance);
    }
}

/// Of the form that the program takes; `number` makes it unlike others.
fn plain(direction: &Direction, number: u32, window: u16, payload: &[u8]) -> Vec<u8> {
    let Direction { source, destination, .. } = direction;
    let bare = SegmentBuilder {
        seq: Seq(number.wrapping_mul(0x9e37_79b9)),
        ack: Some(Seq(9)),
        window,
        timestamps: Some((number.wrapping_mul(0x85eb_ca6b), number.wrapping_add(0x7fff_fff0))),
        payload,
        ..SegmentBuilder::new(*source, *destination)
    };
    bare.build()
}

fn monotonic() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap()
}

fn recorded(rescale: Rescale, to_its_end: bool) -> Recorded {
    let shown_every = Duration::from_secs(100);
    Recorded { rescale, to_its_end, rest: 5, show: (monotonic() + shown_every, shown_every) }
}

/// The program alone, for one that has no entry: what passes it is also recorded.
#[test]
fn windows_are_rescaled_and_what_passes_is_recorded() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tr") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let scales = [(7, 2), (3, 9)];
    let [to_backend, to_client] = directions(&entry);
    let fast = net.inside("r", || FastPath::open(10)).unwrap();
    net.inside("r", || fast.attach()).unwrap();
    for (direction, number) in [(to_backend, 0), (to_client, 1)] {
        let Direction { from, to, translation, .. } = &direction;
        let translation = packet::Translation { rescale: Some(scales[number]), ..*translation };
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        // Who its neighbour is, conntrack's packet asks.
        sender.send(&plain(&direction, 0, 99, b"")).unwrap();
        assert_eq!(arrived(&mut queue, 1).len(), 1);
        assert!(fast.add_recorded(&entry, &recorded(scales, false)).unwrap());
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        assert_eq!(fast.passed(entry.client).unwrap()[number], None);
        for (step, window) in [(1, 0), (2, 1), (3, 127), (4, 40_000), (5, 65_535)] {
            let payload = vec![7; step as usize * 100];
            let mut expected = plain(&direction, step, window, &payload);
            sender.send(&expected).unwrap();
            let view = TcpSegment::parse(&expected).unwrap();
            let end = (view.seq() + payload.len() as u32).0;
            let record = fast.passed(entry.client).unwrap()[number].unwrap();
            if number == 0 {
                assert_eq!(record.end, end, "a client's latest counts");
            }
            assert_eq!((record.ack, record.window), (9, window));
            assert_eq!(Some(record.timestamps), view.timestamps());
            translation.apply(&mut expected).unwrap();
            let got = arrived(&mut queue, 1);
            assert_eq!(one_hop_back(&got[0]), without_header_checksum(expected), "{from} to {to}, {window}");
        }
        assert!(fast.add_recorded(&entry, &recorded(scales, false)).unwrap());
        assert!(fast.passed(entry.client).unwrap()[number].is_some(), "the record stays");
        assert!(fast.take(entry.client).unwrap()[number].is_some());
        assert_eq!(fast.take(entry.client).unwrap(), [None; 2]);
        conntrack.create(&entry).unwrap();
    }
    net.inside("r", FastPath::detach_any).unwrap();
}

/// Both FINs pass as well where that is wanted, and a later owner finds what is kept.
#[test]
fn what_is_recorded_to_its_end_closes_by_itself() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tw") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let fast = net.inside("r", || FastPath::open(10)).unwrap();
    let kept = || net.inside("r", FastPath::kept).unwrap();
    assert_eq!(kept(), []);
    net.inside("r", || fast.attach()).unwrap();
    for (direction, number) in directions(&entry).into_iter().zip([0, 1]) {
        let Direction { from, to, translation, .. } = &direction;
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        // Who its neighbour is, conntrack's packet asks.
        sender.send(&plain(&direction, 0, 99, b"")).unwrap();
        assert_eq!(arrived(&mut queue, 1).len(), 1);
        if number == 0 {
            assert!(fast.add_recorded(&entry, &recorded([(7, 7), (7, 7)], true)).unwrap());
        }
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        let mut fin = plain(&direction, 2, 500, b"last");
        fin[33] |= Flags::FIN.0;
        packet::fill_checksum(&mut fin).unwrap();
        sender.send(&fin).unwrap();
        let end = (TcpSegment::parse(&fin).unwrap().seq() + 5).0;
        translation.apply(&mut fin).unwrap();
        assert_eq!(one_hop_back(&arrived(&mut queue, 1)[0]), without_header_checksum(fin), "{from} to {to}");
        let passed = fast.passed(entry.client).unwrap()[number].unwrap();
        assert_eq!((passed.end, passed.fin, passed.ack), (end, true, 9));
        let expected = SpliceEntry { mark: 0, timeout_s: 0, ..entry };
        assert_eq!(kept(), [Kept { entry: expected, rest: 5, ended: number == 1 }]);
        conntrack.create(&entry).unwrap();
    }
    assert!(fast.take(entry.client).unwrap().into_iter().all(|passed| passed.is_some()));
    assert_eq!(kept(), []);
    assert!(fast.add(&entry).unwrap());
    assert_eq!(kept(), [], "conntrack has it");
    net.inside("r", FastPath::detach_any).unwrap();
}

/// Without an entry nobody but the program translates, and what it leaves to conntrack, at least one segment a second in each
/// direction, is not translated.
#[test]
fn the_program_alone_makes_equal_packets_until_the_connection_is_removed_or_ends() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "ta") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let fast = fast(&net, &entry);
    for direction in directions(&entry) {
        let Direction { from, to, translation, .. } = &direction;
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        let mut passes = |packet: &[u8]| {
            sender.send(packet).unwrap();
            let end = Instant::now() + Duration::from_millis(100);
            let mut got = Vec::new();
            while got.is_empty() && Instant::now() < end {
                let one = &mut |packet: netfilter::queue::QueuedPacket<'_>,
                                verdicts: &mut netfilter::queue::Verdicts| {
                    got.push(packet.payload.to_vec());
                    verdicts.push(packet.id, Verdict::Drop).unwrap();
                };
                queue.recv_batch(one).unwrap();
                queue.flush().unwrap();
            }
            // What the program leaves alone goes its way, from the backend to the client, or nowhere.
            got.pop().filter(|got: &Vec<u8>| got[12..20] != packet[12..20])
        };
        // The program does not ask who a neighbour is: conntrack's first packet does.
        assert!(passes(&plain(&direction, 0, 99, b"")).is_some());
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        let (mut taken, count) = (0, 200);
        for number in 0..count {
            let mut expected = plain(&direction, number, 99, &vec![number as u8; number as usize % 5 * 300]);
            let got = passes(&expected);
            translation.apply(&mut expected).unwrap();
            if let Some(got) = got {
                assert_eq!(one_hop_back(&got), without_header_checksum(expected), "{from} to {to}");
                taken += 1;
            }
        }
        assert!((count - 20..=count).contains(&taken), "{taken} of {count}, {from} to {to}");
        let mut wrong = plain(&direction, 7, 99, b"payload");
        *wrong.last_mut().unwrap() ^= 1;
        if let Some(got) = passes(&wrong) {
            assert!(!TcpSegment::parse(&got).unwrap().checksums_valid(), "a wrong checksum was made right");
        }
        fast.remove(entry.client).unwrap();
        assert_eq!(
            (passes(&plain(&direction, 8, 99, b"")), passes(&plain(&direction, 9, 99, b""))),
            (None, None)
        );
        fast.add(&entry).unwrap();
        // The first acknowledges something new, the second is the first for long.
        let _ = (passes(&plain(&direction, 10, 99, b"")), passes(&plain(&direction, 10, 99, b"")));
        assert!(passes(&plain(&direction, 11, 99, b"")).is_some());
        let mut end = plain(&direction, 12, 99, b"");
        end[33] |= Flags::RST.0;
        let nothing =
            Translation { source: direction.source, destination: direction.destination, ..*translation };
        let nothing = Translation { seq: 0, ack: 0, sack: 0, ts_value: 0, ts_echo: 0, ..nothing };
        nothing.apply(&mut end).unwrap();
        assert_eq!(passes(&end), None);
        assert_eq!(passes(&plain(&direction, 13, 99, b"")), None, "after a reset");
        fast.add(&entry).unwrap();
        conntrack.create(&entry).unwrap();
    }
    net.inside("r", FastPath::detach_any).unwrap();
}

/// What `nfq-splice` must know: the kernel adjusts the checksum as if options began on even places. Timestamps on an odd one
/// arrive right, with a wrong checksum: such a connection needs the userspace path.
#[test]
fn options_on_odd_places_need_the_other_way() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "to") else { return };
    let mut sender = net.inside("c", || RawSender::open(0)).unwrap();
    let mut queue = net.inside("s", || Queue::bind(&config(QUEUE))).unwrap();
    for (field, right) in
        [([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], true), ([1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0], false)]
    {
        let bare = SegmentBuilder { ack: Some(Seq(9)), ..SegmentBuilder::new(entry.client, entry.service) };
        let packet = sealed(with_options(bare.build(), &field), entry.client, entry.service);
        sender.send(&packet).unwrap();
        let got = arrived(&mut queue, 1);
        let view = TcpSegment::parse(&got[0]).unwrap();
        assert_eq!(view.timestamps(), Some((1, 2_u32.wrapping_sub(STAMPS))));
        assert_eq!(view.checksums_valid(), right, "{field:?}");
    }
}
