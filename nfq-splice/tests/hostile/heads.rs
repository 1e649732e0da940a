//! Request heads: how they may arrive, and which backend gets them.

use std::time::Duration;

use packet::{Flags, SegmentBuilder, Seq};

use crate::answers::{answer, stream};
use crate::proxy::{ISN, Proxy, REQUEST, SYN_ACK, backend, client, data, service};

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

#[test]
fn overlapping_data_that_differs_the_first_copy_wins() {
    let evil = b"GET /other HTTP/1.1\r\nHost: b\r\n\r\n";
    // In order, and beyond a gap.
    for first_part in [&REQUEST[..12], &REQUEST[4..12]] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let from = (REQUEST.len().min(12) - first_part.len()) as u32;
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, from, first_part) });
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, from, &evil[from as usize..10]) });
        assert_eq!(proxy.counter("overlap_conflict_first_copy_kept"), 1);
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, &REQUEST[..12]) });
        assert_eq!(proxy.counter("overlap_conflict_first_copy_kept"), 1, "the same again is no conflict");
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 12, &REQUEST[12..]) });
        assert_eq!(to_backend(&mut proxy), REQUEST);
    }
}

/// What the backend gets once it answers.
fn to_backend(proxy: &mut Proxy) -> Vec<u8> {
    let syn_ack = SegmentBuilder {
        seq: Seq(1000),
        ack: Some(ISN + 1),
        flags: Flags::SYN,
        window: 60_000,
        ..SegmentBuilder::new(backend(11), client(1))
    };
    proxy.receive(&syn_ack).into_iter().flat_map(|sent| sent.payload).collect()
}

/// The cost of a head grows with its length, not with the square of it: 60 KB byte by byte take a moment.
#[test]
fn tiny_segments_cost_no_more_than_their_bytes() {
    let mut proxy = Proxy::with(|settings| settings.splice.request_head_bytes = 64 << 10);
    let iss = proxy.establish(1);
    let line = format!("X: {}\r\n", "y".repeat(3000));
    let head = ["GET /known HTTP/1.1\r\nHost: a\r\n", &line.repeat(20), "\r\n"].concat().into_bytes();
    for (i, byte) in head.iter().enumerate() {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, i as u32, &[*byte]) });
        assert_eq!(sent.len(), 1, "each is acknowledged");
    }
    let first = to_backend(&mut proxy);
    assert!(!first.is_empty() && head.starts_with(&first));
}

#[test]
fn tiny_pieces_beyond_a_gap_are_bounded() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    for i in 20..2019 {
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 2 * i, b"x") });
    }
    assert_eq!(
        (proxy.counter("setup_bytes_now"), proxy.counter("request_pieces_limit_dropped")),
        (64, 1999 - 64)
    );
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!(to_backend(&mut proxy)[..REQUEST.len()], *REQUEST, "what is next is always taken");
}

/// Of one client, then of all together.
#[test]
fn memory_before_routing_is_bounded() {
    let mut proxy = Proxy::with(|settings| settings.splice.request_head_bytes = 64 << 10);
    let iss = proxy.establish(1);
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    for i in 0..200 {
        let at = (REQUEST.len() + i * 1400) as u32;
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, at, &[b'x'; 1400]) });
    }
    let one = (64 << 10) + 28_960 + 1400;
    assert!(proxy.counter("setup_bytes_now") <= one, "{}", proxy.counter("setup_bytes_now"));
    assert!(proxy.counter("request_bytes_limit_dropped") > 0);

    let mut proxy = Proxy::with(|settings| settings.splice.setup_bytes = 3000);
    let part = [b"GET /known HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 900]].concat();
    for port in 1..=20 {
        let iss = proxy.establish(port);
        let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(port, 0, &part) });
        let answered = stream(&sent, port).starts_with("HTTP/1.1 503 ");
        assert_eq!(answered, port > 3, "{port}: {sent:?}");
        assert!(proxy.counter("setup_bytes_now") <= 3000);
    }
    assert_eq!(proxy.counter("setup_bytes_limit_refused"), 17);
    proxy.pass(Duration::from_secs(60));
    assert_eq!((proxy.counter("setup_bytes_now"), proxy.connections()), (0, 0));
}

/// Kinds unknown, lengths illegal, options where none belong: survived, and the known ones beside them read (MUST-5 to 7).
#[test]
fn option_garbage_is_survived() {
    let fields: [&[u8]; 9] = [
        &[0; 4],
        &[1; 40],
        &[254, 2, 1, 1],
        &[253, 0, 1, 1],
        &[8, 1, 1, 1],
        &[8, 40, 1, 1],
        &[2, 4, 5, 120, 5, 255, 1, 1],
        &[34, 4, 1, 2],
        &[30, 12, 0, 129, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    for options in fields {
        let mut proxy = Proxy::new();
        let bare = SegmentBuilder { seq: ISN, window: 60_000, ..SegmentBuilder::new(client(1), service()) };
        let syn =
            proxy.receive_bytes(with_options(&SegmentBuilder { flags: Flags::SYN, ..bare.clone() }, options));
        assert_eq!((syn.len(), syn[0].flags), (1, SYN_ACK), "{options:?}");
        let request = SegmentBuilder { seq: ISN + 1, ack: Some(syn[0].seq + 1), payload: REQUEST, ..bare };
        let routed = proxy.receive_bytes(with_options(&request, options));
        assert_eq!((routed[0].to, routed[0].flags), (backend(11), Flags::SYN), "{options:?}");
    }
}

/// A segment with this option field, a multiple of four bytes.
fn with_options(segment: &SegmentBuilder<'_>, options: &[u8]) -> Vec<u8> {
    let mut packet = segment.build();
    let length = (packet.len() + options.len()) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[32] = ((20 + options.len()) as u8 / 4) << 4;
    packet.splice(40..40, options.iter().copied());
    packet
}
