//! Entries as ctnetlink attributes, both ways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{SpliceEntry, SpliceStatus, TcpState};
use crate::Error;
use crate::netlink::{self, Attributes, Builder, Head, Message};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const NAT_DESTINATION: u16 = 13;
const SEQUENCE_ORIGINAL: u16 = 15;
const SEQUENCE_REPLY: u16 = 16;
const MARK_MASK: u16 = 21;
const SYNPROXY: u16 = 24;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

const NAT_V4_MIN: u16 = 1;
const NAT_V4_MAX: u16 = 2;
const NAT_PROTOCOL: u16 = 3;
const NAT_V6_MIN: u16 = 4;
const NAT_V6_MAX: u16 = 5;
const NAT_PORT_MIN: u16 = 1;
const NAT_PORT_MAX: u16 = 2;

const OFFSET_POSITION: u16 = 1;
const OFFSET_BEFORE: u16 = 2;
const OFFSET_AFTER: u16 = 3;

const SYNPROXY_ISN: u16 = 1;
/// The kernel uses this only in a handshake of its own; here it says whether the connection has timestamps.
const SYNPROXY_ITS: u16 = 2;
const SYNPROXY_OFFSET: u16 = 3;

const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_SCALE_ORIGINAL: u16 = 2;
const TCP_SCALE_REPLY: u16 = 3;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
const ESTABLISHED: u8 = 3;
const FLAG_WINDOW_SCALE: u8 = 1;
const FLAG_SACK: u8 = 2;
const FLAG_LIBERAL: u8 = 8;

const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;

const TCP: u8 = libc::IPPROTO_TCP as u8;

fn family(address: SocketAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn head(kind: u16, flags: i32, sequence: u32, family: u8) -> Head {
    Head { kind, flags: (libc::NLM_F_REQUEST | flags) as u16, sequence, family, resource: 0 }
}

fn same_family(what: &'static str, addresses: &[SocketAddr]) -> Result<(), Error> {
    let mixed = addresses.windows(2).any(|pair| matches!(pair, [a, b] if a.is_ipv4() != b.is_ipv4()));
    if mixed { Err(Error::MixedFamilies(what)) } else { Ok(()) }
}

pub(super) fn create(request: &mut Builder, sequence: u32, entry: &SpliceEntry) -> Result<(), Error> {
    same_family("create splice", &[entry.client, entry.service, entry.backend])?;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
    request.message(head(NEW, flags, sequence, family(entry.client)), |message| {
        tuple(message, TUPLE_ORIGINAL, entry.client, entry.service);
        tuple(message, TUPLE_REPLY, entry.service, entry.client);
        message.be32(STATUS, CONFIRMED | SEEN_REPLY | ASSURED);
        message.nested(PROTOCOL_INFO, |info| info.nested(INFO_TCP, |tcp| tcp_info(tcp, entry)));
        message.be32(TIMEOUT, entry.timeout_s);
        message.be32(MARK, entry.mark);
        message.nested(NAT_DESTINATION, |nat| destination(nat, entry.backend));
        offset(message, SEQUENCE_ORIGINAL, entry.client_offset);
        offset(message, SEQUENCE_REPLY, entry.server_offset);
        message.nested(SYNPROXY, |synproxy| {
            synproxy.be32(SYNPROXY_ISN, 1);
            synproxy.be32(SYNPROXY_ITS, u32::from(entry.has_timestamps));
            synproxy.be32(SYNPROXY_OFFSET, entry.timestamp_offset);
        });
    });
    Ok(())
}

pub(super) fn delete(
    request: &mut Builder,
    sequence: u32,
    client: SocketAddr,
    service: SocketAddr,
) -> Result<(), Error> {
    same_family("delete splice", &[client, service])?;
    let head = head(DELETE, libc::NLM_F_ACK, sequence, family(client));
    request.message(head, |message| tuple(message, TUPLE_ORIGINAL, client, service));
    Ok(())
}

pub(super) fn get(
    request: &mut Builder,
    sequence: u32,
    client: SocketAddr,
    service: SocketAddr,
) -> Result<(), Error> {
    same_family("get splice", &[client, service])?;
    let head = head(GET, libc::NLM_F_ACK, sequence, family(client));
    request.message(head, |message| tuple(message, TUPLE_ORIGINAL, client, service));
    Ok(())
}

/// All families; the kernel filters by mark.
pub(super) fn dump(request: &mut Builder, sequence: u32, mark: u32) {
    request.message(head(GET, libc::NLM_F_DUMP, sequence, libc::AF_UNSPEC as u8), |message| {
        message.be32(MARK, mark);
        message.be32(MARK_MASK, u32::MAX);
    });
}

fn tuple(message: &mut Builder, kind: u16, source: SocketAddr, destination: SocketAddr) {
    message.nested(kind, |tuple| {
        tuple.nested(TUPLE_IP, |ip| {
            address(ip, [1, 3], source.ip());
            address(ip, [2, 4], destination.ip());
        });
        tuple.nested(TUPLE_PROTOCOL, |protocol| {
            protocol.attribute(PROTOCOL_NUMBER, &[TCP]);
            protocol.be16(SOURCE_PORT, source.port());
            protocol.be16(DESTINATION_PORT, destination.port());
        });
    });
}

/// `kinds` are the attributes for IPv4 and IPv6.
fn address(message: &mut Builder, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.attribute(v4, &address.octets()),
        IpAddr::V6(address) => message.attribute(v6, &address.octets()),
    }
}

fn destination(nat: &mut Builder, backend: SocketAddr) {
    address(nat, [NAT_V4_MIN, NAT_V6_MIN], backend.ip());
    address(nat, [NAT_V4_MAX, NAT_V6_MAX], backend.ip());
    nat.nested(NAT_PROTOCOL, |ports| {
        ports.be16(NAT_PORT_MIN, backend.port());
        ports.be16(NAT_PORT_MAX, backend.port());
    });
}

fn offset(message: &mut Builder, kind: u16, offset: u32) {
    message.nested(kind, |adjustment| {
        adjustment.be32(OFFSET_POSITION, 0);
        adjustment.be32(OFFSET_BEFORE, offset);
        adjustment.be32(OFFSET_AFTER, offset);
    });
}

fn tcp_info(tcp: &mut Builder, entry: &SpliceEntry) {
    let scale = if entry.window_scales.is_some() { FLAG_WINDOW_SCALE } else { 0 };
    let sack = if entry.sack_permitted { FLAG_SACK } else { 0 };
    let flags = [FLAG_LIBERAL | scale | sack, FLAG_LIBERAL | FLAG_WINDOW_SCALE | FLAG_SACK];
    let (client, server) = entry.window_scales.unwrap_or((0, 0));
    tcp.attribute(TCP_STATE, &[ESTABLISHED]);
    tcp.attribute(TCP_FLAGS_ORIGINAL, &flags);
    tcp.attribute(TCP_FLAGS_REPLY, &flags);
    tcp.attribute(TCP_SCALE_ORIGINAL, &[client.min(14)]);
    tcp.attribute(TCP_SCALE_REPLY, &[server.min(14)]);
}

/// An entry or an event about one, as far as the message has it.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) deleted: bool,
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
    backend: Option<SocketAddr>,
    pub(crate) mark: u32,
    id: u32,
    timeout_s: u32,
    client_offset: u32,
    server_offset: u32,
    timestamp_offset: u32,
    has_timestamps: bool,
    pub(crate) tcp: Option<Tcp>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tcp {
    state: u8,
    scales: (u8, u8),
    flags: u8,
}

/// `None`: no message about an IPv4 or IPv6 TCP connection.
pub(crate) fn decode(message: &Message<'_>) -> Option<Decoded> {
    if message.kind != NEW && message.kind != DELETE {
        return None;
    }
    let attributes = message.attributes();
    let (client, service) = read_tuple(attributes.clone().find(TUPLE_ORIGINAL)?.nested())?;
    let mut decoded = Decoded::new(message.kind == DELETE, client, service);
    for attribute in attributes {
        match attribute.kind {
            TUPLE_REPLY => decoded.backend = read_tuple(attribute.nested()).map(|(backend, _)| backend),
            MARK => decoded.mark = attribute.be32()?,
            ID => decoded.id = attribute.be32()?,
            TIMEOUT => decoded.timeout_s = attribute.be32()?,
            SEQUENCE_ORIGINAL => decoded.client_offset = read32(attribute.nested(), OFFSET_AFTER),
            SEQUENCE_REPLY => decoded.server_offset = read32(attribute.nested(), OFFSET_AFTER),
            SYNPROXY => {
                decoded.has_timestamps = read32(attribute.nested(), SYNPROXY_ITS) != 0;
                decoded.timestamp_offset = read32(attribute.nested(), SYNPROXY_OFFSET);
            }
            PROTOCOL_INFO => {
                decoded.tcp = attribute.nested().find(INFO_TCP).map(|tcp| read_tcp(tcp.nested()));
            }
            _ => {}
        }
    }
    Some(decoded)
}

fn read32(attributes: Attributes<'_>, kind: u16) -> u32 {
    attributes.find(kind).and_then(|attribute| attribute.be32()).unwrap_or_default()
}

fn read_tcp(attributes: Attributes<'_>) -> Tcp {
    let mut tcp = Tcp::default();
    for attribute in attributes {
        let byte = attribute.byte().unwrap_or_default();
        match attribute.kind {
            TCP_STATE => tcp.state = byte,
            TCP_SCALE_ORIGINAL => tcp.scales.0 = byte,
            TCP_SCALE_REPLY => tcp.scales.1 = byte,
            TCP_FLAGS_ORIGINAL => tcp.flags = byte,
            _ => {}
        }
    }
    tcp
}

fn read_tuple(tuple: Attributes<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let protocol = tuple.clone().find(TUPLE_PROTOCOL)?.nested();
    if protocol.clone().find(PROTOCOL_NUMBER)?.byte()? != TCP {
        return None;
    }
    let source = protocol.clone().find(SOURCE_PORT)?.be16()?;
    let destination = protocol.find(DESTINATION_PORT)?.be16()?;
    let ip = tuple.find(TUPLE_IP)?.nested();
    Some((
        SocketAddr::new(read_address(ip.clone(), [1, 3])?, source),
        SocketAddr::new(read_address(ip, [2, 4])?, destination),
    ))
}

fn read_address(ip: Attributes<'_>, [v4, v6]: [u16; 2]) -> Option<IpAddr> {
    if let Some(attribute) = ip.clone().find(v4) {
        return netlink::read::<4>(attribute.value(), 0).map(|octets| Ipv4Addr::from(octets).into());
    }
    let attribute = ip.find(v6)?;
    netlink::read::<16>(attribute.value(), 0).map(|octets| Ipv6Addr::from(octets).into())
}

impl Tcp {
    pub(crate) fn state(self) -> TcpState {
        match self.state {
            1 => TcpState::SynSent,
            2 => TcpState::SynReceived,
            3 => TcpState::Established,
            4 => TcpState::FinWait,
            5 => TcpState::CloseWait,
            6 => TcpState::LastAck,
            7 => TcpState::TimeWait,
            8 => TcpState::Close,
            _ => TcpState::None,
        }
    }
}

impl Decoded {
    fn new(deleted: bool, client: SocketAddr, service: SocketAddr) -> Self {
        Self {
            deleted,
            client,
            service,
            backend: None,
            mark: 0,
            id: 0,
            timeout_s: 0,
            client_offset: 0,
            server_offset: 0,
            timestamp_offset: 0,
            has_timestamps: false,
            tcp: None,
        }
    }

    pub(crate) fn status(self) -> Option<SpliceStatus> {
        let tcp = self.tcp?;
        let entry = SpliceEntry {
            client: self.client,
            service: self.service,
            backend: self.backend?,
            server_offset: self.server_offset,
            client_offset: self.client_offset,
            timestamp_offset: self.timestamp_offset,
            has_timestamps: self.has_timestamps,
            mark: self.mark,
            timeout_s: self.timeout_s,
            window_scales: (tcp.flags & FLAG_WINDOW_SCALE != 0).then_some(tcp.scales),
            sack_permitted: tcp.flags & FLAG_SACK != 0,
        };
        Some(SpliceStatus { entry, state: tcp.state(), id: self.id })
    }
}
