//! The large-file rule: what is left out of the log, and that readers can tell exactly what.

mod common;

use cluster::control::{LargeBody, ToLogger};
use common::{ACK, Bench, FIN, JUDGE, SYN, SYN_ACK, flow};
use nfq_logger::{Decision, Limits};
use packet::Seq;
use proptest::prelude::*;
use segment_log::{Flags, LeftOut};
use xxhash_rust::xxh3::xxh3_128;

const ISN: u32 = u32::MAX - 5000;
const CLIENT_ISN: u32 = 77;
const HEAD: usize = 300;

fn open(bench: &mut Bench) {
    let f = flow(1000, 1);
    bench.forth(f, CLIENT_ISN, SYN, b"");
    bench.back(f, ISN, SYN_ACK, b"");
}

fn order(from: usize, bytes: u64) -> LargeBody {
    LargeBody { flow: flow(1000, 1), client_isn: CLIENT_ISN, from: ISN.wrapping_add(1 + from as u32), bytes }
}

fn tell(bench: &mut Bench, body: LargeBody) {
    bench.engine.handle_control(JUDGE, &ToLogger::LeaveOut(body));
}

fn send(bench: &mut Bench, stream: &[u8], from: usize, to: usize) -> Decision {
    let f = flow(1000, 1);
    bench.back(f, ISN.wrapping_add(1 + from as u32), ACK, &stream[from..to])
}

fn left_out(decision: Decision) -> Option<LeftOut> {
    match decision {
        Decision::AcceptLeavingOut { flags, headers, left_out } => {
            assert_eq!(flags, Flags::FROM_BACKEND);
            assert_eq!(headers, 40);
            Some(left_out)
        }
        Decision::Accept(_) => None,
        other => panic!("{other:?}"),
    }
}

fn stream(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn the_body_is_left_out_from_the_order_to_its_end() {
    let bytes = stream(HEAD + 10_000 + 2_000);
    let mut bench = Bench::new(Limits::default());
    open(&mut bench);
    assert_eq!(left_out(send(&mut bench, &bytes, 0, 1000)), None, "not ordered yet");
    tell(&mut bench, order(HEAD, 10_000));
    let first = left_out(send(&mut bench, &bytes, 1000, 2000)).unwrap();
    assert_eq!((first.bytes, Seq(first.since)), (1000, Seq(ISN) + 1001));
    assert_eq!(first.hash, xxh3_128(&bytes[1000..2000]));
    let second = left_out(send(&mut bench, &bytes, 2000, 9000)).unwrap();
    assert_eq!((second.bytes, second.since), (7000, first.since));
    assert_eq!(second.hash, xxh3_128(&bytes[1000..9000]));
    assert_eq!(left_out(send(&mut bench, &bytes, 9000, 9100)), None, "too small to be worth it");
    let third = left_out(send(&mut bench, &bytes, 9100, 10_000)).unwrap();
    assert_eq!((Seq(third.since), third.hash), (Seq(ISN) + 9101, xxh3_128(&bytes[9100..10_000])));
    assert_eq!(left_out(send(&mut bench, &bytes, 10_000, 11_000)), None, "the next response begins in it");
    assert_eq!(left_out(send(&mut bench, &bytes, 11_000, 12_000)), None);
    assert_eq!((bench.counter("left_out_segments"), bench.counter("left_out_bytes")), (3, 8900));
}

#[test]
fn repetitions_and_what_lies_behind_a_hole_are_logged_whole() {
    let bytes = stream(20_000);
    let mut bench = Bench::new(Limits::default());
    open(&mut bench);
    send(&mut bench, &bytes, 0, HEAD);
    tell(&mut bench, order(HEAD, 19_000));
    assert!(left_out(send(&mut bench, &bytes, HEAD, 1300)).is_some());
    assert_eq!(left_out(send(&mut bench, &bytes, 800, 1800)), None, "half of it again");
    assert_eq!(left_out(send(&mut bench, &bytes, 2800, 3800)), None, "a hole before it");
    assert_eq!(left_out(send(&mut bench, &bytes, 1800, 3000)), None, "reaches into what is logged");
    let after = left_out(send(&mut bench, &bytes, 3800, 4800)).unwrap();
    assert_eq!((Seq(after.since), after.hash), (Seq(ISN) + 3801, xxh3_128(&bytes[3800..4800])));
}

#[test]
fn a_hole_that_was_given_up_ends_it() {
    let bytes = stream(60_000);
    let mut bench = Bench::new(Limits::default());
    open(&mut bench);
    send(&mut bench, &bytes, 0, HEAD);
    tell(&mut bench, order(HEAD, 50_000));
    for hole in 1..=9 {
        assert_eq!(left_out(send(&mut bench, &bytes, hole * 2000, hole * 2000 + 1000)), None);
    }
    assert_eq!(left_out(send(&mut bench, &bytes, 19_000, 20_000)), None);
    tell(&mut bench, order(HEAD, 50_000));
    assert_eq!(left_out(send(&mut bench, &bytes, 20_000, 21_000)), None);
    assert_eq!(bench.counter("large_bodies_unknown"), 1);
}

#[test]
fn orders_about_other_connections_are_void() {
    let bytes = stream(20_000);
    let mut bench = Bench::new(Limits::default());
    tell(&mut bench, order(0, 10_000));
    open(&mut bench);
    for void in [
        LargeBody { client_isn: CLIENT_ISN + 1, ..order(0, 10_000) },
        LargeBody { flow: flow(1000, 2), ..order(0, 10_000) },
        LargeBody { from: ISN.wrapping_add(1 << 31), ..order(0, 10_000) },
    ] {
        tell(&mut bench, void);
    }
    assert_eq!(bench.counter("large_bodies_unknown"), 4);
    assert_eq!(left_out(send(&mut bench, &bytes, 0, 1000)), None);
    // The client opens the same flow anew: the order is the old connection's.
    tell(&mut bench, order(0, 10_000));
    let f = flow(1000, 1);
    bench.forth(f, CLIENT_ISN + 100_000, SYN, b"");
    let packet = packet::SegmentBuilder {
        seq: Seq(ISN),
        ack: Some(Seq(CLIENT_ISN + 100_001)),
        flags: SYN_ACK,
        ..packet::SegmentBuilder::new(f.backend, f.client)
    };
    bench.packet(&packet.build());
    assert_eq!(left_out(send(&mut bench, &bytes, 0, 1000)), None);
}

#[test]
fn an_end_is_held_with_its_data() {
    let bytes = stream(20_000);
    let mut bench = Bench::new(Limits::default());
    bench.engine.handle_control(JUDGE, &ToLogger::Judge);
    open(&mut bench);
    tell(&mut bench, order(0, 20_000));
    assert!(left_out(send(&mut bench, &bytes, 0, 1000)).is_some());
    common::held(bench.back(flow(1000, 1), ISN.wrapping_add(1001), FIN, &bytes[1000..2000]));
}

proptest! {
    /// Segments in any order, cut and repeated, an order at any time: what is left out is within the body, is the next of the
    /// stream, and its hash is that of all that was left out since.
    #[test]
    fn readers_know_what_is_missing(
        segments in prop::collection::vec((0_usize..40, 1_usize..1500), 1..120),
        ordered_at in 0_usize..40,
        from in 0_usize..4000,
        length in 0_u64..9000,
    ) {
        let bytes = stream(30_000);
        let mut bench = Bench::new(Limits::default());
        open(&mut bench);
        let mut logged = vec![false; bytes.len()];
        let mut missing = vec![false; bytes.len()];
        let mut next = 0;
        for (index, (jump, length_of)) in segments.into_iter().enumerate() {
            if index == ordered_at {
                tell(&mut bench, order(from, length));
            }
            // Mostly the next one, now and then an earlier one, or one behind a hole.
            let start = match jump {
                0..=2 => next / 2,
                3..=5 => next + 700,
                _ => next,
            }.min(bytes.len() - 1);
            let end = (start + length_of).min(bytes.len());
            if let Some(left_out) = left_out(send(&mut bench, &bytes, start, end)) {
                prop_assert!(index >= ordered_at && start >= from && end as u64 <= from as u64 + length);
                prop_assert!(logged[..start].iter().all(|logged| *logged) && !logged[start..].iter().take(end - start).any(|logged| *logged));
                missing[start..end].fill(true);
                let since = left_out.since.wrapping_sub(ISN.wrapping_add(1)) as usize;
                prop_assert!(missing[since..end].iter().all(|missing| *missing));
                prop_assert_eq!((left_out.bytes as usize, left_out.hash), (end - start, xxh3_128(&bytes[since..end])));
            }
            logged[start..end].fill(true);
            next = logged.iter().position(|logged| !logged).unwrap_or(bytes.len());
        }
    }
}
