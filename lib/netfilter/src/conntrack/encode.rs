//! Requests to ctnetlink.

use std::net::{IpAddr, SocketAddr};

use super::SpliceEntry;
use super::attributes::{
    ASSURED, CONFIRMED, DELETE, DESTINATION_PORT, ESTABLISHED, FLAG_LIBERAL, FLAG_SACK, FLAG_WINDOW_SCALE,
    GET, INFO_TCP, IP_DESTINATION, IP_SOURCE, MARK, MARK_MASK, NAT_DESTINATION, NAT_MAX, NAT_MIN,
    NAT_PORT_MAX, NAT_PORT_MIN, NAT_PROTOCOL, NEW, OFFSET_AFTER, OFFSET_BEFORE, OFFSET_POSITION,
    PROTOCOL_INFO, PROTOCOL_NUMBER, SEEN_REPLY, SEQUENCE_ORIGINAL, SEQUENCE_REPLY, SOURCE_PORT, STATUS,
    SYNPROXY, SYNPROXY_ISN, SYNPROXY_ITS, SYNPROXY_OFFSET, TCP, TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY,
    TCP_SCALE_ORIGINAL, TCP_SCALE_REPLY, TCP_STATE, TIMEOUT, TUPLE_IP, TUPLE_ORIGINAL, TUPLE_PROTOCOL,
    TUPLE_REPLY,
};
use crate::Error;
use crate::netlink::{Builder, Head};

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
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
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
    let head = head(DELETE, 0, sequence, family(client));
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
            address(ip, IP_SOURCE, source.ip());
            address(ip, IP_DESTINATION, destination.ip());
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
    address(nat, NAT_MIN, backend.ip());
    address(nat, NAT_MAX, backend.ip());
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
