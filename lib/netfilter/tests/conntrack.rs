//! Splices in the kernel's connection tracking.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use common::{CLIENT, Net, SERVER, SERVICE, transfer, wait};
use netfilter::Error;
use netfilter::conntrack::{Conntrack, SpliceEntry, TcpState};
use netfilter::conntrack_events::{Event, EventKind, Events};

const HOOKS: &str = "
    table ip test {
        chain nat { type nat hook prerouting priority -100; }
        chain never {
            type filter hook input priority 0;
            meta mark 1 meta mark 2 tcp dport 1 ct state invalid,untracked \
                synproxy mss 1460 wscale 7 timestamp sack-perm
        }
    }";

fn entry(port: u16) -> SpliceEntry {
    SpliceEntry {
        client: (CLIENT, port).into(),
        service: (SERVICE, 8080).into(),
        backend: (SERVER, 8080).into(),
        server_offset: 0xffff_0001,
        client_offset: 0,
        timestamp_offset: 0x8000_0001,
        has_timestamps: true,
        mark: 77,
        timeout_s: 600,
        window_scales: Some((9, 10)),
        sack_permitted: true,
    }
}

fn entry6(port: u16) -> SpliceEntry {
    let address = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    SpliceEntry {
        client: address("fd00:1::2", port),
        service: address("fd00:9::9", 8080),
        backend: address("fd00:2::2", 80),
        has_timestamps: false,
        window_scales: None,
        sack_permitted: false,
        ..entry(port)
    }
}

/// An entry that is there before the handshake must shift the client's numbers too: conntrack takes a SYN-ACK that
/// answers the SYN that it saw for a connection of its own, and the SYNPROXY hook then sets the offsets anew.
fn through_handshake(port: u16) -> SpliceEntry {
    SpliceEntry { client_offset: 1000, ..entry(port) }
}

const BOTH: [EventKind; 2] = [EventKind::Updated, EventKind::Destroyed];

#[test]
fn an_entry_is_read_back_as_it_was_made() {
    let Some(net) = Net::up("ce") else { return };
    net.nft("r", HOOKS);
    net.inside("r", || {
        let mut conntrack = Conntrack::open().unwrap();
        for entry in [entry(4000), entry6(4000)] {
            conntrack.create(&entry).unwrap();
            assert!(matches!(conntrack.create(&entry), Err(Error::Exists)));
            let status = conntrack.get(entry.client, entry.service).unwrap().unwrap();
            assert!((595..=600).contains(&status.entry.timeout_s));
            assert_eq!(SpliceEntry { timeout_s: 600, ..status.entry }, entry);
            assert_eq!(status.state, TcpState::Established);
            let dumped = conntrack.dump(entry.mark).unwrap();
            assert_eq!(dumped.len(), 1);
            assert_eq!(SpliceEntry { timeout_s: 600, ..dumped[0].entry }, entry);
            assert_eq!(dumped[0].id, status.id);
            assert!(conntrack.dump(entry.mark + 1).unwrap().is_empty());
            assert!(conntrack.delete(entry.client, entry.service).unwrap());
            assert!(!conntrack.delete(entry.client, entry.service).unwrap());
            assert_eq!(conntrack.get(entry.client, entry.service).unwrap(), None);
        }
    });
}

#[test]
fn many_are_made_and_deleted_each_with_its_own_result() {
    let Some(net) = Net::up("cm") else { return };
    net.nft("r", HOOKS);
    net.inside("r", || {
        let mut conntrack = Conntrack::open().unwrap();
        let mut entries: Vec<SpliceEntry> = (1000..3000).map(entry).collect();
        entries[500] = entries[499];
        entries[700].backend = entry6(1).backend;
        let results = conntrack.create_all(&entries);
        let failed: Vec<usize> = (0..entries.len()).filter(|index| results[*index].is_err()).collect();
        assert_eq!(failed, [500, 700]);
        assert!(matches!(results[500], Err(Error::Exists)));
        assert!(matches!(results[700], Err(Error::MixedFamilies(_))));
        assert_eq!(conntrack.dump(77).unwrap().len(), 1998);
        let flows: Vec<_> = entries.iter().map(|entry| (entry.client, entry.service)).collect();
        let deleted = conntrack.delete_all(&flows);
        assert_eq!(deleted.iter().filter(|result| matches!(result, Ok(true))).count(), 1998);
        assert!(conntrack.dump(77).unwrap().is_empty());
    });
}

#[test]
fn the_kernel_translates_a_whole_connection() {
    let Some(net) = Net::up("ct") else { return };
    net.nft("r", HOOKS);
    let entry = through_handshake(4000);
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    conntrack.create(&entry).unwrap();
    let listener = net.listen(8080);
    let mut stream = net.connect(entry.client, entry.service).unwrap();
    let (mut accepted, client) = listener.accept().unwrap();
    assert_eq!(client, entry.client);
    stream.write_all(b"request").unwrap();
    let mut request = [0; 7];
    accepted.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"request");
    let data: Vec<u8> = (0..10_000_000_u32).map(|i| (i * 11 / 7) as u8).collect();
    assert!(transfer(accepted, stream, &data) == data);
}

/// What the rules must know: once a RST of the backend closes an entry, the SYNPROXY hook takes it for the answer to a
/// SYN of its own and sets the offset anew, so that the client would reject it. Without that hook it arrives.
#[test]
fn a_reset_of_the_backend_needs_the_daemon_where_the_synproxy_hook_is() {
    let without = HOOKS.replace("synproxy mss 1460 wscale 7 timestamp sack-perm", "accept");
    for (name, hooks, arrives) in [("cr", HOOKS, false), ("cq", without.as_str(), true)] {
        let Some(net) = Net::up(name) else { return };
        net.nft("r", hooks);
        let entry = SpliceEntry { timestamp_offset: 0, ..through_handshake(4000) };
        let mut conntrack = net.inside("r", Conntrack::open).unwrap();
        conntrack.create(&entry).unwrap();
        let listener = net.listen(8080);
        let mut stream = net.connect(entry.client, entry.service).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"y").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&accepted, Some(Duration::ZERO)).unwrap();
        drop(accepted);
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind() == ErrorKind::ConnectionReset, arrives, "{error}");
    }
}

#[test]
fn events_tell_changes_and_ends() {
    let Some(net) = Net::up("cv") else { return };
    net.nft("r", HOOKS);
    let (mut events, mut conntrack) =
        net.inside("r", || (Events::subscribe(1 << 20, &BOTH).unwrap(), Conntrack::open().unwrap()));
    let entry = through_handshake(4000);
    conntrack.create(&entry).unwrap();
    assert_eq!(events.next().unwrap(), None);
    let listener = net.listen(8080);
    let stream = net.connect(entry.client, entry.service).unwrap();
    drop(listener.accept().unwrap());
    let update = next_change(&mut events);
    assert_eq!((update.client, update.service, update.mark), (entry.client, entry.service, entry.mark));
    assert_eq!(update.kind, EventKind::Updated);
    drop(stream);
    assert!(conntrack.delete(entry.client, entry.service).unwrap());
    let end =
        std::iter::repeat_with(|| next_change(&mut events)).find(|c| c.kind == EventKind::Destroyed).unwrap();
    assert_eq!((end.client, end.service, end.mark), (entry.client, entry.service, entry.mark));
}

fn next_change(events: &mut Events) -> netfilter::conntrack_events::Change {
    for _ in 0..100 {
        match events.next().unwrap() {
            Some(Event::Change(change)) => return change,
            Some(Event::Overrun) => panic!("overrun"),
            None => wait(events),
        }
    }
    panic!("no event");
}

#[test]
fn lost_events_are_told() {
    let Some(net) = Net::up("co") else { return };
    net.nft("r", HOOKS);
    net.inside("r", || {
        let mut events = Events::subscribe(4096, &BOTH).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let entries: Vec<SpliceEntry> = (1000..1200).map(entry).collect();
        let flows: Vec<_> = entries.iter().map(|entry| (entry.client, entry.service)).collect();
        assert!(conntrack.create_all(&entries).iter().all(Result::is_ok));
        assert!(conntrack.delete_all(&flows).iter().all(Result::is_ok));
        let mut seen = Vec::new();
        while let Some(event) = events.next().unwrap() {
            seen.push(event);
        }
        assert!(seen.contains(&Event::Overrun));
    });
}
