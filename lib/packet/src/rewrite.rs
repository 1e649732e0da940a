//! Rewriting a packet in place: one direction of a splice (design §3, "Splice").

use std::net::{IpAddr, SocketAddr};

use crate::checksum;
use crate::options::{Options, kind};
use crate::segment::{Flags, Layout, PacketError};

/// What one direction of a splice changes. All additions are modulo 2³². Beside that it takes back the urgent pointer: with
/// it the receiver's kernel would take a byte out of the stream, and the stream's offsets in the log and in the application
/// would part. Without it that byte is data like any other, for everybody (RFC 6093 §3.4 knows this of middleboxes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The packet's new source.
    pub source: SocketAddr,
    /// The packet's new destination.
    pub destination: SocketAddr,
    /// Added to the sequence number.
    pub seq: u32,
    /// Added to the acknowledgement number.
    pub ack: u32,
    /// Added to SACK edges; differs from `ack` only where an acknowledgement is held back.
    pub sack: u32,
    /// Added to TSval.
    pub ts_value: u32,
    /// Added to TSecr.
    pub ts_echo: u32,
    /// The sender's window scale and the one its peer was told; `None`: equal.
    pub rescale: Option<(u8, u8)>,
}

impl Translation {
    /// Rewrites `packet` and writes full checksums. Addresses of another family than the packet's are refused.
    pub fn apply(&self, packet: &mut [u8]) -> Result<(), PacketError> {
        let layout = self.fields(packet)?;
        seal(packet, &layout);
        Ok(())
    }

    /// The same, but of the TCP checksum only the pseudo-header's sum: whoever sends the packet on fills it in, once it is cut
    /// into segments. [`fill_checksum`] makes up for it.
    pub fn apply_unsummed(&self, packet: &mut [u8]) -> Result<(), PacketError> {
        let layout = self.fields(packet)?;
        seal_header(packet, &layout);
        let addresses = layout.addresses..layout.addresses + 2 * layout.address_bytes;
        let length = layout.end - layout.tcp;
        let sum = checksum::pseudo_header(packet.get(addresses).unwrap_or_default(), length as u32);
        put(packet, layout.tcp + 16, &sum);
        Ok(())
    }

    fn fields(&self, packet: &mut [u8]) -> Result<Layout, PacketError> {
        let layout = Layout::of(packet)?;
        self.addresses(packet, &layout)?;
        let tcp = packet.get_mut(layout.tcp..layout.end).ok_or(PacketError::Truncated)?;
        put(tcp, 0, &self.source.port().to_be_bytes());
        put(tcp, 2, &self.destination.port().to_be_bytes());
        add(tcp, 4, self.seq);
        add(tcp, 8, self.ack);
        take_back_urgency(tcp);
        self.window(tcp);
        self.options(tcp, layout.payload - layout.tcp);
        Ok(layout)
    }

    fn addresses(&self, packet: &mut [u8], layout: &Layout) -> Result<(), PacketError> {
        match (self.source.ip(), self.destination.ip(), layout.address_bytes) {
            (IpAddr::V4(source), IpAddr::V4(destination), 4) => {
                put(packet, 12, &source.octets());
                put(packet, 16, &destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination), 16) => {
                put(packet, 8, &source.octets());
                put(packet, 24, &destination.octets());
            }
            _ => return Err(PacketError::Version),
        }
        Ok(())
    }

    /// A window that the new scale cannot express is rounded down, but never from some to none.
    fn window(&self, tcp: &mut [u8]) {
        let Some((from, to)) = self.rescale else { return };
        let Some(&[a, b]) = tcp.get(14..16) else { return };
        let bytes = u32::from(u16::from_be_bytes([a, b])) << from.min(14);
        let scaled = (bytes >> to.min(14)).min(0xffff) as u16;
        let field = if bytes > 0 { scaled.max(1) } else { 0 };
        put(tcp, 14, &field.to_be_bytes());
    }

    fn options(&self, tcp: &mut [u8], header: usize) {
        let mut edits = [(0_usize, 0_u32); 10];
        let mut count = 0;
        let mut note = |at: usize, value: u32| {
            if let Some(slot) = edits.get_mut(count) {
                *slot = (at, value);
                count += 1;
            }
        };
        for option in Options::new(tcp.get(20..header).unwrap_or_default()) {
            let at = 20 + option.offset;
            match (option.kind, option.data.len()) {
                (kind::TIMESTAMPS, 8) => {
                    note(at, self.ts_value);
                    note(at + 4, self.ts_echo);
                }
                // Blocks of two edges; an option of another length is none (RFC 2018 §3).
                (kind::SACK, length) if length % 8 == 0 => {
                    (0..length / 4).for_each(|edge| note(at + 4 * edge, self.sack));
                }
                _ => {}
            }
        }
        for &(at, value) in edits.iter().take(count) {
            add(tcp, at, value);
        }
    }
}

fn take_back_urgency(tcp: &mut [u8]) {
    if let Some(flags) = tcp.get_mut(13).filter(|flags| Flags(**flags).contains(Flags::URG)) {
        *flags &= !Flags::URG.0;
        put(tcp, 18, &[0, 0]);
    }
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

pub(crate) fn add(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(&[a, b, c, d]) = bytes.get(at..at + 4) {
        put(bytes, at, &u32::from_be_bytes([a, b, c, d]).wrapping_add(value).to_be_bytes());
    }
}

/// The checksum of an IPv4 header.
fn seal_header(packet: &mut [u8], layout: &Layout) {
    if layout.address_bytes == 4 {
        put(packet, 10, &[0, 0]);
        let sum = checksum::ipv4_header(packet.get(..layout.tcp).unwrap_or_default());
        put(packet, 10, &sum);
    }
}

/// Computes all checksums of a packet anew.
pub fn fill_checksum(packet: &mut [u8]) -> Result<(), PacketError> {
    let layout = Layout::of(packet)?;
    seal(packet, &layout);
    Ok(())
}

/// Full checksums, whatever the kernel promised to fill in: a changed packet returns without checksum state (design §9).
pub(crate) fn seal(packet: &mut [u8], layout: &Layout) {
    seal_header(packet, layout);
    put(packet, layout.tcp + 16, &[0, 0]);
    let addresses = layout.addresses..layout.addresses + 2 * layout.address_bytes;
    let sum = checksum::tcp(
        packet.get(addresses).unwrap_or_default(),
        packet.get(layout.tcp..layout.end).unwrap_or_default(),
    );
    put(packet, layout.tcp + 16, &sum);
}
