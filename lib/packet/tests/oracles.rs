//! Building, viewing and rewriting against etherparse, which shares no code with this crate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;

use common::{assert_checksums, ends};
use etherparse::{SlicedPacket, TransportSlice};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Translation};
use proptest::prelude::*;

proptest! {
    #[test]
    fn built_packets_read_the_same_elsewhere(
        [source, destination, ..] in ends(),
        seq in any::<u32>(), ack in proptest::option::of(any::<u32>()), window in any::<u16>(), flags in 0_u8..64,
        timestamps in proptest::option::of(any::<(u32, u32)>()),
        mss in proptest::option::of(any::<u16>()), scale in proptest::option::of(0_u8..15), sack in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let syn = SynOptions { mss, window_scale: scale, sack_permitted: sack, timestamp: None };
        let flags = Flags(flags & !Flags::ACK.0);
        let packet = SegmentBuilder {
            seq: Seq(seq), ack: ack.map(Seq), flags, window, syn: Some(syn), timestamps, payload: &payload,
            ..SegmentBuilder::new(source, destination)
        }.build();
        assert_checksums(&packet);
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
        prop_assert_eq!(tcp.sequence_number(), seq);
        prop_assert_eq!(tcp.acknowledgment_number(), ack.unwrap_or(0));
        prop_assert_eq!(tcp.window_size(), window);
        prop_assert_eq!(tcp.payload(), &payload[..]);
        let view = TcpSegment::parse(&packet).unwrap();
        prop_assert!(view.checksums_valid());
        prop_assert_eq!((view.source(), view.destination()), (source, destination));
        prop_assert_eq!((view.seq(), view.ack(), view.window()), (Seq(seq), Seq(ack.unwrap_or(0)), window));
        prop_assert_eq!((view.payload(), view.timestamps()), (&payload[..], timestamps));
        prop_assert_eq!(view.syn_options(), SynOptions { timestamp: timestamps.map(|pair| pair.0), ..syn });
    }

    #[test]
    fn translation_changes_what_it_says_and_nothing_else(
        [source, destination, to_source, to_destination] in ends(),
        seq in any::<u32>(), ack in any::<u32>(), adds in any::<(u32, u32, u32, u32)>(),
        timestamps in any::<(u32, u32)>(), payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let original = SegmentBuilder {
            seq: Seq(seq), ack: Some(Seq(ack)), window: 77, timestamps: Some(timestamps), payload: &payload,
            ..SegmentBuilder::new(source, destination)
        };
        let mut packet = original.build();
        let translation = Translation {
            source: to_source, destination: to_destination,
            seq: adds.0, ack: adds.1, sack: adds.1, ts_value: adds.2, ts_echo: adds.3, rescale: None,
        };
        translation.apply(&mut packet).unwrap();
        assert_checksums(&packet);
        let expected = SegmentBuilder {
            source: to_source, destination: to_destination,
            seq: Seq(seq) + adds.0, ack: Some(Seq(ack) + adds.1),
            timestamps: Some((timestamps.0.wrapping_add(adds.2), timestamps.1.wrapping_add(adds.3))),
            ..original
        }.build();
        prop_assert_eq!(packet, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 4_u8..7, translation_port in any::<u16>(),
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | (*first & 0x0f);
        }
        if let Ok(view) = TcpSegment::parse(&bytes) {
            let _ = (view.syn_options(), view.timestamps(), view.payload(), view.checksums_valid(), view.options().count());
        }
        let end = SocketAddr::from(([1, 2, 3, 4], translation_port));
        let translation = Translation { source: end, destination: end, seq: 1, ack: 2, sack: 2, ts_value: 3, ts_echo: 4, rescale: Some((3, 9)) };
        let _ = translation.apply(&mut bytes);
    }
}

#[test]
fn sack_edges_follow_the_acknowledgement() {
    let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
    let mut packet = SegmentBuilder {
        ack: Some(Seq(5)),
        timestamps: Some((1, 2)),
        ..SegmentBuilder::new(ends[0], ends[1])
    }
    .build();
    // Turn the timestamp option into a SACK block of the same length: NOP NOP SACK 10 left right.
    packet[42] = 5;
    let translation = Translation {
        source: ends[0],
        destination: ends[1],
        seq: 0,
        ack: 1000,
        sack: 1000,
        ts_value: 7,
        ts_echo: 7,
        rescale: None,
    };
    translation.apply(&mut packet).unwrap();
    assert_eq!(packet[44..52], [0, 0, 3, 0xe9, 0, 0, 3, 0xea]);
}

#[test]
fn fragments_and_other_protocols_are_refused() {
    let ends = [SocketAddr::from(([1, 1, 1, 1], 1)), SocketAddr::from(([2, 2, 2, 2], 2))];
    let good = SegmentBuilder::new(ends[0], ends[1]).build();
    for (at, value) in
        [(6, 0x20), (7, 1), (9, 17), (0, 0x44), (0, 0x75), (32, 0x10), (32, 0xf0), (3, 200), (3, 30)]
    {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(TcpSegment::parse(&bad).is_err(), "byte {at} = {value:#x}");
    }
}
