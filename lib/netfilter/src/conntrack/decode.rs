//! Entries and events as ctnetlink sends them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attributes::{
    DELETE, DESTINATION_PORT, FLAG_SACK, FLAG_WINDOW_SCALE, ID, INFO_TCP, IP_DESTINATION, IP_SOURCE, MARK,
    NEW, OFFSET_AFTER, PROTOCOL_INFO, PROTOCOL_NUMBER, SEQUENCE_ORIGINAL, SEQUENCE_REPLY, SOURCE_PORT,
    SYNPROXY, SYNPROXY_ITS, SYNPROXY_OFFSET, TCP, TCP_FLAGS_ORIGINAL, TCP_SCALE_ORIGINAL, TCP_SCALE_REPLY,
    TCP_STATE, TIMEOUT, TUPLE_IP, TUPLE_ORIGINAL, TUPLE_PROTOCOL, TUPLE_REPLY,
};
use super::{SpliceEntry, SpliceStatus, TcpState};
use crate::netlink::{self, Attributes, Message};

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
        SocketAddr::new(read_address(ip.clone(), IP_SOURCE)?, source),
        SocketAddr::new(read_address(ip, IP_DESTINATION)?, destination),
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
