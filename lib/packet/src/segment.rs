//! A checked view of a whole IP packet that carries TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::options::{self, Options, SynOptions};
use crate::{Seq, checksum};

/// Why bytes are not a TCP packet that this project handles. Such packets are dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Shorter than its headers or its length field say.
    #[error("packet is truncated")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("IP version is neither 4 nor 6")]
    Version,
    /// The IPv4 or TCP header length field is below its minimum.
    #[error("header length field is illegal")]
    HeaderLength,
    /// A fragment; TCP is never parsed out of one.
    #[error("packet is an IP fragment")]
    Fragment,
    /// Another protocol than TCP, or TCP behind headers that this project does not look through.
    #[error("packet is not TCP")]
    NotTcp,
}

/// TCP control bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo; in a SYN the wish for ECN (RFC 3168 §6.1.1).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);
    /// In a SYN: the sender speaks ECN (RFC 3168 §6.1.1).
    pub const ECN: Self = Self::ECE.union(Self::CWR);

    /// All of `other`'s bits are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// FIN is set.
    pub fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    /// SYN is set.
    pub fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    /// RST is set.
    pub fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    /// ACK is set.
    pub fn ack(self) -> bool {
        self.contains(Self::ACK)
    }
}

/// Where the parts of a packet lie; offsets from its beginning, all within its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// IPv4: 12, IPv6: 8.
    pub(crate) addresses: usize,
    /// Of one address: 4 or 16.
    pub(crate) address_bytes: usize,
    /// Beginning of the TCP header, behind IPv4 options or IPv6 extension headers.
    pub(crate) tcp: usize,
    /// Beginning of the payload.
    pub(crate) payload: usize,
    /// End of the packet as its IP header says; what follows is padding.
    pub(crate) end: usize,
}

pub(crate) const IPV6_HEADER: usize = 40;
/// Extension headers before TCP at most: a legitimate packet has at most four, each once (RFC 8200 §4.1).
const MAX_EXTENSIONS: usize = 8;
const TCP_HEADER: usize = 20;
pub(crate) const PROTOCOL_TCP: u8 = 6;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn bytes_at<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(packet.get(at..).unwrap_or_default()) {
        *to = *from;
    }
    out
}

/// An address of 4 or 16 bytes.
pub(crate) fn address_at(packet: &[u8], at: usize, address_bytes: usize) -> IpAddr {
    if address_bytes == 4 {
        IpAddr::V4(Ipv4Addr::from(bytes_at::<4>(packet, at)))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes_at::<16>(packet, at)))
    }
}

impl Layout {
    pub(crate) fn of(packet: &[u8]) -> Result<Self, PacketError> {
        Self::unterminated(packet)?.with_tcp(packet)
    }

    /// The IP header's part; its `end` is not compared with the packet's.
    fn unterminated(packet: &[u8]) -> Result<Self, PacketError> {
        match packet.first().ok_or(PacketError::Truncated)? >> 4 {
            4 => Self::ipv4(packet),
            6 => Self::ipv6(packet),
            _ => Err(PacketError::Version),
        }
    }

    fn ipv4(packet: &[u8]) -> Result<Self, PacketError> {
        let header = usize::from(packet.first().ok_or(PacketError::Truncated)? & 0x0f) * 4;
        let end = usize::from(u16_at(packet, 2).ok_or(PacketError::Truncated)?);
        let fragment = u16_at(packet, 6).ok_or(PacketError::Truncated)?;
        if header < 20 {
            return Err(PacketError::HeaderLength);
        }
        if fragment & 0x3fff != 0 {
            return Err(PacketError::Fragment);
        }
        if *packet.get(9).ok_or(PacketError::Truncated)? != PROTOCOL_TCP {
            return Err(PacketError::NotTcp);
        }
        // A GSO packet above 65,535 bytes carries the length 0.
        let end = if end == 0 { packet.len() } else { end };
        Ok(Self { addresses: 12, address_bytes: 4, tcp: header, payload: 0, end })
    }

    fn ipv6(packet: &[u8]) -> Result<Self, PacketError> {
        let payload = usize::from(u16_at(packet, 4).ok_or(PacketError::Truncated)?);
        let tcp = behind_extensions(packet, PROTOCOL_TCP)?;
        let end = if payload == 0 { packet.len() } else { IPV6_HEADER + payload };
        Ok(Self { addresses: 8, address_bytes: 16, tcp, payload: 0, end })
    }

    fn with_tcp(mut self, packet: &[u8]) -> Result<Self, PacketError> {
        if self.end > packet.len() || self.tcp + TCP_HEADER > self.end {
            return Err(PacketError::Truncated);
        }
        let header = usize::from(packet.get(self.tcp + 12).ok_or(PacketError::Truncated)? >> 4) * 4;
        if header < TCP_HEADER {
            return Err(PacketError::HeaderLength);
        }
        self.payload = self.tcp + header;
        if self.payload > self.end { Err(PacketError::Truncated) } else { Ok(self) }
    }
}

/// Where `protocol` begins in an IPv6 packet (RFC 8200 §4). A routing header that is not used up is refused: the checksum's
/// destination would be another one than the header's.
pub(crate) fn behind_extensions(packet: &[u8], protocol: u8) -> Result<usize, PacketError> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let byte = |at: usize| packet.get(at).copied().ok_or(PacketError::Truncated);
    let (mut next, mut at) = (byte(6)?, IPV6_HEADER);
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            found if found == protocol => return Ok(at),
            FRAGMENT => return Err(PacketError::Fragment),
            ROUTING if byte(at + 3)? != 0 => return Err(PacketError::NotTcp),
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            _ => return Err(PacketError::NotTcp),
        }
        next = byte(at)?;
        at += (usize::from(byte(at + 1)?) + 1) * 8;
    }
    Err(PacketError::NotTcp)
}

/// A whole IPv4 or IPv6 packet with a TCP segment; every length has been checked.
#[derive(Debug, Clone, Copy)]
pub struct TcpSegment<'a> {
    packet: &'a [u8],
    layout: Layout,
}

impl<'a> TcpSegment<'a> {
    /// Checks `packet`'s headers and lengths, not its checksums.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        Ok(Self { packet, layout: Layout::of(packet)? })
    }

    /// As [`parse`](Self::parse), of a packet that was cut off behind its TCP header: a segment without data.
    pub fn parse_headers(packet: &'a [u8]) -> Result<Self, PacketError> {
        let layout = Layout::unterminated(packet)?;
        let layout = Layout { end: packet.len(), ..layout }.with_tcp(packet)?;
        Ok(Self { packet, layout: Layout { end: layout.payload, ..layout } })
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        bytes_at(self.packet, at)
    }

    fn address(&self, second: bool) -> IpAddr {
        let Layout { addresses, address_bytes, .. } = self.layout;
        address_at(self.packet, addresses + if second { address_bytes } else { 0 }, address_bytes)
    }

    /// Source address and port.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.address(false), u16::from_be_bytes(self.bytes(self.layout.tcp)))
    }

    /// Destination address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.address(true), u16::from_be_bytes(self.bytes(self.layout.tcp + 2)))
    }

    /// Sequence number of the first byte (or of the SYN).
    pub fn seq(&self) -> Seq {
        Seq(u32::from_be_bytes(self.bytes(self.layout.tcp + 4)))
    }

    /// Acknowledgement number; significant only with [`Flags::ACK`].
    pub fn ack(&self) -> Seq {
        Seq(u32::from_be_bytes(self.bytes(self.layout.tcp + 8)))
    }

    /// Control bits.
    pub fn flags(&self) -> Flags {
        let [bits] = self.bytes(self.layout.tcp + 13);
        Flags(bits)
    }

    /// Window field, unscaled.
    pub fn window(&self) -> u16 {
        u16::from_be_bytes(self.bytes(self.layout.tcp + 14))
    }

    /// Length of the IP and TCP headers.
    pub fn header_bytes(&self) -> usize {
        self.layout.payload
    }

    /// The segment's data.
    pub fn payload(&self) -> &'a [u8] {
        self.packet.get(self.layout.payload..self.layout.end).unwrap_or_default()
    }

    /// The packet from its IP header to its last byte, without link padding.
    pub fn packet(&self) -> &'a [u8] {
        self.packet.get(..self.layout.end).unwrap_or_default()
    }

    fn option_field(&self) -> &'a [u8] {
        self.packet.get(self.layout.tcp + TCP_HEADER..self.layout.payload).unwrap_or_default()
    }

    /// Length of the option field, padding included.
    pub fn option_bytes(&self) -> usize {
        self.option_field().len()
    }

    /// The options in order.
    pub fn options(&self) -> Options<'a> {
        Options::new(self.option_field())
    }

    /// TSval and TSecr (RFC 7323).
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        options::timestamps(self.option_field())
    }

    /// Timestamps or selective acknowledgements begin on an odd byte. Linux adjusts the checksum of such segments wrongly.
    pub fn has_odd_places(&self) -> bool {
        self.options().any(|option| options::is_translated(option.kind) && option.offset % 2 != 0)
    }

    /// The options that bind a connection; meaningful in a SYN.
    pub fn syn_options(&self) -> SynOptions {
        options::syn_options(self.option_field())
    }

    /// Sequence numbers the segment occupies: data, SYN and FIN.
    pub fn sequence_length(&self) -> u32 {
        let flags = self.flags();
        self.payload().len() as u32 + u32::from(flags.syn()) + u32::from(flags.fin())
    }

    /// Both checksums are right. Packets that a sender's own host has not finished yet (GSO, checksum offload) are not.
    pub fn checksums_valid(&self) -> bool {
        let Layout { tcp, end, .. } = self.layout;
        let segment = self.packet.get(tcp..end).unwrap_or_default();
        self.header_valid() && checksum::tcp(self.addresses(), segment) == [0, 0]
    }

    /// TCP's checksum is still to be filled in by the device that would send it (`CHECKSUM_PARTIAL`); IP's is right.
    pub fn checksum_is_open(&self) -> bool {
        let Layout { tcp, end, .. } = self.layout;
        let open = checksum::pseudo_header(self.addresses(), (end - tcp) as u32);
        self.header_valid() && self.packet.get(tcp + 16..tcp + 18) == Some(&open)
    }

    /// Source and destination as they lie in the IP header.
    fn addresses(&self) -> &'a [u8] {
        let Layout { addresses, address_bytes, .. } = self.layout;
        self.packet.get(addresses..addresses + 2 * address_bytes).unwrap_or_default()
    }

    /// The IP header has a right checksum, or none.
    fn header_valid(&self) -> bool {
        let Layout { address_bytes, tcp, .. } = self.layout;
        let header = self.packet.get(..tcp).unwrap_or_default();
        address_bytes == 16 || checksum::ipv4_header(header) == [0, 0]
    }
}
