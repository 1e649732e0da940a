//! Blind attackers: they know a client's address and port, and perhaps roughly where its numbers are.

use packet::{Flags, SegmentBuilder};

use super::*;
use crate::addresses::stranger;

/// Longer than any request stream: numbers behind it are never the client's own.
const BEHIND_ALL: u32 = 400_000;

impl World {
    /// One forged packet arrives at the proxy.
    pub(super) fn forge(&mut self) {
        let index = self.rng.below(self.clients.len() as u64) as usize;
        let client = client_address(self.clients[index].port);
        let (next, ack) = self.hosts[0].numbers(client, service()).unwrap_or_default();
        let near = next + self.rng.below(3000) as u32;
        let any = Seq(self.rng.draw() as u32);
        // Nowhere near what the client may acknowledge.
        let wrong = Some(ack + (1 << 30) + self.rng.below(1 << 31) as u32);
        let bare = SegmentBuilder { window: 1000, ..SegmentBuilder::new(client, service()) };
        let forged = match self.rng.below(7) {
            0 => SegmentBuilder { seq: any, flags: Flags::RST, ..bare },
            1 => {
                let seq = next + BEHIND_ALL + self.rng.below(20_000) as u32;
                SegmentBuilder { seq, flags: Flags::RST, ..bare }
            }
            2 => SegmentBuilder { seq: any, flags: Flags::SYN, ..bare },
            3 => SegmentBuilder { seq: near, ack: wrong, payload: b"forged", ..bare },
            4 => SegmentBuilder { seq: any, ack: wrong, payload: b"forged", ..bare },
            5 => SegmentBuilder { seq: near, ack: wrong, ..bare },
            _ => SegmentBuilder {
                seq: any,
                flags: if self.rng.chance(500) { Flags::SYN } else { Flags::ACK },
                ..SegmentBuilder::new(stranger(self.rng.draw() as u16), service())
            },
        };
        let bytes = forged.build();
        self.note(|| format!("FORGED {}", show(&bytes)));
        let packet = Packet { bytes, born: 0, from_backend: None, departed: 0, window: None };
        self.arrive_at_proxy(packet);
    }
}
