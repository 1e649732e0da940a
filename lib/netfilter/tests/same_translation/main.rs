//! The kernel's splice and [`Translation`] are two ways to say the same: random segments go through a real conntrack entry and
//! must arrive as the packets that the translation makes of them.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod program;
mod segments;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Net, config, wait};
use netfilter::Family;
use netfilter::conntrack::{Conntrack, SpliceEntry};
use netfilter::queue::{Queue, Verdict};
use netfilter::raw::RawSender;
use netfilter::target::{self, Chain};
use packet::{SegmentBuilder, Seq, TcpSegment, Translation};
use segments::{Chance, one_hop_back, sealed, with_options, without_header_checksum};

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
