//! Attackers who know a connection's addresses and ports, but not its numbers (RFC 5961): in set-up, spliced in user space,
//! recovering, answered.

use std::time::Duration;

use cluster::config::SplicePath;
use cluster::control::{ClientWindow, Flow, RecoveryOrder, TakeIn};
use nfq_splice::{EntryState, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};

use crate::proxy::{ISN, Proxy, REQUEST, SYN_ACK, Sent, backend, client, data, sent_of, syn};

/// The backend's initial sequence number.
const BACKEND: Seq = Seq(1000);
const R: u32 = REQUEST.len() as u32;
/// Behind the response's first bytes, `b"HTTP/1.1 "`.
const P: u32 = 9;

fn from_backend(offset: u32, payload: &[u8]) -> SegmentBuilder<'_> {
    SegmentBuilder {
        seq: BACKEND + 1 + offset,
        ack: Some(ISN + 1 + R),
        window: 50_000,
        payload,
        ..SegmentBuilder::new(backend(11), client(1))
    }
}

/// A connection that the proxy translates itself: the request delivered, nine bytes of the response with the client.
struct Spliced {
    proxy: Proxy,
    iss: Seq,
}

impl Spliced {
    fn new() -> Self {
        Self::on(SplicePath::Userspace)
    }

    fn on(path: SplicePath) -> Self {
        let mut proxy = Proxy::with(|settings| {
            settings.splice.path = path;
            settings.splice.window_scale = 0;
        });
        let iss = proxy.establish(1);
        proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
        let syn = SynOptions { window_scale: Some(0), mss: Some(1460), ..SynOptions::default() };
        let syn_ack = SegmentBuilder {
            seq: BACKEND,
            ack: Some(ISN + 1),
            flags: Flags::SYN,
            syn: Some(syn),
            ..from_backend(0, b"")
        };
        assert_eq!(proxy.receive(&syn_ack)[0].payload, REQUEST);
        let mut spliced = Self { proxy, iss };
        if path == SplicePath::Kernel {
            return spliced;
        }
        let first = spliced.passes(&from_backend(0, b"HTTP/1.1 "));
        assert_eq!((first.unwrap().seq, spliced.passes(&spliced.client(0, b"")).is_some()), (iss + 1, true));
        spliced
    }

    /// The client's bytes behind its request.
    fn client<'a>(&self, offset: u32, payload: &'a [u8]) -> SegmentBuilder<'a> {
        SegmentBuilder { ack: Some(self.iss + 1 + P), ..data(1, R.wrapping_add(offset), payload) }
    }

    /// The segment as it goes on, translated.
    fn passes(&mut self, segment: &SegmentBuilder<'_>) -> Option<Sent> {
        let mut packet = segment.build();
        let verdict = self.proxy.engine.handle_packet(self.proxy.now, &mut packet, Stage::Raw);
        (verdict == Verdict::Rewritten).then(|| sent_of(&TcpSegment::parse(&packet).unwrap()))
    }

    /// Dropped; what the proxy answered.
    fn is_answered(&mut self, segment: &SegmentBuilder<'_>) -> Vec<Sent> {
        assert_eq!(self.passes(segment), None, "{segment:?}");
        self.proxy.drain()
    }

    /// Still as it was, after any time.
    fn is_alive(&mut self) {
        self.proxy.pass(Duration::from_secs(600));
        let sent = self.passes(&self.client(0, b"next")).unwrap();
        assert_eq!((sent.to, sent.seq, sent.ack), (backend(11), ISN + 1 + R, BACKEND + 1 + P));
        assert!(self.passes(&from_backend(P, b"200 OK")).is_some());
    }
}

/// What RFC 5961 §4 and §5 call a challenge: the exact numbers of both sides.
fn challenge(sent: &[Sent]) -> Option<(Flags, Seq, Seq)> {
    sent.first().map(|sent| (sent.flags, sent.seq, sent.ack))
}

#[test]
fn spliced_rst_outside_the_window_is_ignored() {
    let mut spliced = Spliced::new();
    for seq in [ISN + R, ISN + 1 + R + 50_001, ISN - 100_000, ISN + (1 << 30)] {
        let forged = SegmentBuilder { seq, flags: Flags::RST, ..spliced.client(0, b"") };
        assert_eq!(spliced.is_answered(&forged), []);
    }
    assert_eq!(spliced.proxy.counter("rst_outside_window_dropped"), 4);
    spliced.is_alive();
}

#[test]
fn spliced_rst_inside_the_window_is_left_to_the_backend_and_ends_nothing_here() {
    let mut spliced = Spliced::new();
    let forged = SegmentBuilder { flags: Flags::RST, ..spliced.client(20_000, b"") };
    assert!(spliced.passes(&forged).is_some_and(|sent| sent.flags.rst()));
    spliced.is_alive();
}

#[test]
fn spliced_rst_that_is_exact_ends_the_connection() {
    let mut spliced = Spliced::new();
    let reset = SegmentBuilder { flags: Flags::RST, ..spliced.client(0, b"") };
    assert!(spliced.passes(&reset).is_some_and(|sent| sent.flags.rst() && sent.seq == ISN + 1 + R));
    spliced.proxy.pass(Duration::from_secs(30));
    assert_eq!(spliced.proxy.connections(), 0);
}

/// What the fast path translates in the proxy's place is known by its record, which forged segments may have got into.
#[test]
fn spliced_what_went_past_counts_but_for_what_the_client_cannot_have_sent() {
    let mut spliced = Spliced::new();
    let now = spliced.proxy.now;
    let later = SegmentBuilder {
        ack: Some(spliced.iss + 1 + P + 100_000),
        flags: Flags::ACK,
        ..spliced.client(0, b"")
    };
    assert_eq!(spliced.is_answered(&later).len(), 1, "acknowledges what was never sent");
    spliced.proxy.engine.handle_passed(now, &from_backend(P + 100_000, b"").build());
    let forged = spliced.client(1 << 30, b"");
    spliced.proxy.engine.handle_passed(now, &forged.build());
    assert!(spliced.passes(&later).is_some());
    let reset = SegmentBuilder { flags: Flags::RST, ..spliced.client(40_000, b"") };
    assert!(spliced.passes(&reset).is_some(), "the backend judges it");
    spliced.proxy.pass(Duration::from_secs(30));
    assert_eq!(spliced.proxy.connections(), 1);
    spliced.proxy.engine.handle_passed(now, &spliced.client(40_000, b"").build());
    assert!(spliced.passes(&reset).is_some());
    spliced.proxy.pass(Duration::from_secs(30));
    assert_eq!(spliced.proxy.connections(), 0, "it was exact");
}

#[test]
fn spliced_blind_data_is_dropped_and_acknowledged() {
    let mut spliced = Spliced::new();
    for offset in [50_001, 1 << 30, 0u32.wrapping_sub(200_000)] {
        let sent = spliced.is_answered(&spliced.client(offset, b"evil"));
        assert_eq!(challenge(&sent), Some((Flags::ACK, spliced.iss + 1 + P, ISN + 1 + R)));
        assert!(sent[0].window > 0);
    }
    assert_eq!(spliced.proxy.counter("outside_window_dropped"), 3);
    spliced.is_alive();
}

/// ACK outside [SND.UNA − MAX.WND, SND.NXT]; the client's largest window is 60,000 << 7 here.
#[test]
fn spliced_data_or_ack_from_nowhere_is_dropped_and_acknowledged() {
    let mut spliced = Spliced::new();
    let una = spliced.iss + 1 + P;
    for ack in [una + 1, una + (1 << 31), una - (60_000 << 7) - 1] {
        for payload in [&b""[..], b"evil"] {
            let sent = spliced.is_answered(&SegmentBuilder { ack: Some(ack), ..spliced.client(0, payload) });
            assert_eq!(challenge(&sent), Some((Flags::ACK, una, ISN + 1 + R)), "{ack:?}");
        }
    }
    assert_eq!(spliced.proxy.counter("wrong_ack_dropped"), 6);
    let no_ack = SegmentBuilder { ack: None, flags: Flags::PSH, ..spliced.client(0, b"evil") };
    assert_eq!(spliced.is_answered(&no_ack), []);
    let oldest = SegmentBuilder { ack: Some(una - (60_000 << 7)), ..spliced.client(0, b"") };
    assert!(spliced.passes(&oldest).is_some(), "still within the largest window");
    spliced.is_alive();
}

#[test]
fn spliced_segments_that_are_only_old_reach_the_backend() {
    let mut spliced = Spliced::new();
    for (offset, payload) in [(0_u32.wrapping_sub(1), &b""[..]), (0_u32.wrapping_sub(R), REQUEST), (0, b"x")]
    {
        assert!(spliced.passes(&spliced.client(offset, payload)).is_some(), "keep-alive, repetition, probe");
    }
}

#[test]
fn spliced_syn_on_an_open_connection_is_challenged() {
    let mut spliced = Spliced::new();
    for seq in [ISN, ISN + 1 + R, Seq(5), ISN + (1 << 31)] {
        for flags in [Flags::SYN, SYN_ACK] {
            let ack = flags.ack().then_some(spliced.iss + 1 + P);
            let sent = spliced.is_answered(&SegmentBuilder { seq, flags, ack, ..syn(1) });
            assert_eq!(challenge(&sent), Some((Flags::ACK, spliced.iss + 1 + P, ISN + 1 + R)));
        }
    }
    spliced.is_alive();
}

/// The kernel keeps no account of the numbers; the backend does, and acknowledges what lies outside its window with them.
#[test]
fn kernel_spliced_syn_on_an_open_connection_is_challenged_by_the_backend() {
    let mut spliced = Spliced::on(SplicePath::Kernel);
    let packet = SegmentBuilder { seq: Seq(5), ..syn(1) }.build();
    assert_eq!(spliced.proxy.receive_bytes(packet.clone()), [], "the kernel is asked first");
    let now = spliced.proxy.now;
    spliced.proxy.engine.handle_entry_state(now, client(1), EntryState::Open, &packet);
    let sent = spliced.proxy.drain();
    let probe = sent.iter().map(|sent| (sent.to, sent.flags, sent.seq, sent.ack)).collect::<Vec<_>>();
    assert_eq!(probe, [(backend(11), Flags::ACK, Seq(5), BACKEND + 1)]);
    spliced.proxy.engine.handle_entry_state(now, client(1), EntryState::Closed, &packet);
    assert_eq!(spliced.proxy.drain()[0].flags, SYN_ACK, "in TIME-WAIT");
}

#[test]
fn spliced_syn_in_time_wait_with_a_larger_number_opens_a_new_connection() {
    let mut spliced = Spliced::new();
    let fin = SegmentBuilder { flags: Flags::FIN, ..spliced.client(0, b"") };
    assert!(spliced.passes(&fin).is_some());
    let fin = SegmentBuilder { flags: Flags::FIN, ..from_backend(P, b"") };
    assert!(spliced.passes(&fin).is_some());
    let closing = spliced.is_answered(&SegmentBuilder { seq: ISN + 70_000, ..syn(1) });
    assert_eq!(closing[0].flags, Flags::ACK, "its last bytes may be missing");
    let acked = SegmentBuilder { ack: Some(ISN + 1 + R + 1), ..from_backend(P + 1, b"") };
    assert!(spliced.passes(&acked).is_some());
    let acked = SegmentBuilder { ack: Some(spliced.iss + 1 + P + 1), ..spliced.client(1, b"") };
    assert!(spliced.passes(&acked).is_some());
    let old = spliced.is_answered(&SegmentBuilder { seq: ISN + R, ..syn(1) });
    assert_eq!(old[0].flags, Flags::ACK, "an old duplicate");
    let new = spliced.is_answered(&SegmentBuilder { seq: ISN + 70_000, ..syn(1) });
    assert_eq!((new[0].flags, new[0].ack), (SYN_ACK, ISN + 70_001));
}

#[test]
fn spliced_nonsense_is_dropped() {
    let mut spliced = Spliced::new();
    for flags in [Flags(0), Flags::SYN.union(Flags::FIN), Flags::SYN.union(Flags::RST), Flags::FIN] {
        let forged = SegmentBuilder { flags, ack: None, ..spliced.client(0, b"") };
        assert_eq!(spliced.is_answered(&forged), []);
    }
    spliced.is_alive();
}

/// The backend failed after nine bytes; the alternate is being connected to.
fn recovering() -> Spliced {
    let mut spliced = Spliced::new();
    let order = RecoveryOrder {
        id: 1,
        flow: Flow { client: client(1), backend: backend(11) },
        alternate: backend(12),
        options: None,
        client_next: (ISN + 1 + R).0,
        client_known: (ISN + 1 + R).0,
        client_fin: false,
        rest: None,
        replay: REQUEST.to_vec(),
        resend_from: (BACKEND + 1 + P).0,
        resend: Vec::new(),
        replayed: Vec::new(),
        take_in: TakeIn::Nothing,
        beyond: Vec::new(),
        left_out: 0,
        client_window: ClientWindow::default(),
    };
    spliced.proxy.engine.handle_order(spliced.proxy.now, order);
    assert!(spliced.proxy.drain().iter().any(|sent| (sent.to, sent.flags) == (backend(12), Flags::SYN)));
    spliced
}

#[test]
fn recovering_resets_count_only_where_they_are_exact() {
    // Offset from S; whether it ends the connection, whether it is challenged.
    for (offset, ends, challenged) in
        [(0, true, false), (1, false, true), (300_000, false, false), (-1, false, false)]
    {
        let mut spliced = recovering();
        let forged = SegmentBuilder { flags: Flags::RST, ..spliced.client(offset as u32, b"") };
        let sent = spliced.is_answered(&forged);
        assert_eq!(spliced.proxy.connections(), u64::from(!ends), "{offset}");
        let exact = (Flags::ACK, spliced.iss + 1 + P, ISN + 1 + R);
        let to_client = sent.into_iter().filter(|sent| sent.to == client(1)).collect::<Vec<_>>();
        assert_eq!(challenge(&to_client), challenged.then_some(exact), "{offset}");
    }
}

#[test]
fn recovering_blind_data_is_not_held() {
    let mut spliced = recovering();
    for offset in [300_000, 1 << 30] {
        let sent = spliced.is_answered(&spliced.client(offset, b"evil"));
        assert_eq!(challenge(&sent), Some((Flags::ACK, spliced.iss + 1 + P, ISN + 1 + R)));
    }
    let sent = spliced
        .is_answered(&SegmentBuilder { ack: Some(spliced.iss + (1 << 30)), ..spliced.client(0, b"evil") });
    assert_eq!(sent.len(), 1);
    assert_eq!(spliced.is_answered(&spliced.client(0, b"held")), []);
    let syn_ack = SegmentBuilder {
        seq: Seq(7),
        ack: Some(ISN + 1),
        flags: Flags::SYN,
        window: 50_000,
        ..SegmentBuilder::new(backend(12), client(1))
    };
    let sent = spliced.is_answered(&syn_ack);
    let bytes: Vec<u8> =
        sent.iter().filter(|sent| sent.to == backend(12)).flat_map(|sent| sent.payload.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&[REQUEST, b"held"].concat()));
}

#[test]
fn recovering_syn_is_challenged() {
    let mut spliced = recovering();
    let sent = spliced.is_answered(&SegmentBuilder { seq: Seq(5), ..syn(1) });
    assert_eq!(challenge(&sent), Some((Flags::ACK, spliced.iss + 1 + P, ISN + 1 + R)));
}

#[test]
fn set_up_blind_data_and_acks_are_dropped_and_acknowledged() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    for (offset, ack) in
        [(30_000, iss + 1), (1 << 30, iss + 1), (0, iss + 2), (0, iss + (1 << 30)), (0, iss - (60_000 << 7))]
    {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(ack), ..data(1, offset, REQUEST) });
        assert_eq!(challenge(&sent), Some((Flags::ACK, iss + 1, ISN + 1)), "{offset} {ack:?}");
    }
    assert_eq!((proxy.counter("outside_window_dropped"), proxy.counter("wrong_ack_dropped")), (2, 3));
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!((sent[0].to, sent[0].flags), (backend(11), Flags::SYN));
}

/// A forged TSval would be echoed, and given to the backend: PAWS would then drop the client's true segments.
#[test]
fn forged_timestamps_and_windows_are_not_learnt() {
    let mut proxy = Proxy::new();
    let answer = proxy.receive(&SegmentBuilder { timestamps: Some((100, 0)), ..syn(1) }).remove(0);
    let (iss, clock) = (answer.seq, answer.options.timestamp.unwrap());
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), timestamps: Some((101, clock)), ..data(1, 0, b"") });
    let forged =
        SegmentBuilder { ack: Some(iss + 99), timestamps: Some((1 << 30, clock)), ..data(1, 0, b"") };
    proxy.receive(&forged);
    let request =
        SegmentBuilder { ack: Some(iss + 1), timestamps: Some((102, clock)), ..data(1, 0, REQUEST) };
    assert_eq!(proxy.receive(&request)[0].options.timestamp, Some(102));
}

#[test]
fn challenges_are_rationed() {
    let mut spliced = Spliced::new();
    let forged = spliced.client(1 << 30, b"evil");
    let answered: usize = (0..5000).map(|_| spliced.is_answered(&forged).len()).sum();
    assert!((1..1000).contains(&answered), "{answered}");
    assert_eq!(spliced.proxy.counter("challenge_rationed"), 5000 - answered as u64);
}
