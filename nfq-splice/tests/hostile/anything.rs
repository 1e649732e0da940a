//! Whatever comes.

use std::time::Duration;

use nfq_splice::{Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq};
use proptest::prelude::*;

use crate::proxy::{ISN, Proxy, REQUEST, SYN_ACK, backend, client, service, syn};

#[derive(Debug, Clone)]
enum Input {
    Packet { from: u8, flags: u8, seq: u32, ack: u32, window: u16, bytes: Vec<u8>, raw: bool },
    Mutilated { at: usize, byte: u8, cut: usize },
    Time(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let near = prop_oneof![4 => (0_u32..80).prop_map(|n| n.wrapping_sub(8)), 1 => any::<u32>()];
    let bytes = prop_oneof![
        Just(Vec::new()),
        Just(REQUEST.to_vec()),
        (0..REQUEST.len(), 1_usize..20).prop_map(|(at, n)| REQUEST
            .iter()
            .skip(at)
            .take(n)
            .copied()
            .collect()),
        prop::collection::vec(any::<u8>(), 1..40),
    ];
    let flags = prop_oneof![4 => Just(16_u8), 2 => Just(18), 1 => Just(2), 1 => Just(17), 1 => Just(20), 1 => 0_u8..64];
    prop_oneof![
        8 => (0_u8..4, flags, near.clone(), near, any::<u16>(), bytes, any::<bool>()).prop_map(
            |(from, flags, seq, ack, window, bytes, raw)| Input::Packet { from, flags, seq, ack, window, bytes, raw }
        ),
        1 => (0_usize..80, any::<u8>(), 0_usize..80).prop_map(|(at, byte, cut)| Input::Mutilated { at, byte, cut }),
        2 => (0_u64..20_000).prop_map(Input::Time),
    ]
}

proptest! {
    /// Whatever comes, from whomever, near the right numbers or not: no panic, bounded, and forgotten in the end.
    #[test]
    fn anything_may_come(inputs in prop::collection::vec(input(), 1..60)) {
        let mut proxy = Proxy::new();
        let mut iss = Seq(0);
        for input in inputs {
            match input {
                Input::Time(millis) => {
                    proxy.pass(Duration::from_millis(millis));
                }
                Input::Mutilated { at, byte, cut } => {
                    let mut packet = SegmentBuilder { payload: REQUEST, ..syn(1) }.build();
                    packet.truncate(cut);
                    if let Some(target) = packet.get_mut(at) {
                        *target = byte;
                    }
                    proxy.engine.handle_packet(proxy.now, &mut packet, Stage::Raw);
                }
                Input::Packet { from, flags, seq, ack, window, bytes, raw } => {
                    let from_client = from < 2;
                    let (source, destination) = if from_client {
                        (client(u16::from(from) + 1), service())
                    } else {
                        (backend(from + 9), client(1))
                    };
                    let (seq, ack) = if from_client { (ISN + seq, iss + ack) } else { (Seq(1000) + seq, ISN + ack) };
                    let mut packet = SegmentBuilder {
                        seq,
                        ack: (flags & 16 != 0).then_some(ack),
                        flags: Flags(flags),
                        window,
                        payload: &bytes,
                        ..SegmentBuilder::new(source, destination)
                    }
                    .build();
                    let stage = if raw { Stage::Raw } else { Stage::Tracked };
                    let verdict = proxy.engine.handle_packet(proxy.now, &mut packet, stage);
                    prop_assert!(raw || verdict == Verdict::Drop);
                }
            }
            for sent in proxy.drain() {
                if sent.flags == SYN_ACK && sent.to == client(1) {
                    iss = sent.seq;
                }
            }
            prop_assert!(proxy.connections() <= 3);
        }
        for port in [1, 2] {
            proxy.engine.handle_entry_destroyed(proxy.now, client(port));
        }
        proxy.pass(Duration::from_secs(10_000));
        prop_assert_eq!(proxy.connections(), 0);
    }
}
