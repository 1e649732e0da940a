//! Installed rules and real traffic: client – proxy – server, the rules in the middle.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../lib/netfilter/tests/common/mod.rs"]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{CLIENT, Daemon, Net, SERVER, SERVICE, config, fill_checksum, transfer, wait};
use netfilter::Family;
use netfilter::conntrack::{Conntrack, SpliceEntry};
use netfilter::queue::{Queue, QueueConfig, RECEIVE_BYTES, Verdict, queue_counters};
use netfilter::raw::RawSender;
use netfilter::sets::Sets;
use nft_rules::check::{Report, check};
use nft_rules::{
    BEFORE_CONNTRACK_MARK, Error, LoggerRules, PROXY_TABLE, ProxyRules, QUEUED_SET, QueueForm, Ruleset,
};
use nft_rules::{RAW_MARK, SPLICED_MARK, install};

const PORT: u16 = 8080;

fn proxy() -> ProxyRules {
    ProxyRules::new((SERVICE, PORT).into(), vec![(SERVER, PORT).into()], 5..6, 1000).unwrap()
}

fn logger() -> LoggerRules {
    LoggerRules::new(vec![(SERVER, PORT).into()], 10).unwrap()
}

fn put(net: &Net, rules: &(dyn Ruleset + Sync)) -> QueueForm {
    net.inside("r", || {
        let form = QueueForm::probe().unwrap();
        install::install(rules, form).unwrap();
        form
    })
}

fn checked(net: &Net, rules: &(dyn Ruleset + Sync), form: QueueForm) -> Report {
    net.inside("r", || check(rules, form)).unwrap()
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn client(port: u16) -> SocketAddr {
    (CLIENT, port).into()
}

#[test]
fn installing_again_changes_nothing_and_keeps_elements() {
    let Some(net) = Net::up("ii") else { return };
    for rules in [&proxy() as &(dyn Ruleset + Sync), &logger()] {
        let form = put(&net, rules);
        assert!(checked(&net, rules, form).is_good());
    }
    let mut sets = net.inside("r", || Sets::open(Family::Ip, PROXY_TABLE, QUEUED_SET)).unwrap();
    sets.add(&[client(4000)]).unwrap();
    let before = net.run("r", "nft list ruleset");
    put(&net, &proxy());
    put(&net, &logger());
    assert_eq!(net.run("r", "nft list ruleset"), before);
    assert!(before.contains("10.0.1.2 . 4000"));
}

#[test]
fn check_tells_what_differs_and_install_repairs_it() {
    let Some(net) = Net::up("ic") else { return };
    let none = net.inside("r", || check(&proxy(), QueueForm::probe().unwrap())).unwrap();
    assert!(!none.installed && !none.is_good() && none.refused.is_none());
    let form = put(&net, &proxy());
    net.run("r", "nft insert rule ip resplice_proxy prerouting accept");
    net.run("r", "nft flush chain ip resplice_proxy to_queue_0");
    let report = checked(&net, &proxy(), form);
    assert!(report.differences.contains(&"- chain prerouting: accept".to_owned()), "{report:?}");
    assert!(report.differences.iter().any(|line| line.starts_with("+ chain to_queue_0: ")), "{report:?}");
    let other = ProxyRules::new((SERVICE, PORT).into(), vec![(SERVER, 81).into()], 6..7, 1000).unwrap();
    assert!(!checked(&net, &other, form).is_good());
    put(&net, &proxy());
    assert!(checked(&net, &proxy(), form).is_good());
    put(&net, &other);
    assert!(checked(&net, &other, form).is_good());
}

#[test]
fn the_bound_on_flows_changes_only_without_a_daemon() {
    let Some(net) = Net::up("iz") else { return };
    let form = put(&net, &proxy());
    let larger = ProxyRules::new((SERVICE, PORT).into(), vec![(SERVER, PORT).into()], 5..6, 2000).unwrap();
    let queue = net.inside("r", || Queue::bind(&config(5)).unwrap());
    let refused = net.inside("r", || install::install(&larger, form));
    assert!(matches!(refused, Err(Error::SetSize(QUEUED_SET))));
    assert!(checked(&net, &proxy(), form).is_good());
    drop(queue);
    // A child that another test starts keeps the descriptor for a moment, between fork and exec.
    while net.inside("r", || queue_counters(5)).unwrap().is_some() {
        std::thread::sleep(Duration::from_millis(2));
    }
    put(&net, &larger);
    assert!(checked(&net, &larger, form).is_good());
}

/// Lets the server answer at the service's address itself, so that what leaks would connect.
fn lure(net: &Net) -> std::net::TcpListener {
    net.run("s", "ip addr add 10.9.9.9/32 dev lo");
    net.run("r", "ip route add 10.9.9.9 via 10.0.2.2");
    net.inside("s", || std::net::TcpListener::bind(("0.0.0.0", PORT))).unwrap()
}

#[test]
fn nothing_leaks_without_a_daemon_or_with_an_empty_queue_chain() {
    let Some(net) = Net::up("il") else { return };
    let _listener = lure(&net);
    let service = (SERVICE, PORT).into();
    net.connect(client(4000), service).unwrap();
    put(&net, &proxy());
    assert!(net.connect(client(4001), service).is_err());
    net.run("r", "nft flush chain ip resplice_proxy to_queue_0");
    assert!(net.connect(client(4002), service).is_err());
    // Even what passes PREROUTING without translation stays here.
    net.run("r", "nft flush chain ip resplice_proxy prerouting");
    assert!(net.connect(client(4003), service).is_err());
}

#[test]
fn the_logger_sees_both_directions_and_nothing_passes_without_it() {
    let Some(net) = Net::up("ig") else { return };
    put(&net, &logger());
    let listener = net.listen(PORT);
    let other = net.listen(PORT + 1);
    assert!(net.connect(client(4000), (SERVER, PORT).into()).is_err());
    net.connect(client(4001), (SERVER, PORT + 1).into()).unwrap();
    other.accept().unwrap();
    let directions = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let seen = Arc::clone(&directions);
    let daemon = net.daemon(QueueConfig { number: 10, ..config(10) }, move |packet, verdicts| {
        seen[usize::from(packet.payload[12..16] == SERVER.octets())].fetch_add(1, Ordering::Relaxed);
        verdicts.push(packet.id, Verdict::Accept).unwrap();
    });
    let stream = net.connect(client(4002), (SERVER, PORT).into()).unwrap();
    let data = vec![7; 1_000_000];
    assert!(transfer(listener.accept().unwrap().0, stream, &data) == data);
    daemon.stop();
    assert!(directions.iter().all(|count| count.load(Ordering::Relaxed) > 2), "{directions:?}");
}

#[test]
fn a_held_packet_outlives_a_reinstall() {
    let Some(net) = Net::up("ih") else { return };
    put(&net, &logger());
    let _listener = net.listen(PORT);
    let mut queue = net.inside("r", || Queue::bind(&config(10))).unwrap();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| net.connect(client(4000), (SERVER, PORT).into()));
        let mut buffer = vec![0; RECEIVE_BYTES];
        let held = std::iter::repeat_with(|| {
            wait(&queue);
            queue.recv_into(&mut buffer).unwrap()
        })
        .flatten()
        .next()
        .unwrap();
        put(&net, &logger());
        put(&net, &LoggerRules::new(addresses(&["10.0.2.2:8080", "10.7.7.7:80"]), 10).unwrap());
        let elsewhere =
            ProxyRules::new((SERVICE, 1).into(), addresses(&["10.7.7.7:80"]), 5..6, 1000).unwrap();
        put(&net, &elsewhere);
        let counters = net.inside("r", || queue_counters(10)).unwrap().unwrap();
        assert_eq!(counters.waiting, 1);
        queue.verdict(held.id, Verdict::Accept).unwrap();
        queue.flush().unwrap();
        while !connecting.is_finished() {
            wait(&queue);
            while let Some(meta) = queue.recv_into(&mut buffer).unwrap() {
                queue.verdict(meta.id, Verdict::Accept).unwrap();
            }
            queue.flush().unwrap();
        }
        connecting.join().unwrap().unwrap();
        assert_eq!(queue.counters().refused_verdicts, 0);
    });
}

#[test]
fn removal_is_refused_while_a_daemon_has_the_queue() {
    let Some(net) = Net::up("ir") else { return };
    put(&net, &proxy());
    net.inside("r", || {
        let queue = Queue::bind(&config(5)).unwrap();
        assert!(matches!(install::remove(&proxy(), false), Err(Error::QueueInUse(5))));
        assert!(install::remove(&proxy(), true).unwrap());
        assert!(!install::remove(&proxy(), true).unwrap());
        drop(queue);
    });
    assert_eq!(net.run("r", "nft list tables").trim(), "");
}

/// A splice that shifts the client's numbers, so that it may be there before the handshake.
fn splice(port: u16) -> SpliceEntry {
    SpliceEntry {
        client: client(port),
        service: (SERVICE, PORT).into(),
        backend: (SERVER, PORT).into(),
        server_offset: 0x8765_4321,
        client_offset: 1000,
        timestamp_offset: 99_999,
        has_timestamps: true,
        mark: SPLICED_MARK,
        timeout_s: 600,
        window_scales: None,
        sack_permitted: true,
    }
}

/// Translates as the kernel would (but shifts only the addresses), and counts packets that came after conntrack.
fn userspace_splice(net: &Net) -> (Daemon, Arc<AtomicU32>) {
    let after_conntrack = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&after_conntrack);
    let daemon = net.daemon(config(5), move |packet, verdicts| {
        if packet.mark != BEFORE_CONNTRACK_MARK {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        if packet.payload[16..20] == SERVICE.octets() {
            packet.payload[16..20].copy_from_slice(&SERVER.octets());
        } else {
            packet.payload[12..16].copy_from_slice(&SERVICE.octets());
        }
        fill_header_checksum(packet.payload);
        fill_checksum(packet.payload);
        verdicts.push(packet.id, Verdict::AcceptWith(packet.payload)).unwrap();
    });
    (daemon, after_conntrack)
}

fn fill_header_checksum(packet: &mut [u8]) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

#[test]
fn a_flow_in_the_set_is_queued_once_before_conntrack_and_stays_untracked() {
    let Some(net) = Net::up("iu") else { return };
    put(&net, &proxy());
    let (mut sets, mut conntrack) = net.inside("r", || {
        (Sets::open(Family::Ip, PROXY_TABLE, QUEUED_SET).unwrap(), Conntrack::open().unwrap())
    });
    sets.add(&[client(4000)]).unwrap();
    let (daemon, after_conntrack) = userspace_splice(&net);
    let listener = net.listen(PORT);
    let stream = net.connect(client(4000), (SERVICE, PORT).into()).unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i * 13 / 5) as u8).collect();
    assert!(transfer(listener.accept().unwrap().0, stream, &data) == data);
    daemon.stop();
    assert_eq!(after_conntrack.load(Ordering::Relaxed), 0);
    assert!(conntrack.dump(0).unwrap().is_empty());
}

#[test]
fn a_spliced_connection_needs_no_daemon() {
    let Some(net) = Net::up("is") else { return };
    put(&net, &proxy());
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    conntrack.create(&splice(4000)).unwrap();
    // Only its handshake is the daemon's: both SYNs are accepted as they are.
    let (daemon, _) = accept_all(&net);
    let listener = net.listen(PORT);
    let stream = net.connect(client(4000), (SERVICE, PORT).into()).unwrap();
    let accepted = listener.accept().unwrap().0;
    daemon.stop();
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i * 13 / 5) as u8).collect();
    assert!(transfer(accepted, stream, &data) == data);
    assert_eq!(conntrack.dump(SPLICED_MARK).unwrap().len(), 1);
}

#[test]
fn ipv6_is_spliced_and_queued_alike() {
    let Some(net) = Net::up("i6") else { return };
    net.add_ipv6();
    let [client, early, other, service, backend] =
        ["[fd00:1::2]:4000", "[fd00:1::2]:4001", "[fd00:1::2]:4002", "[fd00:9::9]:80", "[fd00:2::2]:8080"]
            .map(|a| a.parse().unwrap());
    let rules = ProxyRules::new(service, vec![backend], 5..6, 1000).unwrap();
    let form = put(&net, &rules);
    assert!(checked(&net, &rules, form).is_good());
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    conntrack.create(&SpliceEntry { client, service, backend, ..splice(4000) }).unwrap();
    let listener = net.inside("s", || std::net::TcpListener::bind(backend)).unwrap();
    assert!(net.connect(early, service).is_err(), "without a daemon the handshake cannot be");
    let (daemon, _) = accept_all(&net);
    let stream = net.connect(client, service).unwrap();
    let accepted = listener.accept().unwrap().0;
    daemon.stop();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 13 / 5) as u8).collect();
    assert!(transfer(accepted, stream, &data) == data);
    let mut sets = net.inside("r", || Sets::open(Family::Ip6, PROXY_TABLE, QUEUED_SET)).unwrap();
    sets.add(&[other]).unwrap();
    let mut queue = net.rebind(&config(5));
    assert!(net.connect(other, service).is_err());
    let mut buffer = vec![0; RECEIVE_BYTES];
    let meta = queue.recv_into(&mut buffer).unwrap().unwrap();
    assert_eq!((meta.mark, buffer[meta.payload.start] >> 4), (BEFORE_CONNTRACK_MARK, 6));
}

/// A daemon that accepts everything and counts the resets that it saw.
fn accept_all(net: &Net) -> (Daemon, Arc<AtomicU32>) {
    let resets = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&resets);
    let daemon = net.daemon(config(5), move |packet, verdicts| {
        counted.fetch_add(u32::from(packet.payload[33] & 4 != 0), Ordering::Relaxed);
        verdicts.push(packet.id, Verdict::Accept).unwrap();
    });
    (daemon, resets)
}

#[test]
fn a_backends_reset_goes_to_the_daemon_although_spliced() {
    let Some(net) = Net::up("ix") else { return };
    put(&net, &proxy());
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    conntrack.create(&splice(4000)).unwrap();
    let (daemon, resets) = accept_all(&net);
    let listener = net.listen(PORT);
    let mut stream = net.connect(client(4000), (SERVICE, PORT).into()).unwrap();
    let mut accepted = listener.accept().unwrap().0;
    accepted.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    rustix::net::sockopt::set_socket_linger(&accepted, Some(Duration::ZERO)).unwrap();
    drop(accepted);
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    daemon.stop();
    assert_eq!(resets.load(Ordering::Relaxed), 1);
}

#[test]
fn own_raw_packets_are_not_tracked() {
    let Some(net) = Net::up("iw") else { return };
    put(&net, &proxy());
    net.inside("r", || {
        let mut conntrack = Conntrack::open().unwrap();
        RawSender::open(RAW_MARK).unwrap().send(&syn()).unwrap();
        assert!(conntrack.dump(0).unwrap().is_empty());
        RawSender::open(1).unwrap().send(&syn()).unwrap();
        assert_eq!(conntrack.dump(0).unwrap().len(), 1);
    });
}

/// A SYN from an address that is not ours to one that does not answer.
fn syn() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 77, 10, 0, 2, 77];
    packet.extend_from_slice(&[0x10, 0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    fill_checksum(&mut packet);
    packet
}
