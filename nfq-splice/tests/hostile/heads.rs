//! Request heads: how they may arrive, and which backend gets them.

use std::time::Duration;

use packet::{Flags, SegmentBuilder, Seq};

use crate::answers::answer;
use crate::proxy::{ISN, Proxy, REQUEST, backend, client, data};

#[test]
fn a_head_may_come_byte_by_byte_and_in_any_order() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let mut order: Vec<usize> = (0..REQUEST.len()).collect();
    order.sort_by_key(|i| (i / 4, 3 - i % 4));
    let mut sent = Vec::new();
    for i in order {
        sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, i as u32, &REQUEST[i..=i]) });
    }
    assert_eq!(sent.last().map(|sent| (sent.to, sent.flags)), Some((backend(11), Flags::SYN)));
    let syn_ack = SegmentBuilder {
        seq: Seq(1000),
        ack: Some(ISN + 1),
        flags: Flags::SYN,
        window: 50_000,
        ..SegmentBuilder::new(backend(11), client(1))
    };
    let forwarded: Vec<u8> = proxy.receive(&syn_ack).into_iter().flat_map(|sent| sent.payload).collect();
    assert_eq!(forwarded, REQUEST);
}

#[test]
fn a_part_of_a_head_that_is_repeated_is_acknowledged_again() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    for _ in 0..3 {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, &REQUEST[..10]) });
        assert_eq!(sent.iter().map(|sent| sent.ack).collect::<Vec<_>>(), [ISN + 11]);
    }
    let bare = SegmentBuilder { ack: Some(iss + 1), ..data(1, 10, b"") };
    assert!(proxy.receive(&bare).is_empty(), "an acknowledgement is not acknowledged");
}

#[test]
fn backends_that_refuse_or_are_silent_are_passed_over_then_502() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    let refusal = |from, ack| SegmentBuilder {
        ack: Some(ack),
        flags: Flags::RST,
        ..SegmentBuilder::new(from, client(1))
    };
    assert!(proxy.receive(&refusal(backend(11), ISN)).is_empty(), "a reset that is not for this SYN");
    assert!(proxy.receive(&refusal(backend(12), ISN + 1)).is_empty(), "a backend that was not asked");
    let next = proxy.receive(&refusal(backend(11), ISN + 1));
    assert_eq!((next[0].to, next[0].flags), (backend(12), Flags::SYN));
    let sent = proxy.pass(Duration::from_secs(5));
    assert!(sent.iter().filter(|sent| sent.to == backend(12)).count() >= 3, "the SYN is repeated");
    assert!(answer(&sent).0.contains("502"));
}
