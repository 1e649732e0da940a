//! What the checker of windows takes for announced.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};
use sim::addresses::{client_address, service};
use sim::windows::Windows;

/// Their makers may have announced different scales.
#[test]
fn the_second_answer_to_a_syn_announces_nothing() {
    let client = client_address(40_000);
    let mut windows = Windows::default();
    let offer = |scale| Some(SynOptions { window_scale: Some(scale), ..SynOptions::default() });
    let syn =
        SegmentBuilder { flags: Flags::SYN, syn: offer(1), ..SegmentBuilder::new(client, service()) }.build();
    windows.leaves(&TcpSegment::parse(&syn).unwrap());
    let bare = SegmentBuilder { ack: Some(Seq(1)), ..SegmentBuilder::new(service(), client) };
    for (number, scale) in [(100, 3), (200, 0)] {
        let answer =
            SegmentBuilder { seq: Seq(number), flags: Flags::SYN, syn: offer(scale), ..bare.clone() };
        windows.reaches(&TcpSegment::parse(&answer.build()).unwrap(), service(), false).unwrap();
    }
    let translated = SegmentBuilder { seq: Seq(101), window: 1000, ..bare }.build();
    windows.translated(&TcpSegment::parse(&translated).unwrap(), 8000).unwrap();
}
