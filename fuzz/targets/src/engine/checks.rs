//! What must hold after every operation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::Client;
use nfq_splice::{KernelSplice, Stage};
use packet::TcpSegment;
use packet::icmp::IcmpError;

use super::peers::{number_of_backend, number_of_client, service};
use super::world::World;

/// As configured.
const CONNECTIONS: usize = 4;
const HALF_OPEN: usize = 3;
/// Timers of a connection that nobody talks to any more: it gives up long before.
const LAST_TIMERS: usize = 2000;

impl World {
    /// A packet of the engine's own: from the service to a client, or as a client to a backend, with right checksums.
    pub(super) fn sent(&mut self, packet: &[u8]) {
        let Ok(segment) = TcpSegment::parse(packet) else { return error_to_its_cause(packet) };
        assert!(segment.checksums_valid());
        let (source, destination) = (segment.source(), segment.destination());
        let to_client = source == service();
        let to_backend = number_of_backend(destination).is_some() && destination != service();
        assert!(to_client || to_backend, "sent from {source} to {destination}");
        if let (Some(_), true) = (number_of_client(source), to_backend) {
            let allowed = self.current_backends().get(&source).copied().flatten() == Some(destination);
            assert!(allowed || segment.flags().rst(), "to {destination}, which {source} has left");
        }
        self.learn(&segment);
    }

    /// A packet that goes on: only one that was queued before conntrack, only to the other end of its connection.
    pub(super) fn passed(
        &mut self,
        original: &[u8],
        packet: &[u8],
        stage: Stage,
        before: &BTreeMap<Client, Option<SocketAddr>>,
    ) {
        assert_eq!(stage, Stage::Raw, "rewritten after conntrack");
        let was = TcpSegment::parse(original).expect("only segments go on");
        let is = TcpSegment::parse(packet).expect("a rewritten segment is one");
        assert!(is.checksums_valid());
        let backend = |client| before.get(&client).copied().flatten();
        if was.destination() == service() {
            assert_eq!((is.source(), Some(is.destination())), (was.source(), backend(was.source())));
        } else {
            assert_eq!(backend(was.destination()), Some(was.source()), "a fenced backend was heard");
            assert_eq!((is.source(), is.destination()), (service(), was.destination()));
        }
        self.learn(&is);
    }

    pub(super) fn spliced(&mut self, entry: KernelSplice) {
        assert!(number_of_backend(entry.backend).is_some(), "spliced to {}", entry.backend);
        self.parked.remove(&entry.client);
        self.entries.insert(entry.client, entry);
    }

    pub(super) fn check(&mut self) {
        let status = self.engine.status();
        assert_eq!(status.total, status.connections.len() as u64);
        // A restored entry is a fact: it counts, but is not refused.
        assert!(status.connections.len() <= CONNECTIONS + self.entries.len() + self.parked.len());
        let gauge = |name: &str| status.counters.get(name).copied().unwrap_or_default();
        let count = |states: &[&str]| {
            status.connections.iter().filter(|connection| states.contains(&connection.state.as_str())).count()
        };
        assert!(count(&["syn-received"]) <= HALF_OPEN);
        assert_eq!(gauge("half_open_now"), count(&["syn-received"]) as u64);
        let setups = count(&["syn-received", "collecting", "connecting"]);
        assert!(setups > 0 || gauge("setup_bytes_now") == 0, "bytes of nobody");
        for connection in &status.connections {
            let (entry, queued) =
                (self.entries.get(&connection.client), self.queued.contains(&connection.client));
            match connection.state.as_str() {
                "spliced-kernel" => {
                    assert_eq!(entry.map(|entry| entry.backend), connection.backend, "the kernel's entry");
                    assert!(!queued, "kernel-spliced, but queued");
                }
                "spliced-userspace" | "recovering" => {
                    assert!(entry.is_none(), "{} with an entry", connection.state);
                    assert!(queued, "{} but not queued before conntrack", connection.state);
                }
                _ => assert!(entry.is_none(), "{} with an entry", connection.state),
            }
        }
        let known =
            |client: &Client| status.connections.iter().any(|connection| connection.client == *client);
        assert!(self.queued.iter().all(known), "queued for ever: {:?}", self.queued);
        assert!(self.entries.keys().all(known), "an entry without a connection");
        assert!(self.parked.keys().all(known), "parked without a connection");
        let rises = |(name, count): (&String, &u64)| {
            name.ends_with("_now") || self.counters.get(name).is_none_or(|old| old <= count)
        };
        assert!(status.counters.iter().all(rises), "a counter fell");
        self.counters = status.counters;
    }

    /// Nobody says anything any more: only what the kernel keeps account of remains, and no timer.
    pub(super) fn run_out(&mut self) {
        for _ in 0..LAST_TIMERS {
            let Some(due) = self.engine.poll_timeout() else { break };
            self.pass_time(due.since(self.now) + Duration::from_millis(1));
            self.check();
        }
        assert_eq!(self.engine.poll_timeout(), None, "timers for ever");
        let left = self.engine.status().connections;
        assert!(left.iter().all(|connection| connection.state == "spliced-kernel"), "{left:?}");
    }
}

/// An ICMP error goes to who sent the segment that it quotes, as that one sent it.
fn error_to_its_cause(packet: &[u8]) {
    let error = IcmpError::parse(packet).expect("what is sent is a segment or an error about one");
    assert!(error.checksums_valid());
    let quoted = error.quoted();
    let to_client = number_of_client(quoted.source).is_some() && quoted.destination == service();
    let to_backend =
        number_of_backend(quoted.source).is_some() && number_of_client(quoted.destination).is_some();
    assert!(to_client || to_backend, "an error about {quoted:?}");
}
