//! What the tests of this crate share: random endpoints, checksums by etherparse, odd headers.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part")]

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

fn endpoint(v6: bool) -> BoxedStrategy<SocketAddr> {
    if v6 {
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))).boxed()
    } else {
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))).boxed()
    }
}

/// Four of one family, either of them.
pub fn ends() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|v6| [endpoint(v6), endpoint(v6), endpoint(v6), endpoint(v6)])
}

/// Both checksums are right, etherparse says.
pub fn assert_checksums(packet: &[u8]) {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
    let header = tcp.to_header();
    let sum = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
        }
        Some(NetSlice::Ipv6(ip)) => header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()),
        _ => panic!("no IP"),
    };
    assert_eq!(header.checksum, sum.unwrap());
}

/// Inserts bytes at `at`, a multiple of four, and makes the IP length field right again, no checksum.
pub fn insert(packet: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    packet.splice(at..at, bytes.iter().copied());
    let v6 = packet[0] >> 4 == 6;
    let (field, length) = if v6 { (4, packet.len() - 40) } else { (2, packet.len()) };
    packet[field..field + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

/// Gives a packet without IP and TCP options this option field of 0 to 40 bytes, a multiple of four.
pub fn with_tcp_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    let tcp = if packet[0] >> 4 == 6 { 40 } else { 20 };
    insert(&mut packet, tcp + 20, options);
    packet[tcp + 12] = (((20 + options.len()) as u8 / 4) << 4) | (packet[tcp + 12] & 0x0f);
    packet
}

/// Gives an IPv4 packet without options this option field, a multiple of four.
pub fn with_ip_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    insert(&mut packet, 20, options);
    packet[0] = 0x40 | ((20 + options.len()) as u8 / 4);
    packet
}

/// Puts extension headers before TCP: kind and bytes of each, whose first is the next header's kind, the second its length.
pub fn with_extensions(mut packet: Vec<u8>, extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    for (kind, bytes) in extensions.iter().rev() {
        let mut header = bytes.clone();
        header[0] = packet[6];
        packet[6] = *kind;
        insert(&mut packet, 40, &header);
    }
    packet
}
