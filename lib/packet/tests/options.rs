//! Options in any order, number and padding, IPv4 options, IPv6 extension headers and ECN survive rewriting.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;

use common::{assert_checksums, ends, with_extensions, with_ip_options, with_tcp_options};
use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use packet::{Flags, PacketError, SegmentBuilder, Seq, TcpSegment, Translation, fill_checksum, split};
use proptest::prelude::*;

/// An option as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meant {
    Padding,
    Timestamps(u32, u32),
    Sack(Vec<(u32, u32)>),
    /// Of a kind that this project does not know: Fast Open, MPTCP, TCP-AO, experiments.
    Unknown(u8, Vec<u8>),
}

impl Meant {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Padding => vec![1],
            Self::Timestamps(value, echo) => {
                [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
            }
            Self::Sack(blocks) => {
                let edges = blocks.iter().flat_map(|(left, right)| [left.to_be_bytes(), right.to_be_bytes()]);
                [vec![5, 2 + 8 * blocks.len() as u8], edges.flatten().collect()].concat()
            }
            Self::Unknown(kind, data) => [&[*kind, 2 + data.len() as u8][..], data].concat(),
        }
    }

    fn translated(&self, sack: u32, value: u32, echo: u32) -> Self {
        match self {
            Self::Timestamps(a, b) => Self::Timestamps(a.wrapping_add(value), b.wrapping_add(echo)),
            Self::Sack(blocks) => {
                Self::Sack(blocks.iter().map(|(l, r)| (l.wrapping_add(sack), r.wrapping_add(sack))).collect())
            }
            other => other.clone(),
        }
    }
}

/// As many as fit, then ends of list up to a multiple of four.
fn field(options: &[Meant]) -> Vec<u8> {
    let mut field = Vec::new();
    for option in options.iter().map(Meant::bytes) {
        if field.len() + option.len() <= 40 {
            field.extend(option);
        }
    }
    field.resize(field.len().next_multiple_of(4), 0);
    field
}

fn meant() -> impl Strategy<Value = Meant> {
    let unknown_kind =
        prop_oneof![Just(19_u8), Just(28), Just(29), Just(30), Just(34), Just(69), Just(254), 70_u8..250];
    prop_oneof![
        Just(Meant::Padding),
        any::<(u32, u32)>().prop_map(|(a, b)| Meant::Timestamps(a, b)),
        // A first block below the acknowledgement is a D-SACK (RFC 2883); it is translated like the others.
        prop::collection::vec(any::<(u32, u32)>(), 1..5).prop_map(Meant::Sack),
        (unknown_kind, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Meant::Unknown(kind, data)),
    ]
}

fn translation(ends: [SocketAddr; 2], adds: (u32, u32, u32, u32)) -> Translation {
    Translation {
        source: ends[0],
        destination: ends[1],
        seq: adds.0,
        ack: adds.1,
        sack: adds.1,
        ts_value: adds.2,
        ts_echo: adds.3,
        rescale: None,
    }
}

proptest! {
    #[test]
    fn options_in_any_order_are_translated_and_unknown_ones_untouched(
        [source, destination, to_source, to_destination] in ends(), options in prop::collection::vec(meant(), 0..8),
        adds in any::<(u32, u32, u32, u32)>(), payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let bare = |source, destination, seq, ack| SegmentBuilder {
            seq: Seq(seq), ack: Some(Seq(ack)), window: 9, payload: &payload, ..SegmentBuilder::new(source, destination)
        }.build();
        let mut packet = with_tcp_options(bare(source, destination, 5, 6), &field(&options));
        translation([to_source, to_destination], adds).apply(&mut packet).unwrap();
        assert_checksums(&packet);
        let wanted: Vec<Meant> = options.iter().map(|option| option.translated(adds.1, adds.2, adds.3)).collect();
        let seq = 5_u32.wrapping_add(adds.0);
        let ack = 6_u32.wrapping_add(adds.1);
        let mut expected = with_tcp_options(bare(to_source, to_destination, seq, ack), &field(&wanted));
        let headers = if source.is_ipv4() { 20 } else { 40 };
        for bytes in [&mut packet, &mut expected] {
            bytes[headers + 16..headers + 18].fill(0);
            if source.is_ipv4() {
                bytes[10..12].fill(0);
            }
        }
        prop_assert_eq!(packet, expected);
    }

    #[test]
    fn etherparse_reads_the_same_edges_and_timestamps(
        blocks in prop::collection::vec(any::<(u32, u32)>(), 1..4), stamps in any::<(u32, u32)>(),
        adds in any::<(u32, u32, u32, u32)>(), stamps_first in any::<bool>(),
    ) {
        let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
        let mut options = vec![Meant::Sack(blocks.clone()), Meant::Padding, Meant::Timestamps(stamps.0, stamps.1)];
        if stamps_first { options.reverse(); }
        let mut packet = with_tcp_options(SegmentBuilder::new(ends[0], ends[1]).build(), &field(&options));
        translation(ends, adds).apply(&mut packet).unwrap();
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
        let (mut seen_blocks, mut seen_stamps) = (Vec::new(), None);
        for option in tcp.options_iterator() {
            match option.unwrap() {
                TcpOptionElement::Timestamp(a, b) => seen_stamps = Some((a, b)),
                TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                    seen_blocks.push(first);
                    seen_blocks.extend(more.into_iter().flatten());
                }
                _ => {}
            }
        }
        let add = |(a, b): (u32, u32), x: u32, y: u32| (a.wrapping_add(x), b.wrapping_add(y));
        prop_assert_eq!(seen_blocks, blocks.iter().map(|block| add(*block, adds.1, adds.1)).collect::<Vec<_>>());
        prop_assert_eq!(seen_stamps, Some(add(stamps, adds.2, adds.3)));
    }

    /// Malformed options: a field of garbage is neither read beyond its end nor changed before an illegal length.
    #[test]
    fn malformed_options_are_survived(garbage in prop::collection::vec(any::<u8>(), 0..11), adds in any::<(u32, u32, u32, u32)>()) {
        let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
        let mut options = garbage.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let illegal = [&[2_u8, 0][..], &options].concat();
        for options in [options, illegal] {
            let mut options = options;
            options.resize(options.len().next_multiple_of(4), 0);
            let mut packet = with_tcp_options(SegmentBuilder { payload: b"data", ..SegmentBuilder::new(ends[0], ends[1]) }.build(), &options);
            translation(ends, adds).apply(&mut packet).unwrap();
            let view = TcpSegment::parse(&packet).unwrap();
            prop_assert!(view.checksums_valid());
            prop_assert_eq!(view.payload(), b"data");
            if options.first() == Some(&2) && options.get(1) == Some(&0) {
                prop_assert_eq!(&packet[40..40 + options.len()], &options[..]);
            }
        }
    }

    /// Filled in later, the checksum is the same, wherever TCP begins.
    #[test]
    fn unsummed_and_filled_in_is_summed(
        [source, destination, to_source, to_destination] in ends(), adds in any::<(u32, u32, u32, u32)>(),
        payload in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut packet = SegmentBuilder { payload: &payload, ..SegmentBuilder::new(source, destination) }.build();
        let mut unsummed = packet.clone();
        let translation = translation([to_source, to_destination], adds);
        translation.apply(&mut packet).unwrap();
        translation.apply_unsummed(&mut unsummed).unwrap();
        // What a device does: the sum of header and data, with the pseudo-header's in the field, is the checksum.
        let tcp = if source.is_ipv4() { 20 } else { 40 };
        let mut sum: u32 = unsummed[tcp..].chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
        while sum > 0xffff { sum = (sum & 0xffff) + (sum >> 16); }
        prop_assert_eq!(&packet[tcp + 16..tcp + 18], &(!(sum as u16)).to_be_bytes());
        fill_checksum(&mut unsummed).unwrap();
        prop_assert_eq!(unsummed, packet);
    }

    #[test]
    fn ip_options_and_extension_headers_stay(
        [source, destination, to_source, to_destination] in ends(), adds in any::<(u32, u32, u32, u32)>(),
        option in prop::collection::vec(any::<u8>(), 1..6), count in 0_usize..6, payload in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let whole = |source, destination, seq, ack| SegmentBuilder {
            seq: Seq(seq), ack: Some(Seq(ack)), payload: &payload, ..SegmentBuilder::new(source, destination)
        }.build();
        let odd = |packet: Vec<u8>| {
            if packet[0] >> 4 == 4 {
                let mut options = vec![7, 3 + option.len() as u8, 4];
                options.extend(&option);
                options.resize(options.len().next_multiple_of(4), 0);
                return with_ip_options(packet, &options);
            }
            // Hop-by-hop first, then destination options and a routing header that is used up; PadN inside.
            let kinds = [0, 60, 43, 60, 60, 60];
            let one = |kind: &u8| (*kind, if *kind == 43 { vec![0, 0, 3, 0, 0, 0, 0, 0] } else { vec![0, 0, 1, 4, 0, 0, 0, 0] });
            with_extensions(packet, &kinds.iter().take(count).map(one).collect::<Vec<_>>())
        };
        let mut packet = odd(whole(source, destination, 1, 2));
        translation([to_source, to_destination], adds).apply(&mut packet).unwrap();
        assert_checksums(&packet);
        let (seq, ack) = (1_u32.wrapping_add(adds.0), 2_u32.wrapping_add(adds.1));
        let mut expected = odd(whole(to_source, to_destination, seq, ack));
        if source.is_ipv4() {
            for bytes in [&mut expected, &mut packet] { bytes[10..12].fill(0); }
        }
        prop_assert_eq!(&packet, &expected);
        let pieces = split(&odd(whole(source, destination, 1, 2)), 1000).unwrap();
        let mut bytes = Vec::new();
        for piece in &pieces {
            assert_checksums(piece);
            bytes.extend_from_slice(TcpSegment::parse(piece).unwrap().payload());
        }
        prop_assert_eq!(&bytes, &payload);
    }

    /// DSCP and ECN bits of IP and the ECN bits of TCP are the endpoints' own.
    #[test]
    fn traffic_class_and_ecn_stay([source, destination, to_source, to_destination] in ends(), class in any::<u8>(), bits in 0_u8..4, accurate in any::<bool>()) {
        let mut packet = SegmentBuilder { ack: Some(Seq(1)), flags: Flags(bits << 6), ..SegmentBuilder::new(source, destination) }.build();
        let tcp = if source.is_ipv4() { packet[1] = class; 20 } else {
            packet[0] = 0x60 | class >> 4;
            packet[1] = class << 4;
            40
        };
        packet[tcp + 12] |= u8::from(accurate);
        let before = packet.clone();
        translation([to_source, to_destination], (1, 2, 3, 4)).apply(&mut packet).unwrap();
        prop_assert_eq!(&packet[..2], &before[..2]);
        prop_assert_eq!(&packet[tcp + 12..tcp + 14], &before[tcp + 12..tcp + 14]);
        assert_checksums(&packet);
    }

    /// Urgent data: pointers of any value are survived, and the byte stays in the stream.
    #[test]
    fn urgency_is_taken_back(pointer in any::<u16>(), urgent in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..20)) {
        let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
        let flags = if urgent { Flags::URG.union(Flags::PSH) } else { Flags::PSH };
        let mut packet = SegmentBuilder { ack: Some(Seq(1)), flags, payload: &payload, ..SegmentBuilder::new(ends[0], ends[1]) }.build();
        packet[38..40].copy_from_slice(&pointer.to_be_bytes());
        translation(ends, (0, 0, 0, 0)).apply(&mut packet).unwrap();
        assert_checksums(&packet);
        let view = TcpSegment::parse(&packet).unwrap();
        prop_assert_eq!(view.flags(), Flags::PSH.union(Flags::ACK));
        prop_assert_eq!(view.payload(), &payload[..]);
        let left = u16::from_be_bytes([packet[38], packet[39]]);
        prop_assert_eq!(left, if urgent { 0 } else { pointer });
    }
}

/// Window scale: above 14 it counts as 14. MSS and SACK-permitted are found behind anything.
#[test]
fn options_of_a_syn_are_found_anywhere() {
    let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
    let bare = SegmentBuilder { flags: Flags::SYN, ..SegmentBuilder::new(ends[0], ends[1]) }.build();
    // Fast Open cookie, MPTCP, then what is known, window scale 255.
    let field = [34, 4, 1, 2, 30, 4, 1, 2, 1, 4, 2, 3, 3, 255, 2, 4, 5, 180, 0, 0];
    let packet = with_tcp_options(bare, &field);
    let found = TcpSegment::parse(&packet).unwrap().syn_options();
    assert_eq!((found.mss, found.window_scale, found.sack_permitted), (Some(1460), Some(14), true));
    assert_eq!(found.timestamp, None);
}

#[test]
fn extension_headers_are_bounded_and_fragments_refused() {
    let end = |n: u8| SocketAddr::from(([n; 16], 9));
    let bare = || SegmentBuilder::new(end(1), end(2)).build();
    let pad = |kind: u8| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let refused =
        |extensions: &[(u8, Vec<u8>)]| TcpSegment::parse(&with_extensions(bare(), extensions)).err();
    assert_eq!(refused(&vec![pad(60); 8]), None);
    assert_eq!(refused(&vec![pad(60); 9]), Some(PacketError::NotTcp));
    // A fragment header, even of a whole packet (RFC 6946); a routing header that leads elsewhere; ESP; no next header.
    assert_eq!(refused(&[(44, vec![0; 8])]), Some(PacketError::Fragment));
    assert_eq!(refused(&[(43, vec![0, 0, 3, 1, 0, 0, 0, 0])]), Some(PacketError::NotTcp));
    assert_eq!(refused(&[pad(50)]), Some(PacketError::NotTcp));
    assert_eq!(refused(&[pad(59)]), Some(PacketError::NotTcp));
    // One that says that it is longer than the packet.
    assert_eq!(refused(&[(60, vec![0, 255, 1, 4, 0, 0, 0, 0])]), Some(PacketError::Truncated));
}
