//! More SYNs than the table of half-open connections holds; set-ups that a restart interrupts.

use std::time::Duration;

use nfq_splice::{Promise, SETUP_WINDOW, Stage};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};

use crate::proxy::{ISN, Proxy, REQUEST, RST_ACK, SYN_ACK, backend, client, data, syn};

/// Longer than any cookie lives.
const STALE: Duration = Duration::from_secs(68);

/// A proxy whose table of half-open connections is full.
fn flooded() -> Proxy {
    let mut proxy = Proxy::new();
    for port in 1..=3 {
        assert_eq!(proxy.receive(&syn(port)).len(), 1);
    }
    proxy
}

#[test]
fn a_syn_flood_is_answered_without_state() {
    let mut proxy = flooded();
    for port in 4..100 {
        let sent = proxy.receive(&syn(port));
        assert_eq!((sent.len(), sent[0].to, sent[0].flags), (1, client(port), SYN_ACK));
    }
    assert_eq!((proxy.counter("syn_cookies_sent"), proxy.connections()), (96, 3));
    assert_eq!(proxy.counter("half_open_now"), 3);
    assert_eq!(proxy.receive(&syn(2)).len(), 1, "who is in, is still answered");
    proxy.pass(Duration::from_secs(60));
    assert_eq!((proxy.receive(&syn(4)).len(), proxy.connections()), (1, 1), "room again");
}

#[test]
fn a_cookie_keeps_all_options() {
    let scales = (0..15).map(Some).chain([None]);
    for (window_scale, mss) in scales.flat_map(|scale| [None, Some(536), Some(1460)].map(|mss| (scale, mss)))
    {
        for (sack_permitted, timestamps) in
            [(false, None), (true, None), (false, Some((5, 0))), (true, Some((5, 0)))]
        {
            let offered = SynOptions { mss, window_scale, sack_permitted, timestamp: None };
            let mut proxy = flooded();
            let answer =
                proxy.receive(&SegmentBuilder { syn: Some(offered), timestamps, ..syn(9) }).remove(0);
            assert_eq!(proxy.connections(), 3);
            let echo = timestamps.map(|_| (6, answer.options.timestamp.unwrap()));
            let request =
                SegmentBuilder { ack: Some(answer.seq + 1), timestamps: echo, ..data(9, 0, REQUEST) };
            let sent = proxy.receive(&request);
            assert_eq!((sent[0].to, sent[0].flags, sent[0].seq), (backend(11), Flags::SYN, ISN));
            assert_eq!(sent[0].options, SynOptions { timestamp: timestamps.map(|_| 6), ..offered });
        }
    }
}

#[test]
fn a_bare_acknowledgement_of_a_cookie_opens_the_connection() {
    let mut proxy = flooded();
    let iss = proxy.receive(&syn(9))[0].seq;
    assert!(proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, b"") }).is_empty());
    assert_eq!((proxy.connections(), proxy.counter("half_open_now")), (4, 3), "no longer half-open");
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, &REQUEST[..9]) });
    assert_eq!((sent[0].seq, sent[0].ack), (iss + 1, ISN + 10));
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 9, &REQUEST[9..]) });
    assert_eq!((sent[0].to, sent[0].flags), (backend(11), Flags::SYN));
}

/// Longer than what a client sends together, shorter than a retransmission timeout.
const ONE_FLIGHT: Duration = Duration::from_millis(150);

#[test]
fn an_acknowledgement_with_a_wrong_cookie_is_reset_and_leaves_no_state() {
    let mut proxy = flooded();
    let iss = proxy.receive(&syn(9))[0].seq;
    for port in [9, 10] {
        let early = proxy.receive(&SegmentBuilder { ack: Some(iss + 3), ..data(port, 5, REQUEST) });
        assert!(early.is_empty(), "its first segment may come again");
    }
    proxy.pass(ONE_FLIGHT);
    for (wrong, offset) in [(iss, 0), (iss + 2, 0), (iss + 1 + (1 << 29), 0), (Seq(5), 0), (iss + 1, 1)] {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(wrong), ..data(9, offset, REQUEST) });
        assert_eq!((sent.len(), sent[0].flags, sent[0].seq), (1, Flags::RST, wrong));
    }
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(10, 0, REQUEST) });
    assert_eq!((sent[0].flags, proxy.connections()), (Flags::RST, 3), "another client's cookie");
    assert_eq!(proxy.counter("syn_cookies_wrong"), 8);
}

/// The first segment of a head was lost with an earlier daemon, the second one comes.
#[test]
fn a_second_segment_waits_for_the_first_to_be_repeated() {
    let mut proxy = flooded();
    let iss = proxy.receive(&syn(9))[0].seq;
    let part =
        |offset: u32, bytes: &'static [u8]| SegmentBuilder { ack: Some(iss + 1), ..data(9, offset, bytes) };
    assert!(proxy.receive(&part(9, &REQUEST[9..])).is_empty());
    proxy.pass(ONE_FLIGHT);
    assert_eq!(proxy.receive(&part(0, &REQUEST[..9]))[0].ack, ISN + 10);
    assert_eq!(proxy.receive(&part(9, &REQUEST[9..]))[0].flags, Flags::SYN);
}

/// With the right period and one of many options, one place in 140,000 in the middle of a head looks like its beginning (here that 94,878 bytes on). What is
/// there is no request: the beginning is waited for.
#[test]
fn the_middle_of_a_head_is_not_its_beginning() {
    for rest in [&b"st: a\r\n\r\n"[..], b"\r\n\r\n", b"\r\n", b"\n", b"\r"] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        proxy.restart();
        let part = |offset, bytes| SegmentBuilder { ack: Some(iss + 1), ..data(1, offset, bytes) };
        for offset in 9..100_000 {
            assert!(proxy.receive(&part(offset, rest)).is_empty(), "{rest:?} at {offset}");
        }
        assert_eq!(proxy.receive(&part(0, &REQUEST[..9]))[0].ack, ISN + 10);
    }
}

/// What is continued and looks like a beginning may still be the middle of a connection whose client has part of a response: if no
/// request comes of it, that client is given no answer, and no end in good order.
#[test]
fn what_is_continued_without_state_and_becomes_no_request_is_reset() {
    let minute = Duration::from_secs(60);
    let cases: [(&[u8], Flags, Duration); 4] = [
        (b"GE", Flags::PSH, minute),
        (b"", Flags::PSH, minute),
        (b"GE", Flags::FIN, Duration::ZERO),
        (b"", Flags::FIN, Duration::ZERO),
    ];
    for (bytes, flags, later) in cases {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        proxy.restart();
        let mut sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), flags, ..data(1, 0, bytes) });
        sent.extend(proxy.pass(later));
        sent.retain(|sent| sent.flags != Flags::ACK);
        assert!(!sent.is_empty(), "{bytes:?} {flags:?}");
        assert!(sent.iter().all(|sent| sent.flags == RST_ACK && sent.seq == iss + 1));
        assert_eq!(proxy.counter("continued_without_request_reset"), 1);
    }
}

/// The next daemon, whose fast path's program answers SYNs.
fn restart_with_program(proxy: &mut Proxy) {
    proxy.restart();
    proxy.engine.handle_promised(proxy.now, Promise { mss: 1400, window_scale: 3 });
}

/// The same where the place looks like the beginning of a connection whose handshake the program has conducted.
#[test]
fn nor_is_it_where_the_program_answers() {
    let mut proxy = Proxy::new();
    let answer = proxy.receive(&SegmentBuilder { timestamps: Some((5, 0)), ..syn(1) }).remove(0);
    let timestamps = Some((6, answer.options.timestamp.unwrap()));
    let part =
        |offset, bytes| SegmentBuilder { ack: Some(answer.seq + 1), timestamps, ..data(1, offset, bytes) };
    restart_with_program(&mut proxy);
    for offset in 9..100_000 {
        assert!(proxy.receive(&part(offset, b"st: a\r\n\r\n")).is_empty(), "at {offset}");
    }
    assert_eq!(proxy.receive(&part(0, &REQUEST[..9]))[0].ack, ISN + 10);
}

/// Nor for one of another scale or maker: the number says both.
#[test]
fn a_handshake_is_never_taken_for_another() {
    let mut proxy = Proxy::new();
    for port in 1..20_000 {
        let answer = proxy.receive(&SegmentBuilder { timestamps: Some((5, 0)), ..syn(port) }).remove(0);
        restart_with_program(&mut proxy);
        let timestamps = Some((6, answer.options.timestamp.unwrap()));
        let begun = SegmentBuilder { ack: Some(answer.seq + 1), timestamps, ..data(port, 0, b"GET") };
        let sent = proxy.receive(&begun).remove(0);
        let offered = SETUP_WINDOW >> answer.options.window_scale.unwrap();
        assert_eq!((sent.ack, u32::from(sent.window)), (ISN + 4, offered), "of port {port}");
    }
}

/// What the client echoes reaches the backend as the timestamp of its SYN-ACK: in SYN-RECEIVED Linux (6.15 and later) drops what echoes an older
/// one. If what ends the handshake is lost, nothing that the client says would end it.
fn assert_aligned(proxy: &mut Proxy, request: &SegmentBuilder<'_>) {
    assert_eq!(proxy.receive(request)[0].flags, Flags::SYN);
    let syn_ack = SegmentBuilder {
        ack: Some(ISN + 1),
        flags: Flags::SYN,
        syn: Some(SynOptions::default()),
        timestamps: Some((900, 6)),
        ..SegmentBuilder::new(backend(11), client(1))
    };
    assert_eq!(proxy.receive(&syn_ack).len(), 1, "spliced");
    let mut again = request.build();
    proxy.engine.handle_packet(proxy.now, &mut again, Stage::Raw);
    assert_eq!(TcpSegment::parse(&again).unwrap().timestamps(), Some((6, 900)));
}

/// A later daemon's clock is a minute ahead of it.
#[test]
fn the_clock_of_a_continued_handshake_is_the_one_the_client_was_told() {
    let mut proxy = Proxy::new();
    let answer = proxy.receive(&SegmentBuilder { timestamps: Some((5, 0)), ..syn(1) }).remove(0);
    proxy.restart_in_life(1);
    let (ack, timestamps) = (Some(answer.seq + 1), Some((6, answer.options.timestamp.unwrap())));
    assert_aligned(&mut proxy, &SegmentBuilder { ack, timestamps, ..data(1, 0, REQUEST) });
}

/// The SYN came twice, the client has taken the first answer, and ends the handshake in a segment of its own or with the request.
#[test]
fn an_answer_that_the_client_has_not_taken_tells_it_no_clock() {
    for own in [true, false] {
        let mut proxy = Proxy::new();
        let syn = SegmentBuilder { timestamps: Some((5, 0)), ..syn(1) };
        let answer = proxy.receive(&syn).remove(0);
        proxy.pass(Duration::from_millis(30));
        assert_eq!(proxy.receive(&syn)[0].seq, answer.seq);
        let (ack, timestamps) = (Some(answer.seq + 1), Some((6, answer.options.timestamp.unwrap())));
        if own {
            proxy.receive(&SegmentBuilder { ack, timestamps, ..data(1, 0, b"") });
            proxy.pass(Duration::from_millis(300));
        }
        assert_aligned(&mut proxy, &SegmentBuilder { ack, timestamps, ..data(1, 0, REQUEST) });
    }
}

#[test]
fn an_old_cookie_is_refused() {
    let mut proxy = flooded();
    let iss = proxy.receive(&syn(9))[0].seq;
    proxy.pass(STALE);
    for port in 21..=24 {
        proxy.receive(&syn(port));
    }
    assert!(proxy.counter("syn_cookies_sent") >= 2, "cookies are taken");
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, REQUEST) });
    assert_eq!((sent[0].flags, proxy.counter("syn_cookies_wrong")), (Flags::RST, 1));
}

/// A guess can only succeed while cookies are needed.
#[test]
fn cookies_are_taken_only_after_an_overflow_or_a_start() {
    let mut proxy = Proxy::new();
    proxy.receive(&SegmentBuilder { ack: Some(Seq(1)), ..data(8, 0, b"") });
    proxy.pass(STALE);
    let iss = proxy.receive(&syn(9))[0].seq;
    // The client gives up: its number would still be good.
    proxy.receive(&SegmentBuilder { flags: Flags::RST, ..data(9, 0, b"") });
    assert_eq!(proxy.connections(), 0);
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, REQUEST) });
    assert_eq!((sent[0].flags, proxy.connections()), (Flags::RST, 0));
    for port in 1..=4 {
        proxy.receive(&syn(port));
    }
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, REQUEST) });
    assert_eq!((sent[0].to, sent[0].flags), (backend(11), Flags::SYN));
}

#[test]
fn a_set_up_survives_a_restart_by_the_clients_repetition() {
    for request_sent in [false, true] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let request = SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) };
        if request_sent {
            assert_eq!(proxy.receive(&request)[0].to, backend(11));
        }
        proxy.restart();
        let sent = proxy.receive(&request);
        assert_eq!((sent[0].to, sent[0].flags, sent[0].seq), (backend(11), Flags::SYN, ISN));
    }
}

#[test]
fn what_an_earlier_daemon_translated_itself_is_not_executed_again() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    proxy.restart();
    proxy.engine.handle_lost(client(1));
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!((sent.len(), sent[0].flags, proxy.connections()), (1, Flags::RST, 0));
}

/// A late copy of the request comes when all is over: its cookie is still good, but the request has been executed.
#[test]
fn an_ended_connection_is_not_continued_by_its_cookie() {
    // In a flood, and in the first minute of a daemon.
    for mut proxy in [flooded(), Proxy::new()] {
        let iss = proxy.receive(&syn(9))[0].seq;
        let request = SegmentBuilder { ack: Some(iss + 1), ..data(9, 0, REQUEST) };
        proxy.receive(&request);
        let syn_ack = SegmentBuilder {
            ack: Some(ISN + 1),
            flags: Flags::SYN,
            ..SegmentBuilder::new(backend(11), client(9))
        };
        assert_eq!(proxy.receive(&syn_ack).len(), 1, "spliced");
        proxy.engine.handle_splice_failed(proxy.now, client(9));
        for reset in [Flags::RST, Flags::RST] {
            let end = SegmentBuilder { flags: reset, ack: None, ..data(9, REQUEST.len() as u32, b"") };
            proxy.engine.handle_packet(proxy.now, &mut end.build(), nfq_splice::Stage::Raw);
        }
        proxy.pass(Duration::from_secs(20));
        assert_eq!(proxy.receive(&request)[0].flags, Flags::RST);
        let again = proxy.receive(&SegmentBuilder { seq: ISN + 9000, ..syn(9) });
        assert_eq!(again[0].flags, SYN_ACK, "a new connection");
    }
}

#[test]
fn a_clients_window_scale_is_told_right_after_the_backends_scale_changed() {
    let mut proxy = flooded();
    let told = proxy.receive(&syn(9)).remove(0);
    // Meanwhile a backend with another scale answers somebody else.
    let iss = proxy.receive(&syn(1))[0].seq;
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    proxy.receive(&SegmentBuilder {
        ack: Some(ISN + 1),
        flags: Flags::SYN,
        syn: Some(SynOptions { window_scale: Some(3), ..SynOptions::default() }),
        ..SegmentBuilder::new(backend(11), client(1))
    });
    let sent = proxy.receive(&SegmentBuilder { ack: Some(told.seq + 1), ..data(9, 0, &REQUEST[..5]) });
    assert_eq!(u32::from(sent[0].window) << told.options.window_scale.unwrap(), 28_960 >> 10 << 10);
}
