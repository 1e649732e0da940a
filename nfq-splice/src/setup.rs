//! From the SYN to a request that can be routed (design §3, steps 1 and 2).
//!
//! A head that comes whole is not acknowledged: the client owns its bytes until the backend acknowledges them. An
//! incomplete head is acknowledged, because a client with Nagle's algorithm would otherwise never send the rest;
//! then the proxy keeps the bytes and owes them to the backend.

use std::time::Duration;

use cluster::control::Client;
use packet::{Flags, Reassembly, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

use crate::common::Core;
use crate::cookie::{self, Answer, Handshake, Maker};
use crate::ecn::Ecn;
use crate::flow::{Flow, Repeat, Setup, State};
use crate::leg::ClientLeg;

/// Receive window before the splice, bytes. No more than any backend will offer, so that it never shrinks (SHLD-14).
pub const SETUP_WINDOW: u32 = 28_960;
/// Pieces of a request beyond a gap that are kept: more than a client with whole segments has under way, and few enough that
/// tiny ones do not cost more than their bytes.
const MAX_GAPS: usize = 64;
/// First distance of repeated SYN-ACKs (RFC 6298 §2.1).
const SYN_ACK_TIMEOUT: Duration = Duration::from_secs(1);

impl Repeat {
    /// The first repetition is due after `first`.
    pub(crate) fn after(now: Time, first: Duration) -> Self {
        Self { at: now + first, tries: 1 }
    }

    /// Due again after twice the time.
    pub(crate) fn again(self, now: Time, first: Duration) -> Self {
        Self { at: now + first * 2_u32.saturating_pow(self.tries.min(6)), tries: self.tries + 1 }
    }
}

impl Setup {
    /// A segment that differs from what came before: whoever sent it, the first copy counts (RFC 9293 §3.10).
    fn contradicts(&self, segment: &TcpSegment<'_>) -> bool {
        let offset = segment.seq().since(self.irs + 1);
        let known = self.request.get(offset.max(0) as usize..).unwrap_or_default();
        let again = segment.payload().get((-offset).max(0) as usize..).unwrap_or_default();
        known.iter().zip(again).any(|(known, again)| known != again)
    }

    /// A head ends with a line, and parsing begins anew: byte by byte its cost would grow with the square of its length.
    /// Now and then also without a line end, to refuse early what is no request.
    fn is_worth_parsing(&self, max_head: usize) -> bool {
        let new = self.request.get(self.parsed..).unwrap_or_default();
        new.contains(&b'\n') || self.request.len() >= (2 * self.parsed).min(max_head)
    }
}

impl Core {
    pub(crate) fn client_leg(&self, client: Client, options: SynOptions) -> ClientLeg {
        let clock_offset = self.secret.timestamp_offset(client).wrapping_add(self.secret.lead());
        ClientLeg {
            client,
            service: self.settings.service,
            options,
            announced_scale: if options.window_scale.is_some() { self.scale() } else { 0 },
            clock_offset,
            clock_floor: clock_offset.wrapping_add(self.now.as_millis() as u32),
            announced_mss: self.most_announced_mss(),
            odd_places: false,
            ecn: Ecn::NotAsked,
            ts_recent: options.timestamp.unwrap_or(0),
            acked: Seq(0),
            window: None,
            max_window: 0,
        }
    }

    /// Answers a SYN. Data on it is not taken (no Fast Open): the client repeats it.
    pub(crate) fn accept(&mut self, segment: &TcpSegment<'_>) -> Flow {
        self.counters.count("syn_accepted");
        let mut flow = self.begin(segment);
        flow.leg.ecn = self.judge_ecn(segment);
        self.send_syn_ack(&flow);
        flow
    }

    /// What a SYN begins.
    pub(crate) fn begin(&self, segment: &TcpSegment<'_>) -> Flow {
        let (client, irs, options) = (segment.source(), segment.seq(), segment.syn_options());
        let answer = Answer { maker: Maker::Daemon, announced_scale: self.scale(), options };
        let iss = cookie::make(&self.secret, self.now, &Handshake { client, irs }, &answer);
        let mut flow = self.half_open_flow(client, options, irs, iss);
        flow.leg.announced_mss = self.announced_mss();
        flow
    }

    /// A connection whose SYN-ACK is not acknowledged yet.
    pub(crate) fn half_open_flow(&self, client: Client, options: SynOptions, irs: Seq, iss: Seq) -> Flow {
        let limit = self.settings.splice.request_head_timeout_ms;
        let setup = Setup {
            irs,
            iss,
            established: false,
            continued: false,
            request: Vec::new(),
            reassembly: Reassembly::new(irs + 1, SETUP_WINDOW as usize),
            parsed: 0,
            acknowledged: 0,
            head_deadline: self.now + Duration::from_millis(limit),
            repeat: Some(Repeat::after(self.now, SYN_ACK_TIMEOUT)),
            connect: None,
        };
        let leg = ClientLeg { acked: iss, ..self.client_leg(client, options) };
        Flow {
            leg,
            resplices: 0,
            suspended: false,
            parked: false,
            acted: 0,
            began: self.now.as_millis() as u32,
            state: State::Setup(Box::new(setup)),
            timer: None,
        }
    }

    /// Offers what the client offered, with our own MSS and window scale.
    pub(crate) fn send_syn_ack(&mut self, flow: &Flow) {
        let State::Setup(setup) = &flow.state else { return };
        let offered = flow.leg.options;
        let syn = SynOptions {
            mss: Some(flow.leg.announced_mss),
            window_scale: offered.window_scale.map(|_| flow.leg.announced_scale),
            ..offered
        };
        let bare = flow.leg.segment(self.now, setup.iss, setup.irs + 1, 0);
        let promised = flow.leg.ecn == Ecn::Promised;
        let flags = if promised { Flags::SYN.union(Flags::ECE) } else { Flags::SYN };
        self.send(SegmentBuilder { flags, window: SETUP_WINDOW as u16, syn: Some(syn), ..bare }.build());
    }

    /// A client's segment before there is a splice.
    pub(crate) fn handle_setup(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        flow.leg.odd_places |= segment.has_odd_places();
        let State::Setup(setup) = &mut flow.state else { return };
        let flags = segment.flags();
        if flags.rst() {
            if segment.seq() == setup.reassembly.next() || segment.seq() == setup.irs + 1 {
                self.counters.count("setup_reset_by_client");
                flow.state = State::Gone;
                return;
            }
            let next = setup.reassembly.next();
            return self.challenge_reset(flow, segment, next, SETUP_WINDOW);
        }
        if !setup.established {
            if !flags.ack() || segment.ack() != setup.iss + 1 {
                // The SYN may be a forger's, and this of the client whose handshake the program has conducted.
                if self.handle_early(segment) {
                    return;
                }
                self.counters.count("setup_wrong_ack_refused");
                return self.refuse(segment);
            }
            setup.establish();
            if let Some((_, told)) = segment.timestamps() {
                flow.leg.note_answer_taken(self.now, told);
            }
        }
        self.take_request(flow, segment);
        let State::Setup(setup) = &mut flow.state else { return };
        let end = segment.seq() + segment.payload().len() as u32;
        let fin_here = flags.fin() && end == setup.reassembly.next();
        if setup.connect.is_none() {
            if !(fin_here && setup.request.is_empty()) {
                self.route(flow, segment);
            }
            self.handle_setup_fin(flow, fin_here);
        }
    }

    /// Keeps what came of the request, within the bound of one client and that of all.
    fn take_request(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Setup(setup) = &mut flow.state else { return };
        // One window beyond the longest head: enough to see that it is too long.
        let limit = self.settings.splice.request_head_bytes + SETUP_WINDOW as usize;
        let all = self.setup_bytes + setup.kept() + segment.payload().len();
        if all > self.settings.splice.setup_bytes {
            self.counters.count("setup_bytes_limit_refused");
            if setup.connect.is_none() {
                self.answer_no_request(flow, 503, "too many requests are arriving at once");
            }
            return;
        }
        if setup.kept() >= limit {
            return self.counters.count("request_bytes_limit_dropped");
        }
        if segment.seq() != setup.reassembly.next() && setup.reassembly.pieces().count() >= MAX_GAPS {
            return self.counters.count("request_pieces_limit_dropped");
        }
        let mut conflict = setup.contradicts(segment);
        let Setup { request, reassembly, .. } = &mut **setup;
        let mut deliver = |bytes: &[u8]| request.extend_from_slice(bytes);
        conflict |= reassembly.push(segment.seq(), segment.payload(), &mut deliver).conflict;
        if conflict {
            self.counters.count("overlap_conflict_first_copy_kept");
        }
    }

    /// A client that closes with a whole request waits for its answer; a backend gets the FIN from the client again.
    fn handle_setup_fin(&mut self, flow: &mut Flow, fin: bool) {
        match &flow.state {
            _ if !fin => {}
            State::Setup(setup) if setup.connect.is_none() && setup.request.is_empty() => {
                self.close(flow);
                self.take_fin(flow);
            }
            State::Setup(setup) if setup.connect.is_none() => {
                self.answer_no_request(flow, 400, "the request is incomplete");
                self.take_fin(flow);
            }
            _ => self.take_fin(flow),
        }
    }

    /// Sees whether the request can be routed yet.
    fn route(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        if !self.settings.http {
            // The server may be the one to speak first.
            return self.connect(flow, None, Vec::new());
        }
        let State::Setup(setup) = &mut flow.state else { return };
        if setup.request.is_empty() {
            return self.acknowledge_head(flow, segment);
        }
        let max_head = self.settings.splice.request_head_bytes;
        if !setup.is_worth_parsing(max_head) {
            return self.acknowledge_head(flow, segment);
        }
        setup.parsed = setup.request.len();
        match http1::parse_request(&setup.request, max_head) {
            Ok(Some(head)) => self.connect(flow, Some(&head), Vec::new()),
            Ok(None) => self.acknowledge_head(flow, segment),
            Err(refusal) => self.answer_no_request(flow, refusal.status, &refusal.to_string()),
        }
    }

    /// Also what has been acknowledged before: the acknowledgement may have been lost, or the segment is a probe.
    fn acknowledge_head(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Setup(setup) = &mut flow.state else { return };
        let repeated = segment.seq().before(setup.reassembly.next()) || segment.sequence_length() > 0;
        if repeated || setup.acknowledged < setup.request.len() {
            setup.acknowledged = setup.request.len();
            // As long as nothing has been taken, another daemon may go on from what the client echoes: the answer to its SYN.
            if setup.acknowledged > 0 {
                flow.leg.note_told(self.now);
            }
            let (seq, ack) = (setup.iss + 1, setup.irs + 1 + setup.acknowledged as u32);
            self.send(flow.leg.segment_as_told(self.now, seq, ack, SETUP_WINDOW).build());
        }
    }

    pub(crate) fn handle_setup_timeout(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Setup(setup) = &mut flow.state else { return };
        if setup.connect.is_some() {
            return self.handle_connect_timeout(flow);
        }
        if now >= setup.head_deadline {
            let silent = setup.request.is_empty();
            self.counters.count("request_head_timeout");
            return if silent && !setup.established {
                flow.state = State::Gone;
            } else if silent {
                self.close(flow);
            } else {
                self.answer_no_request(flow, 408, "request head took too long");
            };
        }
        if let Some(repeat) = setup.repeat.filter(|repeat| now >= repeat.at) {
            setup.repeat = Some(repeat.again(now, SYN_ACK_TIMEOUT));
            self.counters.count("syn_ack_repeated");
            flow.leg.note_told(now);
            self.send_syn_ack(flow);
        }
    }
}
