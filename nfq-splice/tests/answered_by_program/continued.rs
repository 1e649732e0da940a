//! What a client may send after the program's answer, and what becomes of it.

use std::time::Duration;

use cluster::control::{ClientWindow, Flow, RecoveryOrder, TakeIn};
use nfq_splice::Promise;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};

use crate::{
    CONFIG, LIFE, OFFER, Proxy, REQUEST, acknowledgement, engine, engine_of, engine_since, engine_with, now,
    sends, sends_at, syn,
};

/// A client that has got the program's answer: its next segment, still without data.
pub(crate) fn connected(proxy: &mut Proxy, port: u16, number: u32) -> SegmentBuilder<'static> {
    let syn = syn(port, number, OFFER);
    let answer = proxy.ask(&syn.build()).unwrap();
    acknowledgement(&syn, &TcpSegment::parse(&answer).unwrap())
}

pub(crate) fn request(first: &SegmentBuilder<'static>) -> Vec<u8> {
    SegmentBuilder { payload: REQUEST, ..first.clone() }.build()
}

/// Flags of what is sent, and where: to the backend, port 80, or the client.
pub(crate) fn shape(sent: &[Vec<u8>]) -> Vec<(Flags, u16)> {
    let segments = sent.iter().map(|packet| TcpSegment::parse(packet).unwrap());
    segments.map(|segment| (segment.flags(), segment.destination().port())).collect()
}

pub(crate) const CONNECTS: [(Flags, u16); 1] = [(Flags::SYN, 80)];

pub(crate) fn later(millis: u64) -> Time {
    now() + Duration::from_millis(millis)
}

#[test]
fn the_first_data_may_be_late_but_not_older_than_a_cookie() {
    let Some(mut proxy) = Proxy::up("ca") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends_at(&mut engine(), later(30_000), &request(&first))), CONNECTS);
    let sent = sends_at(&mut engine(), later(68_000), &request(&first));
    assert_eq!(shape(&sent), [(Flags::RST, 5000)]);
}

/// A packet may have come after the time that its batch was given.
#[test]
fn the_answer_may_be_younger_than_the_batch() {
    let Some(mut proxy) = Proxy::up("ch") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let before = now();
    std::thread::sleep(Duration::from_millis(5));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends_at(&mut engine(), before, &request(&first))), CONNECTS);
}

/// The one that wrote what the program says has died meanwhile.
#[test]
fn the_next_daemon_continues_too() {
    let Some(mut proxy) = Proxy::up("cg") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends_at(&mut engine_of(LIFE + 1), later(20_000), &request(&first))), CONNECTS);
}

/// What the program is told now, it has told this client; another scale is another number's, by chance.
#[test]
fn only_the_promised_scale_is_continued() {
    let Some(mut proxy) = Proxy::up("cn") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    let before = Time::from_nanos(now().as_nanos() - 1_000_000_000);
    for (window_scale, continued) in [(7, false), (10, true)] {
        proxy.engine.handle_promised(before, Promise { mss: 1460, window_scale });
        let sent = sends(&mut proxy.engine, &request(&first));
        assert_eq!(shape(&sent) == CONNECTS, continued, "{window_scale}");
    }
}

#[test]
fn what_overtakes_the_first_data_is_dropped_for_a_while() {
    let Some(mut proxy) = Proxy::up("cb") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    let part = |at: usize, bytes: &'static [u8]| {
        SegmentBuilder { seq: first.seq + at as u32, payload: bytes, ..first.clone() }.build()
    };
    let [head, rest] = [part(0, &REQUEST[..9]), part(9, &REQUEST[9..])];
    assert!(sends(&mut proxy.engine, &rest).is_empty());
    assert!(sends_at(&mut proxy.engine, later(2900), &rest).is_empty());
    // In its first minute the daemon itself also waits, for one flight.
    sends_at(&mut proxy.engine, later(3100), &rest);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(3300), &rest)), [(Flags::RST, 5000)]);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(3400), &head)), [(Flags::ACK, 5000)]);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(3500), &rest)), CONNECTS);
}

/// One number in 140,000 passes for a first one by chance, for a daemon that does not know the scale. It is none if data with lesser numbers were not
/// either.
#[test]
fn what_overtakes_the_first_data_is_not_taken_for_them_by_chance() {
    let Some(mut proxy) = Proxy::up("cq") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    let (mut engine, now) = (engine_of(LIFE), later(0));
    let part = |at: u32| SegmentBuilder { seq: first.seq + at, payload: REQUEST, ..first.clone() }.build();
    // The greatest first: it has overtaken none. Some would be the daemon's own.
    let passes = |at: &u32| {
        !sends_at(&mut engine, now, &part(*at)).is_empty() && {
            let taken = std::mem::replace(&mut engine, engine_of(LIFE)).status();
            taken.counters.contains_key("answered_handshakes_continued")
        }
    };
    let chance = (1000..4_000_000).rev().find(passes).unwrap();
    let mut engine = engine_of(LIFE);
    assert!(sends_at(&mut engine, now, &part(chance - 2)).is_empty());
    assert!(sends_at(&mut engine, now, &part(chance)).is_empty(), "{chance}");
    assert!(!sends_at(&mut engine, now, &part(0)).is_empty(), "the first one");
}

#[test]
fn a_silent_clients_probe_is_answered_and_leaves_no_state() {
    let Some(mut proxy) = Proxy::up("cc") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    for payload in [&b""[..], b"\0"] {
        let probe = SegmentBuilder { seq: first.seq - 1, payload, ..first.clone() };
        let sent = sends(&mut proxy.engine, &probe.build());
        let answer = TcpSegment::parse(&sent[0]).unwrap();
        assert_eq!((answer.flags(), answer.ack(), Some(answer.seq())), (Flags::ACK, first.seq, first.ack));
        assert_eq!(proxy.engine.status().total, 0);
    }
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
}

#[test]
fn a_client_that_closes_without_a_request_is_closed() {
    let Some(mut proxy) = Proxy::up("cd") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let before = Time::from_nanos(now().as_nanos() - 1_000_000_000);
    let first = connected(&mut proxy, 5000, 1);
    let fin = SegmentBuilder { flags: Flags::FIN, ..first };
    let sent = sends(&mut engine_since(before, LIFE), &fin.build());
    assert!(shape(&sent).iter().any(|(flags, port)| flags.fin() && *port == 5000), "{:?}", shape(&sent));
    // Of an earlier daemon it may be another one, which has part of a response.
    let sent = sends_at(&mut engine_of(LIFE + 1), later(20_000), &fin.build());
    assert_eq!(shape(&sent), [(Flags::RST.union(Flags::ACK), 5000)]);
}

/// The forger knows the client's address, not its numbers: the SYN is the daemon's, which answers it.
#[test]
fn a_forged_syn_before_the_first_data_changes_nothing() {
    let Some(mut proxy) = Proxy::up("ci") else { return };
    proxy.answer_for(Duration::from_secs(100));
    for (number, ahead) in [None, Some(1), Some(1 << 30), Some(3 << 30)].into_iter().enumerate() {
        let port = 5000 + number as u16;
        let first = connected(&mut proxy, port, 1);
        let forged = SegmentBuilder {
            timestamps: ahead.map(|ahead: u32| (first.timestamps.unwrap().0.wrapping_add(ahead), 0)),
            ..syn(port, 77, OFFER)
        };
        assert_eq!(shape(&sends(&mut proxy.engine, &forged.build())), [(Flags::SYN.union(Flags::ACK), port)]);
        let sent = sends(&mut proxy.engine, &request(&first));
        assert_eq!(shape(&sent), CONNECTS, "its clock is ahead by {ahead:?}");
    }
}

/// It is not the client's first data, which was lost, but the answer to the daemon's answer to the forger.
#[test]
fn a_forged_syn_while_the_first_data_is_lost_changes_nothing() {
    let Some(mut proxy) = Proxy::up("ck") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    let forged = SegmentBuilder { timestamps: None, ..syn(5000, 77, OFFER) };
    assert_eq!(shape(&sends(&mut proxy.engine, &forged.build())), [(Flags::SYN.union(Flags::ACK), 5000)]);
    let challenge = SegmentBuilder { seq: first.seq + REQUEST.len() as u32, ..first.clone() };
    assert!(sends(&mut proxy.engine, &challenge.build()).is_empty());
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
}

/// The client refuses the answer to it, and its own handshake is of the same millisecond.
#[test]
fn the_end_of_a_forged_handshake_is_not_that_of_the_clients() {
    let Some(mut proxy) = Proxy::up("co") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    let forged = SegmentBuilder { timestamps: None, ..syn(5000, 77, OFFER) };
    sends(&mut proxy.engine, &forged.build());
    let refusal = SegmentBuilder { seq: forged.seq + 1, flags: Flags::RST, syn: None, ..forged };
    sends(&mut proxy.engine, &refusal.build());
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
}

/// Its request has been executed.
#[test]
fn a_late_copy_of_an_ended_connections_request_is_refused() {
    let Some(mut proxy) = Proxy::up("ce") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
    let reset = SegmentBuilder { flags: Flags::RST, ack: None, ..first.clone() };
    sends_at(&mut proxy.engine, later(5), &reset.build());
    assert_eq!(proxy.engine.status().total, 0);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(500), &request(&first))), [(Flags::RST, 5000)]);
    std::thread::sleep(Duration::from_millis(10));
    let again = connected(&mut proxy, 5000, 2);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(600), &request(&again))), CONNECTS);
}

/// While a client's packets are queued the program answers none of its SYNs: what looks like a handshake of that time is a segment in
/// mid-stream, whose numbers fit by chance.
#[test]
fn nothing_begins_with_a_handshake_of_a_recoverys_time() {
    let Some(mut proxy) = Proxy::up("cj") else { return };
    let config = format!("{CONFIG}[splice]\npath = \"userspace\"\n");
    proxy.engine = engine_with(&config, now(), LIFE);
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
    let flow = Flow { client: first.source, backend: "10.0.2.2:80".parse().unwrap() };
    let syn_ack = SegmentBuilder {
        ack: Some(first.seq),
        flags: Flags::SYN,
        window: 64_000,
        syn: Some(OFFER),
        timestamps: Some((1, first.timestamps.unwrap().0)),
        ..SegmentBuilder::new(flow.backend, flow.client)
    };
    sends(&mut proxy.engine, &syn_ack.build());
    proxy.engine.handle_order(now(), recovery(flow, first.seq));
    let second = connected(&mut proxy, 5000, 2);
    std::thread::sleep(Duration::from_millis(5));
    proxy.engine.handle_reset(now(), flow, None);
    while proxy.engine.poll_action().is_some() {}
    assert_eq!(proxy.engine.status().total, 0);
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&second))), [(Flags::RST, 5000)]);
    let again = connected(&mut proxy, 5000, 3);
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&again))), CONNECTS);
}

/// To the same backend, which has answered nothing yet.
fn recovery(flow: Flow, first: Seq) -> RecoveryOrder {
    let end = first + REQUEST.len() as u32;
    RecoveryOrder {
        id: 1,
        flow,
        alternate: flow.backend,
        options: None,
        client_window: ClientWindow { now: 64_000, most: 64_000 },
        client_next: end.0,
        client_known: end.0,
        client_fin: false,
        replayed: Vec::new(),
        replay: REQUEST.to_vec(),
        rest: None,
        resend_from: 1,
        resend: Vec::new(),
        take_in: TakeIn::Nothing,
        beyond: Vec::new(),
        left_out: 0,
    }
}

/// The client has forgotten the connection, the proxy has not: it is still waiting for the backend.
#[test]
fn another_handshake_takes_the_place_of_a_set_up() {
    let Some(mut proxy) = Proxy::up("cf") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let first = connected(&mut proxy, 5000, 1);
    assert_eq!(shape(&sends(&mut proxy.engine, &request(&first))), CONNECTS);
    let second = connected(&mut proxy, 5000, 2);
    let sent = sends(&mut proxy.engine, &request(&second));
    let [reset, connect] = &shape(&sent)[..] else { panic!("{:?}", shape(&sent)) };
    assert!(reset.0.rst() && reset.1 == 80 && *connect == CONNECTS[0]);
    let syn = TcpSegment::parse(&sent[1]).unwrap();
    assert_eq!((syn.seq(), proxy.engine.status().total), (second.seq - 1, 1));
    // What is left of the first is answered, not executed.
    assert!(shape(&sends(&mut proxy.engine, &request(&first))).iter().all(|(_, port)| *port == 5000));
    assert_eq!(proxy.engine.status().total, 1);
}
