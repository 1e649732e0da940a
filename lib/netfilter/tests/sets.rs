//! Elements of nft sets, and packets of our own.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::{CLIENT, Net, SERVER, run};
use netfilter::raw::{RawSender, Sent};
use netfilter::sets::Sets;
use netfilter::{Error, Family, target};

const SETS: &str = "
    add table ip test
    add set ip test flows { type ipv4_addr . inet_service; size 65536; }
    add table ip6 test
    add set ip6 test flows { type ipv6_addr . inet_service; size 65536; }";

fn listed(net: &Net, family: &str) -> String {
    run(&format!("ip netns exec {} nft list set {family} test flows", net.name("r")))
}

#[test]
fn elements_come_and_go_tolerantly() {
    let Some(net) = Net::up("se") else { return };
    net.nft("r", SETS);
    let a: SocketAddr = "192.0.2.1:1234".parse().unwrap();
    let b: SocketAddr = "192.0.2.2:65535".parse().unwrap();
    let mut sets = net.inside("r", || Sets::open(Family::Ip, "test", "flows")).unwrap();
    sets.add(&[a, b]).unwrap();
    sets.add(&[b]).unwrap();
    assert!(sets.contains(a).unwrap());
    let text = listed(&net, "ip");
    assert!(text.contains("192.0.2.1 . 1234") && text.contains("192.0.2.2 . 65535"), "{text}");
    let mut all = sets.list().unwrap();
    all.sort();
    assert_eq!(all, [a, b]);
    sets.delete(&[a]).unwrap();
    sets.delete(&[a, b]).unwrap();
    assert!(!sets.contains(a).unwrap());
    assert!(!listed(&net, "ip").contains("192.0.2"));
    sets.add(&[a]).unwrap();
    sets.flush().unwrap();
    assert!(!listed(&net, "ip").contains("192.0.2"));
    assert!(matches!(sets.add(&["[fd00::1]:1".parse().unwrap()]), Err(Error::MixedFamilies(_))));
}

#[test]
fn ipv6_and_many_and_missing_sets() {
    let Some(net) = Net::up("s6") else { return };
    net.nft("r", SETS);
    let (mut sets, mut other) = net.inside("r", || {
        (Sets::open(Family::Ip6, "test", "flows").unwrap(), Sets::open(Family::Ip, "test", "other").unwrap())
    });
    let many: Vec<SocketAddr> =
        (1..5000).map(|port| SocketAddr::new("fd00::7".parse().unwrap(), port)).collect();
    sets.add(&many).unwrap();
    assert!(listed(&net, "ip6").contains("fd00::7 . 4999"));
    let mut all = sets.list().unwrap();
    all.sort();
    assert_eq!(all, many);
    sets.delete(&many).unwrap();
    assert!(!listed(&net, "ip6").contains("fd00::7"));
    assert!(matches!(other.add(&["192.0.2.1:1".parse().unwrap()]), Err(Error::Missing(_))));
    assert!(matches!(other.list(), Err(Error::Missing(_))));
}

#[test]
fn one_change_takes_microseconds() {
    let Some(net) = Net::up("st") else { return };
    net.nft("r", SETS);
    let mut sets = net.inside("r", || Sets::open(Family::Ip, "test", "flows")).unwrap();
    let mut times: Vec<Duration> = (1..200_u16)
        .map(|port| {
            let start = Instant::now();
            sets.add(&[SocketAddr::new("192.0.2.1".parse().unwrap(), port)]).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let start = Instant::now();
    for port in 300..350 {
        sets.delete(&[SocketAddr::new("192.0.2.1".parse().unwrap(), port)]).unwrap();
    }
    eprintln!("deleting a missing element: {:?}", start.elapsed() / 50);
    eprintln!("adding an element: median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    assert!(times[times.len() / 2] < Duration::from_millis(5));
}

#[test]
fn probing_the_queue_expression_leaves_nothing() {
    let Some(net) = Net::up("sp") else { return };
    let native = net.inside("r", target::native_queue_available).unwrap();
    eprintln!("native queue expression: {native}");
    assert_eq!(net.run("r", "nft list ruleset").trim(), "");
}

/// A UDP packet from an address that is not ours, without checksum.
fn udp(payload: usize) -> Vec<u8> {
    let total = (28 + payload) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[[9, 9, 9, 9], SERVER.octets()].concat());
    packet.extend_from_slice(&[0, 53, 0x20, 0, 0, 0, 0, 0]);
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet.resize(total as usize, 7);
    packet
}

#[test]
fn own_packets_arrive_with_their_own_source() {
    let Some(net) = Net::up("sr") else { return };
    net.run("s", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
    let socket = net.inside("s", || UdpSocket::bind((SERVER, 0x2000))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sender = net.inside("r", || RawSender::open(5)).unwrap();
    sender.send(&udp(100)).unwrap();
    let (length, from) = socket.recv_from(&mut [0; 2000]).unwrap();
    assert_eq!((length, from), (100, "9.9.9.9:53".parse().unwrap()));
    assert!(matches!(sender.send(&udp(3000)), Err(Error::TooLong)));
    assert!(matches!(sender.send(&[0x45, 0]), Err(Error::NotSendable(_))));
    let mut batch = vec![udp(10); 150];
    batch[70] = udp(3000);
    batch[90] = Vec::new();
    let sent = sender.send_batch(&batch);
    assert_eq!(sent, Sent { sent: 148, too_long: vec![70], no_room: 0, failed: 1 });
    for _ in 0..148 {
        assert_eq!(socket.recv_from(&mut [0; 2000]).unwrap().0, 10);
    }
    assert_ne!(CLIENT, SERVER);
}
