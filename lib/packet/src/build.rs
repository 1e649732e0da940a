//! Making packets.

use std::net::{IpAddr, SocketAddr};

use crate::options::{SynOptions, kind};
use crate::{Flags, Seq, checksum};

/// A TCP segment to be made into an IP packet. Fields not set are zero or absent.
#[derive(Debug, Clone)]
pub struct SegmentBuilder<'a> {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port; of the same family.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number; sets [`Flags::ACK`].
    pub ack: Option<Seq>,
    /// Further control bits.
    pub flags: Flags,
    /// Window field.
    pub window: u16,
    /// Options of a SYN; its `timestamp` is ignored in favour of `timestamps`.
    pub syn: Option<SynOptions>,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// One selective acknowledgement, its first byte and the one behind its last (RFC 2018).
    pub sack: Option<(Seq, Seq)>,
    /// Data; packet and headers must stay within 65,535 bytes.
    pub payload: &'a [u8],
}

impl SegmentBuilder<'_> {
    /// A bare segment.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            seq: Seq(0),
            ack: None,
            flags: Flags(0),
            window: 0,
            syn: None,
            timestamps: None,
            sack: None,
            payload: &[],
        }
    }

    fn options(&self) -> Vec<u8> {
        let mut field = Vec::with_capacity(40);
        let sack_permitted = self.syn.is_some_and(|syn| syn.sack_permitted);
        if let Some(mss) = self.syn.and_then(|syn| syn.mss) {
            field.extend([kind::MSS, 4]);
            field.extend(mss.to_be_bytes());
        }
        // In the order of Linux, which pads with what is there.
        if sack_permitted && self.timestamps.is_none() {
            field.extend([kind::NOP, kind::NOP]);
        }
        if sack_permitted {
            field.extend([kind::SACK_PERMITTED, 2]);
        } else if self.timestamps.is_some() {
            field.extend([kind::NOP, kind::NOP]);
        }
        if let Some((value, echo)) = self.timestamps {
            field.extend([kind::TIMESTAMPS, 10]);
            field.extend(value.to_be_bytes());
            field.extend(echo.to_be_bytes());
        }
        if let Some(scale) = self.syn.and_then(|syn| syn.window_scale) {
            field.extend([kind::NOP, kind::WINDOW_SCALE, 3, scale]);
        }
        if let Some((first, end)) = self.sack {
            field.extend([kind::NOP, kind::NOP, kind::SACK, 10]);
            field.extend(first.0.to_be_bytes());
            field.extend(end.0.to_be_bytes());
        }
        field
    }

    /// The whole packet, both checksums valid.
    pub fn build(&self) -> Vec<u8> {
        let options = self.options();
        let tcp_bytes = 20 + options.len() + self.payload.len();
        let mut packet = ip_header(self.source.ip(), self.destination.ip(), tcp_bytes);
        let tcp = packet.len();
        packet.reserve(tcp_bytes);
        packet.extend(self.source.port().to_be_bytes());
        packet.extend(self.destination.port().to_be_bytes());
        packet.extend(self.seq.0.to_be_bytes());
        packet.extend(self.ack.unwrap_or_default().0.to_be_bytes());
        let ack = if self.ack.is_some() { Flags::ACK } else { Flags(0) };
        packet.extend([((20 + options.len()) as u8 / 4) << 4, self.flags.union(ack).0]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(options);
        packet.extend(self.payload);
        seal_tcp(&mut packet, tcp);
        packet
    }
}

/// Writes the TCP checksum of a packet whose TCP header begins at `tcp` and whose checksum field is zero.
fn seal_tcp(packet: &mut [u8], tcp: usize) {
    let (ip, segment) = packet.split_at_mut(tcp);
    let addresses = if tcp == 20 { ip.get(12..20) } else { ip.get(8..40) }.unwrap_or_default();
    let sum = checksum::tcp(addresses, segment);
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&sum);
    }
}

fn ip_header(source: IpAddr, destination: IpAddr, tcp_bytes: usize) -> Vec<u8> {
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) {
        let mut header = vec![0x45, 0];
        header.extend(((20 + tcp_bytes) as u16).to_be_bytes());
        // Identification 0 with DF set: such packets are never fragmented (RFC 6864 §4.1).
        header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = checksum::ipv4_header(&header);
        if let Some(field) = header.get_mut(10..12) {
            field.copy_from_slice(&sum);
        }
        return header;
    }
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((tcp_bytes as u16).to_be_bytes());
    header.extend([6, 64]);
    header.extend(v6(source).octets());
    header.extend(v6(destination).octets());
    header
}
