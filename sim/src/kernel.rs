//! The proxy's kernel: which packets are queued and where, conntrack entries that translate, their ends. It executes the
//! engine's actions as the design says the real one does (design §3 and §9; the rules are those of `nft-rules`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::Client;
use nfq_splice::{EntryState, KernelSplice, Parked};
use packet::{Seq, TcpSegment, Time, Translation};

/// An entry without traffic is forgotten: open, closing, after a RST, in `TIME_WAIT`.
const OPEN: Duration = Duration::from_secs(7440);
const CLOSING: Duration = Duration::from_secs(120);
const RESET: Duration = Duration::from_secs(10);
const TIME_WAIT: Duration = Duration::from_secs(120);

/// An acknowledgement farther from a FIN is a forger's. (The real one is not that exact in its last states.)
const NEAR: i32 = 1 << 24;

pub struct Entry {
    pub splice: KernelSplice,
    /// Client's, server's: one after the FIN, in the client's space.
    fins: [Option<Seq>; 2],
    acked: [bool; 2],
    last_ack: [Option<Seq>; 2],
    /// One after the last byte sent.
    sent: [Option<Seq>; 2],
    reset: bool,
    expires: Time,
}

impl Entry {
    fn new(splice: KernelSplice, now: Time) -> Self {
        Self {
            splice,
            fins: [None; 2],
            acked: [false; 2],
            last_ack: [None; 2],
            sent: [None; 2],
            reset: false,
            expires: now + OPEN,
        }
    }

    pub fn state(&self) -> EntryState {
        if self.reset || self.acked == [true; 2] { EntryState::Closed } else { EntryState::Open }
    }

    pub fn is_open(&self) -> bool {
        self.state() == EntryState::Open
    }

    /// `segment` in the client's space.
    fn note(&mut self, now: Time, segment: &TcpSegment<'_>, from_client: bool) {
        let (mine, other) = if from_client { (0, 1) } else { (1, 0) };
        if segment.flags().fin() {
            self.fins[mine] = Some(segment.seq() + segment.sequence_length());
        }
        if segment.flags().ack()
            && self.fins[other].is_some_and(|fin| (0..NEAR).contains(&segment.ack().since(fin)))
        {
            self.acked[other] = true;
        }
        // An acknowledgement of what was not sent is invalid (`tcp_in_window` of Linux). (The real one believes a forged one that is the
        // first segment it sees of a connection.)
        let known = !from_client
            || self.sent[other].is_some_and(|sent| (0..NEAR).contains(&sent.since(segment.ack())));
        // A client's numbers may be a forger's, a backend's reset may have those of a forged acknowledgement.
        if !from_client && !segment.flags().rst() {
            let end = segment.seq() + segment.sequence_length();
            self.sent[mine] = Some(self.sent[mine].map_or(end, |sent| sent.max(end)));
        }
        if segment.flags().ack() && !segment.flags().rst() && known {
            self.last_ack[mine] = Some(segment.ack());
        }
        // Since Linux 5.10 only an exact one ends an established connection's entry.
        self.reset |= segment.flags().rst() && self.last_ack[other] == Some(segment.seq());
        let timeout = match (self.reset, self.acked == [true; 2], self.fins.iter().any(Option::is_some)) {
            (true, _, _) => RESET,
            (_, true, _) => TIME_WAIT,
            (_, _, true) => CLOSING,
            _ => OPEN,
        };
        self.expires = now + timeout;
    }
}

#[derive(Default)]
pub struct Kernel {
    pub entries: BTreeMap<Client, Entry>,
    /// Flows that are queued before conntrack.
    pub queued: BTreeSet<Client>,
    /// Kept for the next daemon; no packet meets them.
    pub parked: BTreeMap<Client, Parked>,
}

/// What the rules do with a packet.
pub enum Path {
    /// To the engine, before conntrack.
    Raw,
    /// To the engine, after it.
    Tracked,
    /// Translated in place.
    Translated,
}

impl Kernel {
    pub fn receive(&mut self, now: Time, packet: &mut [u8], service: SocketAddr) -> Path {
        let Ok(segment) = TcpSegment::parse(packet) else { return Path::Tracked };
        let from_client = segment.destination() == service;
        let client = if from_client { segment.source() } else { segment.destination() };
        if self.queued.contains(&client) {
            return Path::Raw;
        }
        let opens = segment.flags().syn() && !segment.flags().ack();
        let Some(entry) = self.entries.get_mut(&client) else { return Path::Tracked };
        if (from_client && opens) || (!from_client && segment.source() != entry.splice.backend) {
            return Path::Tracked;
        }
        let splice = entry.splice;
        if from_client {
            entry.note(now, &segment, true);
            client_to_backend(&splice).apply(packet).unwrap();
        } else {
            backend_to_client(&splice, service).apply(packet).unwrap();
            entry.note(now, &TcpSegment::parse(packet).unwrap(), false);
        }
        Path::Translated
    }

    pub fn insert(&mut self, now: Time, splice: KernelSplice) {
        self.entries.insert(splice.client, Entry::new(splice, now));
    }

    /// Entries whose time is over.
    pub fn expire(&mut self, now: Time) -> Vec<Client> {
        let over: Vec<Client> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.expires <= now)
            .map(|(client, _)| *client)
            .collect();
        for client in &over {
            self.entries.remove(client);
        }
        over
    }

    pub fn next_expiry(&self) -> Option<Time> {
        self.entries.values().map(|entry| entry.expires).min()
    }
}

fn client_to_backend(splice: &KernelSplice) -> Translation {
    let back = splice.delta.wrapping_neg();
    Translation {
        source: splice.client,
        destination: splice.backend,
        seq: 0,
        ack: back,
        sack: back,
        ts_value: 0,
        ts_echo: splice.timestamps.unwrap_or(0).wrapping_neg(),
        rescale: None,
    }
}

fn backend_to_client(splice: &KernelSplice, service: SocketAddr) -> Translation {
    Translation {
        source: service,
        destination: splice.client,
        seq: splice.delta,
        ack: 0,
        sack: 0,
        ts_value: splice.timestamps.unwrap_or(0),
        ts_echo: 0,
        rescale: None,
    }
}
