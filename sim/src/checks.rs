//! What must hold for every packet.

use std::collections::{BTreeMap, BTreeSet};

use cluster::control::Client;
use packet::{Seq, TcpSegment, Time};

use crate::net::{AGE_UNKNOWN, Node, Packet, show};

#[derive(Default)]
struct Seen {
    /// The greatest timestamp received, when the packet that carried it came into being, and when it left the proxy.
    timestamp: Option<(u32, u64, u64)>,
    announced_scale: u8,
    /// What the SYN-ACK acknowledged, and the highest acknowledgement since.
    acked: Option<(Seq, Seq)>,
    /// Highest right edge that a receiver gave, client's sequence space.
    granted: Option<Seq>,
}

pub struct Checks {
    pub failure: Option<String>,
    clients: BTreeMap<Client, Seen>,
    unspliced: BTreeSet<(Client, usize)>,
    last: BTreeMap<(usize, Node), Time>,
    hold: u32,
}

impl Checks {
    pub fn new(hold: u32) -> Self {
        Self {
            failure: None,
            clients: BTreeMap::new(),
            unspliced: BTreeSet::new(),
            last: BTreeMap::new(),
            hold,
        }
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// A packet on `link` arrives no earlier than those before it.
    pub fn in_order(&mut self, link: usize, to: Node, at: Time) -> Time {
        let last = self.last.entry((link, to)).or_default();
        *last = at.max(*last);
        *last
    }

    pub fn unspliced(&mut self, client: Client, backend: usize) {
        self.unspliced.insert((client, backend));
    }

    pub fn granted(&mut self, client: Client, edge: Seq) {
        let seen = self.clients.entry(client).or_default();
        seen.granted = Some(seen.granted.map_or(edge, |known| known.max(edge)));
    }

    /// While it is un-spliced, the proxy itself is the receiver.
    pub fn recovering(&mut self, client: Client, next: Seq) {
        self.granted(client, next + self.hold);
    }

    /// What leaves the proxy towards the client.
    /// `isn`: the client's.
    pub fn departs_to_client(&mut self, packet: &Packet, isn: Option<Seq>) {
        let segment = TcpSegment::parse(&packet.bytes).unwrap();
        let client = segment.destination();
        if let Some(backend) =
            packet.from_backend.filter(|backend| self.unspliced.contains(&(client, *backend)))
        {
            self.fail(format!("a packet of the fenced backend{backend} passes: {}", show(&packet.bytes)));
        }
        let seen = self.clients.entry(client).or_default();
        if segment.flags().syn() && isn.is_some_and(|isn| segment.ack() != isn + 1) {
            // The answer to a forged SYN.
            return;
        }
        if segment.flags().syn() {
            seen.announced_scale = segment.syn_options().window_scale.unwrap_or(0);
            seen.timestamp = None;
            seen.acked = Some((segment.ack(), segment.ack()));
            seen.granted = Some(segment.ack() + u32::from(segment.window()));
        } else if let Some((_, acked)) = seen.acked.as_mut().filter(|_| segment.flags().ack()) {
            *acked = acked.max(segment.ack());
        }
    }

    /// Bytes of its request have been acknowledged to the client: it will not repeat them.
    pub fn has_acknowledged(&self, client: Client) -> bool {
        self.clients.get(&client).and_then(|seen| seen.acked).is_some_and(|(first, acked)| acked != first)
    }

    /// Its connection is lost, and may be taken for a new one: the clock of that begins with the answer to its SYN.
    pub fn forget_clock(&mut self, client: Client) {
        self.clients.entry(client).or_default().timestamp = None;
    }

    pub fn departs_to_backend(&mut self, packet: &Packet, backend: usize) {
        let segment = TcpSegment::parse(&packet.bytes).unwrap();
        if segment.flags().syn() {
            self.unspliced.remove(&(segment.source(), backend));
        }
    }

    /// `is_strange`: the client takes no clock from it ([`crate::hosts::Host::is_strange`]).
    pub fn at_client(&mut self, packet: &Packet, is_strange: bool) {
        let Ok(segment) = TcpSegment::parse(&packet.bytes) else { return };
        if !segment.checksums_valid() {
            return;
        }
        if packet.born == AGE_UNKNOWN || is_strange {
            return;
        }
        let seen = self.clients.entry(segment.destination()).or_default();
        // Timestamps of a reset do not count (RFC 7323 §5.2).
        let Some((value, _)) = segment.timestamps().filter(|_| !segment.flags().rst()) else { return };
        match seen.timestamp {
            Some((recent, born, departed)) if (value.wrapping_sub(recent) as i32) < 0 => {
                if packet.born > born && packet.departed > departed {
                    let back = recent.wrapping_sub(value);
                    self.fail(format!("timestamps go back by {back}: {}", show(&packet.bytes)));
                }
            }
            Some((recent, ..)) if value == recent => {}
            _ => seen.timestamp = Some((value, packet.born, packet.departed)),
        }
    }
}
