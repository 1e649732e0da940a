//! ICMP errors about TCP segments (RFC 792, RFC 4443): what they say, whom they quote, and their translation (RFC 5508 §4).
//!
//! An error quotes the beginning of the packet that caused it. Its receiver finds the connection by the quoted addresses and ports, and
//! believes it only if the quoted sequence number is in flight (RFC 5927 §4). So all of them are translated like the segment was.

use std::net::{IpAddr, SocketAddr};

use crate::rewrite::{add, put};
use crate::segment::{IPV6_HEADER, PROTOCOL_TCP, PacketError, address_at, behind_extensions, u16_at};
use crate::{Seq, checksum};

const ICMP_HEADER: usize = 8;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
/// A router quotes at least so much of TCP (RFC 792): ports and sequence number.
const QUOTED_TCP: usize = 8;
/// Bytes of an IPv6 error at most (RFC 4443 §2.4 (c)): its sender knows no smaller link.
const IPV6_MINIMUM_MTU: usize = 1280;
/// Bytes of an IPv4 error at most (RFC 1812 §4.3.2.3).
const IPV4_ERROR: usize = 576;

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpKind {
    /// Fragmentation needed, packet too big: the next hop takes `mtu` bytes; 0: a router older than RFC 1191 does not say.
    TooBig {
        /// As the message says, bytes.
        mtu: u32,
    },
    /// Port or protocol unreachable: the host is there, nobody listens.
    NobodyListens,
    /// Any other unreachability: may pass (RFC 9293 MUST-56).
    Unreachable,
    /// Time exceeded, or a parameter problem.
    Other,
    /// Obsolete and to be ignored (RFC 9293 MUST-55, RFC 6633).
    SourceQuench,
}

/// The segment that caused an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Its source.
    pub source: SocketAddr,
    /// Its destination.
    pub destination: SocketAddr,
    /// Its sequence number.
    pub seq: Seq,
    /// Length of its packet, bytes, as its IP header says; more than is quoted.
    pub length: u32,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Addresses of the packet itself.
    addresses: usize,
    address_bytes: usize,
    icmp: usize,
    /// The quoted IP header.
    inner: usize,
    /// The quoted TCP header.
    tcp: usize,
    end: usize,
}

/// Where IP's payload begins, and where the packet ends as its header says.
fn ipv4_payload(packet: &[u8], protocol: u8, fragments: u16) -> Result<(usize, usize), PacketError> {
    let header = usize::from(packet.first().ok_or(PacketError::Truncated)? & 0x0f) * 4;
    if header < 20 {
        return Err(PacketError::HeaderLength);
    }
    if u16_at(packet, 6).ok_or(PacketError::Truncated)? & fragments != 0 {
        return Err(PacketError::Fragment);
    }
    if packet.get(9).copied() != Some(protocol) {
        return Err(PacketError::NotTcp);
    }
    Ok((header, usize::from(u16_at(packet, 2).ok_or(PacketError::Truncated)?)))
}

impl Layout {
    fn of(packet: &[u8]) -> Result<Self, PacketError> {
        let version = packet.first().ok_or(PacketError::Truncated)? >> 4;
        let (addresses, address_bytes, (icmp, end)) = match version {
            4 => (12, 4, ipv4_payload(packet, PROTOCOL_ICMP, 0x3fff)?),
            6 => (8, 16, ipv6_payload(packet, PROTOCOL_ICMPV6)?),
            _ => return Err(PacketError::Version),
        };
        let inner = icmp + ICMP_HEADER;
        let quoted = packet.get(inner..end).ok_or(PacketError::Truncated)?;
        if quoted.first().ok_or(PacketError::Truncated)? >> 4 != version {
            return Err(PacketError::Version);
        }
        // The quote is cut: its own length field says nothing. A later fragment has no TCP header.
        let header = match version {
            4 => ipv4_payload(quoted, PROTOCOL_TCP, 0x1fff)?.0,
            _ => behind_extensions(quoted, PROTOCOL_TCP)?,
        };
        if header + QUOTED_TCP > quoted.len() {
            return Err(PacketError::Truncated);
        }
        Ok(Self { addresses, address_bytes, icmp, inner, tcp: inner + header, end })
    }

    fn quoted_addresses(&self) -> usize {
        self.inner + self.addresses
    }
}

fn ipv6_payload(packet: &[u8], protocol: u8) -> Result<(usize, usize), PacketError> {
    let length = usize::from(u16_at(packet, 4).ok_or(PacketError::Truncated)?);
    Ok((behind_extensions(packet, protocol)?, IPV6_HEADER + length))
}

/// A whole packet with an ICMP error about a TCP segment; every length has been checked.
#[derive(Debug, Clone, Copy)]
pub struct IcmpError<'a> {
    packet: &'a [u8],
    layout: Layout,
}

impl<'a> IcmpError<'a> {
    /// Checks headers, lengths and the kind of message, not the checksum.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        let error = Self { packet, layout: Layout::of(packet)? };
        error.find_kind().ok_or(PacketError::NotTcp)?;
        Ok(error)
    }

    fn find_kind(&self) -> Option<IcmpKind> {
        let at = self.layout.icmp;
        let kind = *self.packet.get(at)?;
        let code = *self.packet.get(at + 1)?;
        let low = u32::from(u16_at(self.packet, at + 6)?);
        let word = u32::from(u16_at(self.packet, at + 4)?) << 16 | low;
        let v6 = self.layout.address_bytes == 16;
        Some(match (v6, kind, code) {
            (false, 3, 4) => IcmpKind::TooBig { mtu: low },
            (true, 2, _) => IcmpKind::TooBig { mtu: word },
            (false, 3, 2 | 3) | (true, 1, 4) | (true, 4, 1) => IcmpKind::NobodyListens,
            (false, 3, _) | (true, 1, _) => IcmpKind::Unreachable,
            (false, 4, _) => IcmpKind::SourceQuench,
            (false, 11 | 12, _) | (true, 3 | 4, _) => IcmpKind::Other,
            _ => return None,
        })
    }

    /// The packet from its IP header to its last byte, without link padding.
    pub fn packet(&self) -> &'a [u8] {
        self.packet.get(..self.layout.end).unwrap_or_default()
    }

    /// What it says.
    pub fn kind(&self) -> IcmpKind {
        self.find_kind().unwrap_or(IcmpKind::Other)
    }

    /// Who sent it: any hop of the path.
    pub fn source(&self) -> IpAddr {
        address_at(self.packet, self.layout.addresses, self.layout.address_bytes)
    }

    /// The segment that it is about.
    pub fn quoted(&self) -> Quoted {
        let Layout { address_bytes, inner, tcp, .. } = self.layout;
        let at = self.layout.quoted_addresses();
        let length = if address_bytes == 4 {
            u32::from(u16_at(self.packet, inner + 2).unwrap_or(0))
        } else {
            u32::from(u16_at(self.packet, inner + 4).unwrap_or(0)) + IPV6_HEADER as u32
        };
        let port = |offset| u16_at(self.packet, tcp + offset).unwrap_or(0);
        let [high, low] = [port(4), port(6)].map(u32::from);
        Quoted {
            source: SocketAddr::new(address_at(self.packet, at, address_bytes), port(0)),
            destination: SocketAddr::new(address_at(self.packet, at + address_bytes, address_bytes), port(2)),
            seq: Seq(high << 16 | low),
            length,
        }
    }

    /// The message's checksum, and an IPv4 header's, are right.
    pub fn checksums_valid(&self) -> bool {
        let header = self.packet.get(..self.layout.icmp).unwrap_or_default();
        (self.layout.address_bytes == 16 || checksum::ipv4_header(header) == [0, 0])
            && icmp_checksum(self.packet, &self.layout) == [0, 0]
    }
}

fn icmp_checksum(packet: &[u8], layout: &Layout) -> [u8; 2] {
    let message = packet.get(layout.icmp..layout.end).unwrap_or_default();
    let addresses = packet.get(layout.addresses..layout.addresses + 32).unwrap_or_default();
    if layout.address_bytes == 16 {
        checksum::with_pseudo_header(addresses, PROTOCOL_ICMPV6, message)
    } else {
        checksum::finish(checksum::add(0, message))
    }
}

/// What an error gets on its way to the other side of a splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpTranslation {
    /// The error's source and destination.
    pub addresses: [IpAddr; 2],
    /// The quoted segment's source.
    pub source: SocketAddr,
    /// The quoted segment's destination.
    pub destination: SocketAddr,
    /// Added to its sequence number, modulo 2³².
    pub seq: u32,
    /// Added to its acknowledgement number, if that is quoted.
    pub ack: u32,
}

impl IcmpTranslation {
    /// Rewrites a whole packet. Addresses of another family than the packet's are refused.
    pub fn apply(&self, packet: &mut [u8]) -> Result<(), PacketError> {
        let layout = Layout::of(packet)?;
        let [from, to] = self.addresses;
        let v6 = layout.address_bytes == 16;
        if [from, to, self.source.ip(), self.destination.ip()].iter().any(|ip| ip.is_ipv6() != v6) {
            return Err(PacketError::Version);
        }
        put_addresses(packet, layout.addresses, [from, to]);
        self.quote(packet, &layout);
        seal(packet, &layout);
        Ok(())
    }

    fn quote(&self, packet: &mut [u8], layout: &Layout) {
        let before = quoted_sum(packet, layout);
        put_addresses(packet, layout.quoted_addresses(), [self.source.ip(), self.destination.ip()]);
        if layout.address_bytes == 4 {
            seal_ipv4(packet, layout.inner, layout.tcp);
        }
        put(packet, layout.tcp, &self.source.port().to_be_bytes());
        put(packet, layout.tcp + 2, &self.destination.port().to_be_bytes());
        add(packet, layout.tcp + 4, self.seq);
        if layout.tcp + 12 <= layout.end {
            add(packet, layout.tcp + 8, self.ack);
        }
        // The quote is cut, so its checksum can only be adjusted by what has changed (RFC 1624).
        if layout.tcp + 18 <= layout.end {
            adjust(packet, layout.tcp + 16, before, quoted_sum(packet, layout));
        }
    }
}

/// Of what a translation changes in the quoted segment's checksum: addresses, ports, sequence and acknowledgement numbers.
fn quoted_sum(packet: &[u8], layout: &Layout) -> u64 {
    let at = layout.quoted_addresses();
    let addresses = packet.get(at..at + 2 * layout.address_bytes).unwrap_or_default();
    let numbers = packet.get(layout.tcp..(layout.tcp + 12).min(layout.end)).unwrap_or_default();
    checksum::add(checksum::add(0, addresses), numbers)
}

fn adjust(packet: &mut [u8], at: usize, before: u64, after: u64) {
    let Some(&[a, b]) = packet.get(at..at + 2) else { return };
    let without = checksum::add(checksum::add(after, &[!a, !b]), &checksum::finish(before));
    put(packet, at, &checksum::finish(without));
}

fn put_addresses(packet: &mut [u8], at: usize, addresses: [IpAddr; 2]) {
    let mut at = at;
    for address in addresses {
        match address {
            IpAddr::V4(address) => put(packet, at, &address.octets()),
            IpAddr::V6(address) => put(packet, at, &address.octets()),
        }
        at += if address.is_ipv4() { 4 } else { 16 };
    }
}

fn seal_ipv4(packet: &mut [u8], from: usize, to: usize) {
    put(packet, from + 10, &[0, 0]);
    let sum = checksum::ipv4_header(packet.get(from..to).unwrap_or_default());
    put(packet, from + 10, &sum);
}

fn seal(packet: &mut [u8], layout: &Layout) {
    if layout.address_bytes == 4 {
        seal_ipv4(packet, 0, layout.icmp);
    }
    put(packet, layout.icmp + 2, &[0, 0]);
    let sum = icmp_checksum(packet, layout);
    put(packet, layout.icmp + 2, &sum);
}

/// The error that a hop at `from` would send about `segment`, which is longer than its next link's `mtu`.
pub fn too_big(from: IpAddr, segment: &crate::TcpSegment<'_>, mtu: u16) -> Vec<u8> {
    let packet = segment.packet();
    let to = segment.source().ip();
    let mut error = match from {
        IpAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, PROTOCOL_ICMP, 0, 0],
        IpAddr::V6(_) => vec![0x60, 0, 0, 0, 0, 0, PROTOCOL_ICMPV6, 64],
    };
    let headers = if from.is_ipv4() { 20 } else { IPV6_HEADER };
    let limit = if from.is_ipv4() { IPV4_ERROR } else { IPV6_MINIMUM_MTU } - headers - ICMP_HEADER;
    let quote = packet.get(..packet.len().min(limit)).unwrap_or_default();
    error.resize(headers, 0);
    error.extend(if from.is_ipv4() { [3, 4, 0, 0, 0, 0] } else { [2, 0, 0, 0, 0, 0] });
    error.extend(mtu.to_be_bytes());
    error.extend(quote);
    put_addresses(&mut error, if from.is_ipv4() { 12 } else { 8 }, [from, to]);
    let (at, length) = if from.is_ipv4() { (2, error.len()) } else { (4, error.len() - IPV6_HEADER) };
    put(&mut error, at, &(length as u16).to_be_bytes());
    if let Ok(layout) = Layout::of(&error) {
        seal(&mut error, &layout);
    }
    error
}
