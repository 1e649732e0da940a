//! ICMP errors about segments: read, made, translated, against etherparse and against the translation of segments.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{ends, with_extensions, with_ip_options};
use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice};
use packet::icmp::{self, IcmpError, IcmpKind, IcmpTranslation};
use packet::{PacketError, SegmentBuilder, Seq, TcpSegment, Translation};
use proptest::prelude::*;

fn view(packet: &[u8]) -> TcpSegment<'_> {
    TcpSegment::parse(packet).unwrap()
}

fn ports(v4: bool) -> [SocketAddr; 2] {
    let end = |n: u8| if v4 { SocketAddr::from(([n; 4], 9)) } else { SocketAddr::from(([n; 16], 9)) };
    [end(1), end(2)]
}

/// MTU and checksum as etherparse reads them.
fn read_elsewhere(packet: &[u8]) -> u32 {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    match sliced.transport {
        Some(TransportSlice::Icmpv4(found)) => {
            let message = Icmpv4Slice::from_slice(found.slice()).unwrap();
            let header = message.header();
            assert_eq!(header.checksum, header.icmp_type.calc_checksum(message.payload()));
            let Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
            ) = header.icmp_type
            else {
                panic!("{header:?}")
            };
            u32::from(next_hop_mtu)
        }
        Some(TransportSlice::Icmpv6(found)) => {
            let message = Icmpv6Slice::from_slice(found.slice()).unwrap();
            let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
            let (from, to) = (ip.header().source(), ip.header().destination());
            assert!(message.is_checksum_valid(from, to));
            let Icmpv6Type::PacketTooBig { mtu } = message.icmp_type() else { panic!("another type") };
            mtu
        }
        other => panic!("no ICMP: {other:?}"),
    }
}

proptest! {
    #[test]
    fn an_error_made_here_reads_the_same_elsewhere(
        [source, destination, hop, _] in ends(), seq in any::<u32>(), mtu in any::<u16>(), length in 0_usize..3000,
    ) {
        let payload = vec![7; length];
        let segment =
            SegmentBuilder { seq: Seq(seq), payload: &payload, ..SegmentBuilder::new(source, destination) }.build();
        let error = icmp::too_big(hop.ip(), &view(&segment), mtu);
        let limit = if source.is_ipv4() { 576 } else { 1280 };
        prop_assert!(error.len() <= limit);
        prop_assert_eq!(read_elsewhere(&error), u32::from(mtu));
        let read = IcmpError::parse(&error).unwrap();
        prop_assert!(read.checksums_valid());
        prop_assert_eq!((read.kind(), read.source()), (IcmpKind::TooBig { mtu: u32::from(mtu) }, hop.ip()));
        let quoted = read.quoted();
        prop_assert_eq!((quoted.source, quoted.destination, quoted.seq), (source, destination, Seq(seq)));
        prop_assert_eq!(quoted.length as usize, segment.len());
    }

    /// The translation of an error about a segment is the error about the translated segment.
    #[test]
    fn a_translated_error_is_the_error_about_the_translated_segment(
        [source, destination, to_source, to_destination] in ends(), [hop, new_end, ..] in ends(),
        seq in any::<u32>(), ack in any::<u32>(), adds in any::<(u32, u32)>(), payload in prop::collection::vec(any::<u8>(), 0..900),
        quoted in (2_usize..15).prop_map(|words| 4 * words),
    ) {
        prop_assume!(source.is_ipv4() == hop.is_ipv4());
        let mut segment = SegmentBuilder {
            seq: Seq(seq), ack: Some(Seq(ack)), payload: &payload, ..SegmentBuilder::new(source, destination)
        }.build();
        let mut error = icmp::too_big(hop.ip(), &view(&segment), 1000);
        // As much as routers quote: 8 bytes of TCP at least.
        let headers = if source.is_ipv4() { 20 + 8 + 20 } else { 40 + 8 + 40 };
        error.truncate(headers + quoted);
        let field = if source.is_ipv4() { 2 } else { 4 };
        let length = error.len() - if source.is_ipv4() { 0 } else { 40 };
        error[field..field + 2].copy_from_slice(&(length as u16).to_be_bytes());
        let translation = IcmpTranslation {
            addresses: [hop.ip(), new_end.ip()], source: to_source, destination: to_destination, seq: adds.0, ack: adds.1,
        };
        translation.apply(&mut error).unwrap();
        let read = IcmpError::parse(&error).unwrap();
        prop_assert!(read.checksums_valid());
        read_elsewhere(&error);
        Translation {
            source: to_source, destination: to_destination, seq: adds.0, ack: adds.1, sack: 0, ts_value: 0, ts_echo: 0, rescale: None,
        }.apply(&mut segment).unwrap();
        let quote = &mut error[if source.is_ipv4() { 28 } else { 48 }..];
        segment.truncate(quote.len());
        let wanted = &mut segment[..];
        // Two ways to write zero.
        let sum = if source.is_ipv4() { 36 } else { 56 };
        for bytes in [&mut *quote, &mut *wanted] {
            if bytes.get(sum..sum + 2) == Some(&[0xff, 0xff]) {
                bytes[sum..sum + 2].fill(0);
            }
        }
        prop_assert_eq!(quote, wanted);
    }

    #[test]
    fn arbitrary_errors_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..160), v6 in any::<bool>(), kind in 0_u8..13, inner in 0_usize..3,
    ) {
        for (at, value) in [(0, if v6 { 0x60 } else { 0x45 }), (if v6 { 6 } else { 9 }, if v6 { 58 } else { 1 })] {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        let message = if v6 { 40 } else { 20 };
        if let Some(byte) = bytes.get_mut(message) { *byte = kind; }
        if let Some(byte) = bytes.get_mut(message + 8).filter(|_| inner > 0) { *byte = if v6 { 0x60 } else { 0x45 }; }
        if let Ok(error) = IcmpError::parse(&bytes) {
            let _ = (error.kind(), error.quoted(), error.source(), error.checksums_valid());
        }
        let [a, b] = ports(!v6);
        let _ = IcmpTranslation { addresses: [a.ip(), b.ip()], source: a, destination: b, seq: 1, ack: 2 }.apply(&mut bytes);
    }
}

/// An error about an empty segment, with this type and code.
fn error_of(v4: bool, kind: u8, code: u8) -> Vec<u8> {
    let [source, destination] = ports(v4);
    let segment = SegmentBuilder::new(source, destination).build();
    let mut error = icmp::too_big(destination.ip(), &view(&segment), 1300);
    let at = if v4 { 20 } else { 40 };
    error[at] = kind;
    error[at + 1] = code;
    error
}

#[test]
fn kinds_of_errors_are_told_apart() {
    let unreachable = |code| (true, 3, code);
    for ((v4, kind, code), expected) in [
        (unreachable(4), Some(IcmpKind::TooBig { mtu: 1300 })),
        (unreachable(0), Some(IcmpKind::Unreachable)),
        (unreachable(1), Some(IcmpKind::Unreachable)),
        (unreachable(5), Some(IcmpKind::Unreachable)),
        (unreachable(13), Some(IcmpKind::Unreachable)),
        (unreachable(2), Some(IcmpKind::NobodyListens)),
        (unreachable(3), Some(IcmpKind::NobodyListens)),
        ((true, 4, 0), Some(IcmpKind::SourceQuench)),
        ((true, 11, 0), Some(IcmpKind::Other)),
        ((true, 12, 1), Some(IcmpKind::Other)),
        ((true, 5, 0), None),
        ((true, 8, 0), None),
        ((false, 2, 0), Some(IcmpKind::TooBig { mtu: 1300 })),
        ((false, 1, 0), Some(IcmpKind::Unreachable)),
        ((false, 1, 4), Some(IcmpKind::NobodyListens)),
        ((false, 3, 0), Some(IcmpKind::Other)),
        ((false, 4, 2), Some(IcmpKind::Other)),
        ((false, 128, 0), None),
        ((false, 137, 0), None),
    ] {
        let error = error_of(v4, kind, code);
        assert_eq!(IcmpError::parse(&error).ok().map(|error| error.kind()), expected, "{v4} {kind} {code}");
    }
}

#[test]
fn a_quote_that_says_too_little_is_refused() {
    let error = error_of(true, 3, 4);
    for cut in [0, 19, 27, 28, 47, 55] {
        assert!(IcmpError::parse(&error[..cut]).is_err(), "{cut} bytes");
    }
    // A later fragment, another protocol, another family, a fragment of the error itself.
    for (at, value) in [(28 + 7, 1), (28 + 9, 17), (28, 0x65), (7, 1), (6, 0x20)] {
        let mut bad = error.clone();
        bad[at] = value;
        assert!(IcmpError::parse(&bad).is_err(), "byte {at} = {value:#x}");
    }
    // The first fragment has the ports: a hop behind one that fragments.
    let mut first = error;
    first[28 + 6] = 0x20;
    assert!(IcmpError::parse(&first).is_ok());
}

#[test]
fn quotes_of_packets_with_options_and_extensions_are_found() {
    let [source, destination] = ports(true);
    let segment = with_ip_options(
        SegmentBuilder { seq: Seq(5), ..SegmentBuilder::new(source, destination) }.build(),
        &[1, 1, 1, 0],
    );
    let error = icmp::too_big(source.ip(), &view(&segment), 1300);
    assert_eq!(IcmpError::parse(&error).unwrap().quoted().seq, Seq(5));
    let [source, destination] = ports(false);
    let segment = with_extensions(
        SegmentBuilder { seq: Seq(5), ..SegmentBuilder::new(source, destination) }.build(),
        &[(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
    );
    let error = icmp::too_big(source.ip(), &view(&segment), 1300);
    assert_eq!(IcmpError::parse(&error).unwrap().quoted().seq, Seq(5));
}

#[test]
fn addresses_of_another_family_are_refused() {
    let [v4, v6] = [true, false].map(|v4| ports(v4)[0]);
    let mut error = error_of(true, 3, 4);
    let to =
        |ip: IpAddr, source| IcmpTranslation { addresses: [ip, ip], source, destination: v4, seq: 0, ack: 0 };
    assert_eq!(to(v6.ip(), v4).apply(&mut error), Err(PacketError::Version));
    assert_eq!(to(v4.ip(), v6).apply(&mut error), Err(PacketError::Version));
    assert_eq!(to(v4.ip(), v4).apply(&mut error), Ok(()));
}
