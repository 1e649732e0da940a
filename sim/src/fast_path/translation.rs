//! What becomes of a packet that is translated, and which are.

use std::net::SocketAddrV4;
use std::ops::Range;

use super::{FLAGS, half, word};

/// IPv4 without options, TCP with timestamps alone.
pub(super) const HEADERS: usize = 20 + 32;
pub(super) const SUM_OF_IP: usize = 10;
pub(super) const SUM_OF_TCP: usize = 36;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
/// Two of padding, then timestamps.
const STAMPS: [u8; 4] = [1, 1, 8, 10];

/// Translation of one direction.
pub(super) struct Way {
    pub(super) from_server: bool,
    pub(super) new: SocketAddrV4,
    pub(super) add: [u32; 4],
    pub(super) scales: (u8, u8),
}

impl Way {
    pub(super) fn translate(&self, packet: &mut [u8]) {
        let before: Vec<u8> = packet[..HEADERS].to_vec();
        packet[8] -= 1;
        let (ip, port) = if self.from_server { (12, 20) } else { (16, 22) };
        packet[ip..ip + 4].copy_from_slice(&self.new.ip().octets());
        packet[port..port + 2].copy_from_slice(&self.new.port().to_be_bytes());
        for (at, add) in [24, 28, 44, 48].into_iter().zip(self.add) {
            let sum = word(packet, at).wrapping_add(add);
            packet[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        let window = rescaled(half(packet, 34), self.scales);
        packet[34..36].copy_from_slice(&window.to_be_bytes());
        correct(packet, &before, SUM_OF_IP, 0..20);
        correct(packet, &before, SUM_OF_TCP, 12..HEADERS);
    }
}

/// Rounded down, but never from some to none.
fn rescaled(window: u16, (from, to): (u8, u8)) -> u16 {
    let bytes = u32::from(window) << from.min(14);
    let least = u32::from(window.min(1));
    (bytes >> to.min(14)).clamp(least, 0xffff) as u16
}

/// RFC 1624, equation 3: a wrong sum stays wrong.
pub(super) fn correct(packet: &mut [u8], before: &[u8], place: usize, changed: Range<usize>) {
    let mut sum = u64::from(!half(packet, place));
    for at in changed.step_by(2).filter(|at| *at != place) {
        sum += u64::from(!half(before, at)) + u64::from(half(packet, at));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[place..place + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

pub(super) fn is_whole_tcp(packet: &[u8]) -> bool {
    let fragment = half(packet, 6) & 0x3fff;
    packet[0] == 0x45 && packet[9] == 6 && fragment == 0
}

/// Timestamps as the only option, an acknowledgement, nothing urgent, a hop left.
pub(super) fn is_plain(packet: &[u8]) -> bool {
    packet.len() >= HEADERS
        && packet[FLAGS] & (ACK | URG) == ACK
        && packet[32] & 0xf0 == 0x80
        && packet[8] > 1
        && packet[40..44] == STAMPS
}
