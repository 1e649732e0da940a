//! What a host takes of a segment that goes beyond the window that it announced.
//!
//! smoltcp 0.12 takes all that its buffer has room for, also where scaling has rounded the room for a few bytes down to a window
//! of nothing, and panics when it next compares the window with the one that it announced. One byte sent as a probe
//! (RFC 9293 §3.8.6.1) is enough for that. Other stacks cut at the edge (§3.10.7.4).

use packet::{Flags, SegmentBuilder, TcpSegment};

use crate::hosts::Host;
use crate::middlebox::seal;

impl Host {
    /// All of the segment's data is beyond the window: it is acknowledged, not taken.
    pub(crate) fn is_beyond_window(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let key = (segment.destination(), segment.source());
        let (Some((edge, scale)), Some(next), Some(sent)) =
            (self.edges.get(&key), self.peer_next.get(&key), self.sent.get(&key))
        else {
            return false;
        };
        let beyond = segment.checksums_valid()
            && !segment.flags().syn()
            && !segment.payload().is_empty()
            && edge.before_or_at(segment.seq());
        if beyond {
            let window = (edge.since(*next).max(0) >> scale) as u16;
            let bare = SegmentBuilder { seq: *sent, ack: Some(*next), ..SegmentBuilder::new(key.0, key.1) };
            self.wire.outgoing.push(SegmentBuilder { window, ..bare }.build());
        }
        beyond
    }

    /// Without the bytes beyond the window, and what follows them.
    pub(crate) fn within_window(&self, mut packet: Vec<u8>) -> Vec<u8> {
        let Some((beyond, v4)) = self.bytes_beyond(&packet) else { return packet };
        let tcp = if v4 { 20 } else { 40 };
        packet.truncate(packet.len() - beyond);
        packet[tcp + 13] &= !Flags::FIN.0;
        seal(&mut packet, v4, tcp);
        packet
    }

    fn bytes_beyond(&self, packet: &[u8]) -> Option<(usize, bool)> {
        let segment = TcpSegment::parse(packet).ok().filter(TcpSegment::checksums_valid)?;
        let (edge, _) = self.edges.get(&(segment.destination(), segment.source()))?;
        let beyond = (segment.seq() + segment.payload().len() as u32).since(*edge).max(0) as usize;
        let part = (1..segment.payload().len()).contains(&beyond);
        part.then_some((beyond, segment.source().is_ipv4()))
    }
}
