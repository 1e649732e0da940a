//! The simulated hosts take what other stacks take, and no clock from anything else.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};
use sim::addresses::{client_host, service};
use sim::hosts::Host;
use smoltcp::iface::SocketHandle;

const PORT: u16 = 40_000;
const ISN: Seq = Seq(7000);

/// A client whose SYN is on its way, and its number.
fn connecting() -> (Host, SocketHandle, Seq) {
    let mut host = Host::new(0, client_host(), 1, true, 1500);
    let handle = host.add_socket(9000, 9000);
    host.connect(handle, service(), PORT);
    let syn = host.poll(Time::from_millis(1)).remove(0);
    let number = TcpSegment::parse(&syn).unwrap().seq();
    (host, handle, number)
}

/// What the other end says at this time of its clock.
fn said(seq: Seq, ack: Seq, clock: u32) -> SegmentBuilder<'static> {
    SegmentBuilder {
        seq,
        ack: Some(ack),
        window: 9000,
        timestamps: Some((clock, 0)),
        ..SegmentBuilder::new(service(), SocketAddr::new(client_host(), PORT))
    }
}

fn answer(number: Seq, clock: u32) -> Vec<u8> {
    let options = SynOptions { mss: Some(1000), ..SynOptions::default() };
    SegmentBuilder { flags: Flags::SYN, syn: Some(options), ..said(ISN, number + 1, clock) }.build()
}

/// Both are there before the stack looks at either.
#[test]
fn the_second_answer_to_a_syn_gives_no_clock() {
    let (mut host, _, number) = connecting();
    let [first, second] = [5, 6].map(|clock| answer(number, clock));
    assert!(!host.is_strange(&TcpSegment::parse(&first).unwrap()));
    host.receive(first);
    assert!(host.is_strange(&TcpSegment::parse(&second).unwrap()));
    host.receive(second);
    let sent = host.poll(Time::from_millis(2));
    let echoes = sent.iter().map(|packet| TcpSegment::parse(packet).unwrap().timestamps().unwrap().1);
    assert_eq!(echoes.max(), Some(5));
}

/// smoltcp drops a segment that acknowledges less than the one before.
#[test]
fn what_is_dropped_gives_no_clock() {
    let (mut host, handle, number) = connecting();
    host.receive(answer(number, 5));
    host.poll(Time::from_millis(2));
    host.socket(handle).send_slice(b"abc").unwrap();
    host.poll(Time::from_millis(3));
    host.receive(said(ISN + 1, number + 4, 6).build());
    host.receive(SegmentBuilder { payload: b"old", ..said(ISN + 1, number + 1, 9) }.build());
    host.receive(SegmentBuilder { payload: b"new", ..said(ISN + 1, number + 4, 8) }.build());
    host.poll(Time::from_millis(4));
    let mut got = [0; 9];
    assert_eq!(host.socket(handle).recv_slice(&mut got), Ok(3));
    assert_eq!(&got[..3], b"new");
}

/// A probe, say, or what belongs to the answer to a forged SYN: it is answered, not accepted.
#[test]
fn what_lies_outside_the_window_gives_no_clock() {
    let (mut host, handle, number) = connecting();
    host.receive(answer(number, 5));
    host.poll(Time::from_millis(2));
    for outside in [ISN, ISN + 1 + (1 << 20)] {
        let probe = said(outside, number + 1, 9).build();
        assert!(host.is_strange(&TcpSegment::parse(&probe).unwrap()));
        host.receive(probe);
    }
    host.poll(Time::from_millis(3));
    host.receive(SegmentBuilder { payload: b"new", ..said(ISN + 1, number + 1, 8) }.build());
    host.poll(Time::from_millis(4));
    assert_eq!(host.socket(handle).recv_slice(&mut [0; 9]), Ok(3));
}

/// What an alternate sends to a client that has taken the end of its connection: the first byte has the FIN's number.
#[test]
fn nothing_behind_a_fin_is_taken() {
    let (mut host, handle, number) = connecting();
    host.receive(answer(number, 5));
    host.poll(Time::from_millis(2));
    let last = SegmentBuilder { payload: b"end", flags: Flags::FIN, ..said(ISN + 1, number + 1, 6) };
    host.receive(last.build());
    host.poll(Time::from_millis(3));
    host.receive(SegmentBuilder { payload: b"other", ..said(ISN + 4, number + 1, 7) }.build());
    host.poll(Time::from_millis(4));
    let mut got = [0; 9];
    assert_eq!(host.socket(handle).recv_slice(&mut got), Ok(3));
    assert!(host.socket(handle).recv_slice(&mut got).is_err());
}

/// Three made-up duplicates set smoltcp going again where it has stopped: they give it no window that its peer did not.
#[test]
fn a_socket_that_is_set_going_again_keeps_to_the_smallest_window() {
    let (mut host, handle, number) = connecting();
    let options = SynOptions { mss: Some(1000), window_scale: Some(4), ..SynOptions::default() };
    let opening = SegmentBuilder { flags: Flags::SYN, syn: Some(options), ..said(ISN, number + 1, 5) };
    host.receive(opening.build());
    host.poll(Time::from_millis(2));
    host.receive(SegmentBuilder { window: 1, ..said(ISN + 1, number + 1, 6) }.build());
    host.poll(Time::from_millis(3));
    host.socket(handle).send_slice(&[7; 100]).unwrap();
    let mut sent = 0;
    for millis in (4..9000).step_by(10) {
        host.unstick(Time::from_millis(millis));
        for packet in host.poll(Time::from_millis(millis)) {
            let segment = TcpSegment::parse(&packet).unwrap();
            sent += segment.payload().len();
            assert!((segment.seq() + segment.payload().len() as u32).before_or_at(number + 17));
        }
    }
    assert!(sent > 16, "it has repeated what it may send");
}
