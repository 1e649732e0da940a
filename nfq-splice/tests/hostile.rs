//! What strangers and odd clients send before a connection is spliced, and what the proxy answers.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use nfq_splice::{Action, Engine, Secret, Settings, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};
use proptest::prelude::*;

const CONFIG: &str = r#"
[cluster]
name = "hostile"
[service]
address = "203.0.113.80:80"
[[route]]
path_prefix = "/known"
pool = "web"
[pool.web]
backends = ["b1", "b2"]
[backend.b1]
address = "10.0.1.11:80"
[backend.b2]
address = "10.0.1.12:80"
[proxy.p1]
address = "10.0.2.2"
[logger.l1]
control = "10.0.2.1:7070"
[splice]
half_open = 3
request_head_bytes = 1024
request_head_timeout_ms = 10000
"#;

const ISN: Seq = Seq(u32::MAX - 3);
const WINDOW: u16 = 60_000;
const REQUEST: &[u8] = b"GET /known HTTP/1.1\r\nHost: a\r\n\r\n";

fn service() -> SocketAddr {
    "203.0.113.80:80".parse().unwrap()
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new("192.0.2.7".parse().unwrap(), port)
}

fn backend(last: u8) -> SocketAddr {
    SocketAddr::new([10, 0, 1, last].into(), 80)
}

/// What was sent, readable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    to: SocketAddr,
    flags: Flags,
    seq: Seq,
    ack: Seq,
    window: u16,
    payload: Vec<u8>,
    options: SynOptions,
}

struct Proxy {
    engine: Engine,
    now: Time,
}

impl Proxy {
    fn new() -> Self {
        let cluster = Cluster::parse(CONFIG, "hostile").unwrap();
        Self {
            engine: Engine::new(Settings::new(&cluster), Secret::new([7; 16])),
            now: Time::from_millis(5000),
        }
    }

    fn drain(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(action) = self.engine.poll_action() {
            let Action::Send(bytes) = action else { continue };
            let segment = TcpSegment::parse(&bytes).unwrap();
            assert!(segment.checksums_valid());
            sent.push(Sent {
                to: segment.destination(),
                flags: segment.flags(),
                seq: segment.seq(),
                ack: segment.ack(),
                window: segment.window(),
                payload: segment.payload().to_vec(),
                options: segment.syn_options(),
            });
        }
        sent
    }

    fn receive(&mut self, segment: &SegmentBuilder<'_>) -> Vec<Sent> {
        let mut packet = segment.build();
        assert_eq!(self.engine.handle_packet(self.now, &mut packet, Stage::Tracked), Verdict::Drop);
        self.drain()
    }

    /// Nothing happens for `time` but timers.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            sent.extend(self.drain());
        }
        self.now = end;
        sent
    }

    fn counter(&self, name: &str) -> u64 {
        self.engine.status().counters.get(name).copied().unwrap_or(0)
    }

    fn connections(&self) -> u64 {
        self.engine.status().total
    }

    /// Handshake done; the proxy's initial sequence number.
    fn establish(&mut self, port: u16) -> Seq {
        let answers = self.receive(&syn(port));
        let iss = answers[0].seq;
        assert!(self.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(port, 0, b"") }).is_empty());
        iss
    }
}

fn syn(port: u16) -> SegmentBuilder<'static> {
    SegmentBuilder {
        seq: ISN,
        flags: Flags::SYN,
        window: WINDOW,
        syn: Some(SynOptions { mss: Some(1400), window_scale: Some(7), ..SynOptions::default() }),
        ..SegmentBuilder::new(client(port), service())
    }
}

/// The client's bytes from `offset` on, without an acknowledgement yet.
fn data(port: u16, offset: u32, payload: &[u8]) -> SegmentBuilder<'_> {
    SegmentBuilder {
        seq: ISN + 1 + offset,
        window: WINDOW,
        payload,
        ..SegmentBuilder::new(client(port), service())
    }
}

const RST_ACK: Flags = Flags::RST.union(Flags::ACK);
const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);

#[test]
fn data_on_a_syn_is_not_acknowledged() {
    let mut proxy = Proxy::new();
    let sent = proxy.receive(&SegmentBuilder { payload: REQUEST, ..syn(1) });
    assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, SYN_ACK, ISN + 1));
    let iss = sent[0].seq;
    let routed = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!((routed[0].to, routed[0].flags, routed[0].seq), (backend(11), Flags::SYN, ISN));
}

#[test]
fn nonsense_is_dropped_without_an_answer() {
    for flags in [
        Flags(0),
        Flags::FIN,
        Flags::PSH,
        Flags::URG,
        Flags::SYN.union(Flags::FIN),
        Flags::SYN.union(Flags::RST),
        Flags::FIN.union(Flags::PSH).union(Flags::URG),
        Flags(0x3f & !Flags::ACK.0),
    ] {
        let mut proxy = Proxy::new();
        let sent =
            proxy.receive(&SegmentBuilder { seq: ISN, flags, ..SegmentBuilder::new(client(1), service()) });
        assert_eq!((sent, proxy.connections()), (Vec::new(), 0), "{flags:?}");
    }
}

#[test]
fn an_acknowledgement_from_nowhere_is_reset_with_its_own_number_and_rationed() {
    let mut proxy = Proxy::new();
    let stray = SegmentBuilder { ack: Some(Seq(77)), ..data(1, 0, b"x") };
    let sent = proxy.receive(&stray);
    assert_eq!((sent.len(), sent[0].flags, sent[0].seq, sent[0].to), (1, Flags::RST, Seq(77), client(1)));
    let answered: usize = (0..5000).map(|_| proxy.receive(&stray).len()).sum();
    assert!(answered < 1000, "{answered} answers to strangers in no time");
    assert!(
        proxy.receive(&SegmentBuilder { flags: Flags::RST, ..stray }).is_empty(),
        "a reset is not answered"
    );
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_wrong_acknowledgement_in_the_handshake_is_reset_and_changes_nothing() {
    let mut proxy = Proxy::new();
    let iss = proxy.receive(&syn(1))[0].seq;
    for wrong in [iss, iss + 2, Seq(0), iss - 1] {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(wrong), ..data(1, 0, REQUEST) });
        assert_eq!((sent.len(), sent[0].flags, sent[0].seq), (1, Flags::RST, wrong));
    }
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!(sent[0].to, backend(11));
}

#[test]
fn a_reset_counts_only_where_it_is_exact() {
    // Offset from the next byte expected; whether it ends the connection; whether it is challenged (RFC 5961 §3.2).
    for (offset, ends, challenged) in [
        (0, true, false),
        (1, false, true),
        (20_000, false, true),
        (60_000, false, false),
        (-1, false, false),
    ] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let seq = ISN + 1 + offset as u32;
        let sent =
            proxy.receive(&SegmentBuilder { flags: Flags::RST, seq, ack: Some(iss + 1), ..data(1, 0, b"") });
        assert_eq!(proxy.connections(), u64::from(!ends), "reset at {offset}");
        let challenge = sent.first().map(|sent| (sent.flags, sent.seq, sent.ack));
        assert_eq!(challenge, challenged.then_some((Flags::ACK, iss + 1, ISN + 1)), "reset at {offset}");
    }
}

#[test]
fn a_repeated_syn_gets_the_same_answer_another_one_a_new_connection() {
    let mut proxy = Proxy::new();
    let first = proxy.receive(&syn(1));
    assert_eq!(proxy.receive(&syn(1)), first);
    proxy.now = proxy.now + Duration::from_millis(10);
    let other = proxy.receive(&SegmentBuilder { seq: Seq(9), ..syn(1) });
    assert_eq!((other[0].flags, other[0].ack, proxy.connections()), (SYN_ACK, Seq(10), 1));
}

#[test]
fn a_syn_on_an_established_connection_is_challenged_and_closes_no_window() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    for seq in [ISN, Seq(5), ISN + 1] {
        let sent = proxy.receive(&SegmentBuilder { seq, ..syn(1) });
        assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, Flags::ACK, ISN + 1));
        assert_eq!(sent[0].seq, iss + 1);
        assert!(sent[0].window > 0);
    }
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_syn_ack_is_repeated_then_the_client_forgotten() {
    let mut proxy = Proxy::new();
    proxy.receive(&syn(1));
    let sent = proxy.pass(Duration::from_secs(60));
    assert!((2..8).contains(&sent.len()) && sent.iter().all(|sent| sent.flags == SYN_ACK), "{sent:?}");
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn half_open_connections_are_bounded_and_counted() {
    let mut proxy = Proxy::new();
    for port in 1..=3 {
        assert_eq!(proxy.receive(&syn(port)).len(), 1);
    }
    for port in 4..100 {
        assert!(proxy.receive(&syn(port)).is_empty());
    }
    assert_eq!((proxy.counter("syn_dropped_half_open_limit"), proxy.connections()), (96, 3));
    assert_eq!(proxy.receive(&syn(2)).len(), 1, "who is in, is still answered");
    proxy.pass(Duration::from_secs(60));
    assert_eq!(proxy.receive(&syn(4)).len(), 1, "room again");
}

#[test]
fn options_of_a_syn_are_offered_back_as_far_as_they_were_offered() {
    let all = SynOptions { mss: Some(1400), window_scale: Some(15), sack_permitted: true, timestamp: None };
    for (offered, timestamps) in [(SynOptions::default(), None), (all, Some((5, 0)))] {
        let mut proxy = Proxy::new();
        let sent = proxy.receive(&SegmentBuilder { syn: Some(offered), timestamps, ..syn(1) });
        let answered = sent[0].options;
        assert_eq!(answered.window_scale.is_some(), offered.window_scale.is_some());
        assert_eq!(answered.sack_permitted, offered.sack_permitted);
        assert_eq!(answered.timestamp.is_some(), timestamps.is_some());
        let iss = sent[0].seq;
        let to_backend = proxy.receive(&SegmentBuilder {
            ack: Some(iss + 1),
            timestamps: timestamps.map(|_| (6, answered.timestamp.unwrap_or(0))),
            ..data(1, 0, REQUEST)
        });
        assert_eq!(to_backend[0].options.window_scale, offered.window_scale.map(|_| 14));
        assert_eq!(to_backend[0].options.mss, offered.mss);
    }
}

/// The status line of what the proxy answered, and whether it closed.
fn answer(sent: &[Sent]) -> (String, bool) {
    let mut pieces: Vec<&Sent> = sent.iter().filter(|sent| !sent.payload.is_empty()).collect();
    pieces.sort_by(|a, b| a.seq.since(b.seq).cmp(&0));
    let bytes: Vec<u8> = pieces.iter().flat_map(|sent| sent.payload.clone()).collect();
    let closes = sent.iter().any(|sent| sent.flags.fin());
    (String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned(), closes)
}

#[test]
fn bad_requests_are_answered_and_the_connection_closed() {
    let long = format!("GET /known HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1100));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(1100));
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n"[..], "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        (b"GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        (long.as_bytes(), "431"),
        (uri.as_bytes(), "414"),
    ] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, request) });
        let (line, closes) = answer(&sent);
        let shown = String::from_utf8_lossy(request);
        assert!(line.contains(status) && closes, "{status} expected, got {line:?} for {shown:?}");
        let end = sent.iter().map(|sent| sent.seq + sent.payload.len() as u32 + 1).next_back().unwrap();
        let fin = SegmentBuilder { flags: Flags::FIN, ack: Some(end), ..data(1, request.len() as u32, b"") };
        let last = proxy.receive(&fin);
        assert_eq!(last.last().map(|sent| sent.ack), Some(ISN + 2 + request.len() as u32));
        assert_eq!(proxy.connections(), 0, "{status}");
    }
}

#[test]
fn an_answer_is_repeated_then_the_client_is_reset() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, b"nonsense\r\n\r\n") });
    let sent = proxy.pass(Duration::from_secs(60));
    assert!(sent.len() >= 3, "{sent:?}");
    assert_eq!(sent.last().map(|sent| sent.flags), Some(RST_ACK));
    assert_eq!(proxy.connections(), 0);
}

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
fn a_slow_head_is_answered_408_a_silent_client_reset() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let mut sent = Vec::new();
    for (i, byte) in REQUEST.iter().enumerate().take(20) {
        sent.extend(proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, i as u32, &[*byte]) }));
        sent.extend(proxy.pass(Duration::from_secs(1)));
    }
    assert!(answer(&sent).0.contains("408"), "{sent:?}");

    proxy.establish(2);
    let sent = proxy.pass(Duration::from_secs(60));
    assert!(sent.iter().any(|sent| sent.to == client(2) && sent.flags == RST_ACK));
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_client_that_closes_before_its_request_is_reset_and_forgotten() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let sent = proxy.receive(&SegmentBuilder { flags: Flags::FIN, ack: Some(iss + 1), ..data(1, 0, b"") });
    assert_eq!(sent.last().map(|sent| sent.flags), Some(RST_ACK));
    assert_eq!(proxy.connections(), 0);
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
fn a_backend_without_a_connection_is_reset_a_foreign_host_ignored() {
    let mut proxy = Proxy::new();
    let stray = SegmentBuilder { ack: Some(Seq(4)), ..SegmentBuilder::new(backend(11), client(1)) };
    assert_eq!(
        proxy.receive(&stray).first().map(|sent| (sent.to, sent.flags)),
        Some((backend(11), Flags::RST))
    );
    let foreign = SegmentBuilder { ack: Some(Seq(4)), ..SegmentBuilder::new(backend(99), client(1)) };
    assert!(proxy.receive(&foreign).is_empty());
    assert_eq!(proxy.counter("foreign_dropped"), 1);
}

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
