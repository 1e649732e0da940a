//! Handshakes that the fast path's program has answered (`lib/netfilter/src/fast_path/handshake.rs`): this daemon sees neither SYN
//! nor the acknowledgement that completes the handshake. A connection begins with the client's first data, whose numbers prove that
//! it got the program's answer; until then it costs nothing, and so has no limit but the lifetime of its cookie. Who is silent for longer
//! is reset as soon as it speaks.
//!
//! Of such a client the time of its handshake is known, too: it echoes the timestamp of the answer, which only the
//! client of this address was told.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::control::Client;
use packet::{Seq, TcpSegment, Time};

use crate::common::Core;
use crate::cookie::{self, Answer, Handshake, LIFETIME, Maker};
use crate::engine::Engine;
use crate::flow::{Flow, Splice, State};
use crate::secret::LEAD_MILLIS;
use crate::setup::SETUP_WINDOW;

/// The first data of a client are repeated within this time, a few retransmission timeouts, if they were lost and later ones came.
const REPEATED: Duration = Duration::from_secs(3);
/// The time of a packet is that when its batch began to be received: the program may have answered later.
const LATER: Duration = Duration::from_millis(100);
/// Clients whose first data are waited for at most; further ones are refused.
const AWAITED: usize = 4096;

/// What a SYN is answered with, beside the client's own options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The MSS, bytes.
    pub mss: u16,
    /// The window scale.
    pub window_scale: u8,
}

/// What is known of the program's answers.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// What it promises, and since when.
    promise: Option<(Time, Promise)>,
    /// Clients whose later data came first.
    awaited: BTreeMap<Client, Awaited>,
}

/// What came of a client before its first data.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    since: Time,
    /// The least of its numbers.
    least: Seq,
}

impl Awaited {
    fn waits(&self, now: Time) -> bool {
        now < self.since + REPEATED
    }
}

impl Engine {
    /// What clients are to be told now.
    pub fn promise(&self) -> Promise {
        Promise { mss: self.core.announced_mss(), window_scale: self.core.scale() }
    }

    /// From now on the program answers so.
    pub fn handle_promised(&mut self, now: Time, promise: Promise) {
        self.core.stateless.answer_by_program(now);
        self.core.answered.promise = Some((now, promise));
    }
}

impl Core {
    /// Continues the handshake that the program answered, if the segment is the first after it.
    pub(crate) fn continue_answered(&mut self, segment: &TcpSegment<'_>) -> Option<Flow> {
        let flow = self.flow_answered(segment, segment.seq() - 1);
        let flow = flow.filter(|flow| self.may_begin_with(flow, segment) && !self.has_overtaken(segment))?;
        self.answered.awaited.remove(&segment.source());
        self.counters.count("answered_handshakes_continued");
        Some(flow)
    }

    /// It begins a connection in the place of this one, whose end went unnoticed: the client has got another answer.
    pub(crate) fn begin_anew(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let other = match &flow.state {
            State::Setup(setup) => segment.ack() != setup.iss + 1,
            State::Answering(answering) => answering.client_next.before(segment.seq()),
            // The program answers a SYN on one that it has to its end only behind that.
            State::Spliced(Splice { young: Some(young), .. }) => {
                young.displaced && young.first != Some(segment.seq())
            }
            State::Spliced(_) | State::Recovering(_) | State::Gone => false,
        };
        // A SYN whose answer nobody has acknowledged may be anybody's, and so may its clock.
        let unproved = flow.is_half_open();
        // Not what is left of an older one (RFC 7323 §5). Numbers behind the end may be of the same millisecond.
        let least = i32::from(!matches!(flow.state, State::Spliced(_)));
        let is_old =
            |(value, _): (u32, u32)| !unproved && (value.wrapping_sub(flow.leg.ts_recent) as i32) < least;
        if !other || segment.timestamps().is_none_or(is_old) {
            return;
        }
        let Some(new) = self.flow_answered(segment, segment.seq() - 1) else { return };
        self.counters.count("port_reused");
        if let State::Setup(setup) = &flow.state
            && let Some(connect) = &setup.connect
        {
            self.reset_backend(flow.leg.client, connect.backend, setup.irs + 1);
        }
        *flow = new;
    }

    /// What else a client sends whose handshake the program answered: probes while it is silent, and what overtakes its first
    /// data, which it will repeat. True: nothing more is to be done.
    pub(crate) fn handle_early(&mut self, segment: &TcpSegment<'_>) -> bool {
        if segment.sequence_length() <= 1
            && let Some(flow) = self.flow_answered(segment, segment.seq())
        {
            self.counters.count("answered_probe_acknowledged");
            self.acknowledge_client(&flow.leg, segment.ack(), segment.seq() + 1, SETUP_WINDOW);
            return true;
        }
        let waits = self.waits_for_first(segment);
        if waits {
            self.counters.count("unknown_client_segment_dropped");
        }
        waits
    }

    /// Data with lesser numbers have come, which were not the first either: this one's proof is by chance.
    fn has_overtaken(&self, segment: &TcpSegment<'_>) -> bool {
        let Some(awaited) = self.answered.awaited.get(&segment.source()) else { return false };
        awaited.waits(self.now)
            && awaited.least.before(segment.seq())
            && self.made(segment).is_some_and(|made| made <= awaited.since)
    }

    fn waits_for_first(&mut self, segment: &TcpSegment<'_>) -> bool {
        let (client, iss) = (segment.source(), segment.ack() - 1);
        let Some(made) = self.made(segment) else { return false };
        if !is_open(segment)
            || !self.stateless.takes_answered(self.now, client, made)
            || !cookie::may_be_good(&self.secret, self.now + LATER, client, iss)
        {
            return false;
        }
        let (now, awaited) = (self.now, &mut self.answered.awaited);
        if awaited.len() >= AWAITED {
            awaited.retain(|_, awaited| awaited.waits(now));
        }
        if awaited.len() >= AWAITED && !awaited.contains_key(&client) {
            return false;
        }
        let new = Awaited { since: now, least: segment.seq() };
        let known = awaited.entry(client).or_insert(new);
        if known.since < made {
            *known = new;
        }
        if segment.seq().before(known.least) {
            known.least = segment.seq();
        }
        known.waits(now)
    }

    /// When the answer was sent that this segment echoes, to a millisecond; `None`: too long ago, or never. One of an earlier
    /// daemon's program, whose clock was behind, seems to be older than it is.
    /// The program answers IPv4 only.
    fn made(&self, segment: &TcpSegment<'_>) -> Option<Time> {
        let (_, echo) = segment.timestamps().filter(|_| segment.source().is_ipv4())?;
        let millis = (self.now + LATER).as_millis();
        let offset = self.secret.timestamp_offset(segment.source()).wrapping_add(self.secret.lead());
        let age = u64::from((millis as u32).wrapping_add(offset).wrapping_sub(echo));
        let lead = if self.stateless.is_young(self.now) { LEAD_MILLIS } else { 0 };
        let good = Duration::from_millis(age) <= LIFETIME + Duration::from_millis(lead.into());
        good.then(|| Time::from_millis(millis.saturating_sub(age)))
    }

    /// The set-up of a client with this initial number, if the segment proves it: with the scale that is promised, or any where it was
    /// answered before. In an upload whose first segment is lost each later one is tried, and one number in two million is some answer's.
    fn flow_answered(&mut self, segment: &TcpSegment<'_>, irs: Seq) -> Option<Flow> {
        let (client, iss) = (segment.source(), segment.ack() - 1);
        let made = self.made(segment).filter(|_| is_open(segment))?;
        if !self.stateless.takes_answered(self.now, client, made) {
            return None;
        }
        let timestamp = segment.timestamps().map(|(value, _)| value);
        let handshake = Handshake { client, irs };
        let answer = cookie::check(&self.secret, self.now + LATER, &handshake, iss, timestamp)?;
        let now_promised = self.answered.promise.filter(|(since, _)| *since < made);
        let good = answer.maker == Maker::Program
            && now_promised.is_none_or(|(_, promise)| promise.window_scale == answer.announced_scale);
        good.then(|| self.answered_flow(segment, irs, answer, made))
    }

    fn answered_flow(&self, segment: &TcpSegment<'_>, irs: Seq, answer: Answer, made: Time) -> Flow {
        let (client, iss) = (segment.source(), segment.ack() - 1);
        let mut flow = self.half_open_flow(client, answer.options, irs, iss);
        flow.leg.announced_scale = answer.announced_scale;
        // What was promised before is not known.
        if let Some((since, promise)) = self.answered.promise
            && since < made
        {
            flow.leg.announced_mss = promise.mss;
        }
        if let Some((_, told)) = segment.timestamps() {
            flow.leg.set_clock(self.now, told);
        }
        if let State::Setup(setup) = &mut flow.state {
            setup.establish();
            setup.continued = self.stateless.is_older(made);
        }
        flow
    }
}

fn is_open(segment: &TcpSegment<'_>) -> bool {
    let flags = segment.flags();
    flags.ack() && !flags.syn() && !flags.rst()
}
