//! Timestamps that come back in a handshake: Linux (6.15 and later) takes a segment in SYN-RECEIVED only if it echoes one of its
//! SYN-ACKs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use packet::{Seq, TcpSegment};

/// By own and peer's address: the SYN-ACK's sequence number, its first and last timestamp.
#[derive(Debug, Default)]
pub(crate) struct Echoes(BTreeMap<(SocketAddr, SocketAddr), (Seq, u32, u32)>);

impl Echoes {
    /// A segment leaves the host.
    pub(crate) fn note(&mut self, key: (SocketAddr, SocketAddr), segment: &TcpSegment<'_>) {
        if !segment.flags().syn() {
            return;
        }
        let Some((value, _)) = segment.timestamps() else {
            self.0.remove(&key);
            return;
        };
        let entry = self.0.entry(key).or_insert((segment.seq(), value, value));
        let first = if entry.0 == segment.seq() { entry.1 } else { value };
        *entry = (segment.seq(), first, value);
    }

    /// A segment for a half-open connection is not taken. One that acknowledges something else is looked at before, and answered with a
    /// RST (`net/ipv4/tcp_minisocks.c`).
    pub(crate) fn is_wrong(&self, segment: &TcpSegment<'_>) -> bool {
        let known = self.0.get(&(segment.destination(), segment.source()));
        let (Some((isn, first, last)), Some((_, echo))) = (known, segment.timestamps()) else { return false };
        let flags = segment.flags();
        segment.ack() == *isn + 1
            && !flags.syn()
            && !flags.rst()
            && echo.wrapping_sub(*first) > last.wrapping_sub(*first)
    }
}
