//! Blind attackers: they know a client's address and port, and perhaps roughly where its numbers are.

use packet::icmp::too_big;
use packet::{Flags, SegmentBuilder, SynOptions};

use super::*;
use crate::addresses::stranger;

/// Longer than any request stream: numbers behind it are never the client's own.
const BEHIND_ALL: u32 = 400_000;

/// No client of the simulation sends these bytes.
pub(super) const DATA: &[u8] = b"forged";
/// [`Packet::born`] of what is not its source's.
pub(super) const FORGED: u64 = 0;

/// What most hosts offer.
const OFFER: SynOptions =
    SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamp: None };

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
        // With timestamps it may take the fast path, or be answered there.
        let timestamps = self.rng.chance(400).then(|| (self.rng.draw() as u32, self.rng.draw() as u32));
        let bare = SegmentBuilder { window: 1000, timestamps, ..SegmentBuilder::new(client, service()) };
        let data = SegmentBuilder { payload: DATA, ..bare };
        let syn = self.rng.chance(500).then_some(OFFER);
        if self.rng.chance(200) {
            return self.forge_error(client, near, ack);
        }
        let forged = match self.rng.below(7) {
            0 => SegmentBuilder { seq: any, flags: Flags::RST, ..bare },
            1 => {
                let seq = next + BEHIND_ALL + self.rng.below(20_000) as u32;
                SegmentBuilder { seq, flags: Flags::RST, ..bare }
            }
            2 => SegmentBuilder { seq: any, flags: Flags::SYN, syn, ..bare },
            3 => SegmentBuilder { seq: near, ack: wrong, ..data },
            4 => SegmentBuilder { seq: any, ack: wrong, ..data },
            5 => SegmentBuilder { seq: near, ack: wrong, payload: b"", ..data },
            _ => SegmentBuilder {
                seq: any,
                flags: if self.rng.chance(500) { Flags::SYN } else { Flags::ACK },
                syn,
                timestamps,
                ..SegmentBuilder::new(stranger(self.rng.draw() as u16), service())
            },
        };
        let bytes = forged.build();
        self.note(|| format!("FORGED {}", show(&bytes)));
        let packet = Packet { bytes, born: FORGED, from_backend: None, departed: 0, window: None };
        self.arrive_at_proxy(packet);
    }

    /// An ICMP error: too big, with numbers that are not in flight or an MTU that is none; or a soft one with any numbers.
    fn forge_error(&mut self, client: ClientAddress, near: Seq, ack: Seq) {
        let to_client = self.rng.chance(500);
        let far = (1 << 30) + self.rng.below(1 << 30) as u32;
        let soft = self.rng.chance(500);
        let number = if to_client { ack } else { near } + if soft { 0 } else { far };
        let chosen = backend(self.rng.below(BACKENDS as u64) as usize);
        let (from, to) = if to_client { (service(), client) } else { (client, chosen) };
        let about = SegmentBuilder {
            seq: number,
            ack: Some(near),
            payload: &[0; 1200],
            ..SegmentBuilder::new(from, to)
        };
        let about = about.build();
        let mtu = self.rng.pick(&[0, 20, 600, 1300]);
        let mut error = too_big(crate::addresses::router(), &TcpSegment::parse(&about).unwrap(), mtu);
        if soft {
            // Host or network unreachable, hop limit exceeded: the engine does not look at checksums.
            let (at, kinds) = if self.scenario.v6 { (40, [(1, 0), (3, 0)]) } else { (20, [(3, 1), (11, 0)]) };
            let (kind, code) = self.rng.pick(&kinds);
            error[at] = kind;
            error[at + 1] = code;
        }
        self.note(|| format!("FORGED an ICMP error about {}", show(&about)));
        if !self.down {
            self.engine.handle_packet(self.now, &mut error, Stage::Raw);
            self.act(false);
        }
    }
}
