//! A client's segment on a connection that is there: what it may be, and which state gets it (RFC 9293 §3.10.7, RFC 5961).

use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::action::Action;
use crate::common::Core;
use crate::ecn::Ecn;
use crate::engine::{Pass, is_nonsense};
use crate::flow::{Flow, Splice, State};
use crate::leg::ClientLeg;
use crate::setup::SETUP_WINDOW;
use crate::window::{Expected, Judgement, Window};

impl Core {
    /// Nothing is learnt from a segment before its numbers show that it is the client's.
    pub(crate) fn handle_client(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        let flags = segment.flags();
        if is_nonsense(flags) {
            self.counters.count("nonsense_dropped");
            return Pass::No;
        }
        if flags.syn() {
            return self.handle_client_syn(flow, segment);
        }
        if !flags.rst() {
            self.begin_anew(flow, segment);
            if self.is_forged(flow, segment) {
                return Pass::No;
            }
            if flow.is_proved_by(segment) {
                flow.leg.learn(segment);
            }
        }
        match &flow.state {
            State::Setup(_) => self.handle_setup(flow, segment),
            State::Spliced(_) => return self.handle_spliced_client(flow, segment),
            State::Recovering(_) => self.handle_suspended_client(flow, segment),
            State::Answering(_) => self.handle_answered(flow, segment),
            State::Gone => {}
        }
        Pass::No
    }

    /// Drops and answers what the client cannot have sent on this connection, or long ago.
    fn is_forged(&mut self, flow: &Flow, segment: &TcpSegment<'_>) -> bool {
        let Some(expected) = self.expected(flow) else { return false };
        match expected.judge(segment) {
            Judgement::Good => return false,
            Judgement::OutsideWindow => self.counters.count("outside_window_dropped"),
            Judgement::WrongAcknowledgement => self.counters.count("wrong_ack_dropped"),
        }
        self.challenge(flow, segment);
        true
    }

    /// `None` where the numbers are not known: before the handshake's end its own check applies, and what the kernel translates
    /// the backend judges.
    pub(crate) fn expected(&self, flow: &Flow) -> Option<Expected> {
        let (max_window, acked) = (flow.leg.max_window, flow.leg.acked);
        let (next, limit, unacknowledged, sent) = match &flow.state {
            State::Setup(setup) if setup.established => {
                let next = setup.reassembly.next();
                (next, next + SETUP_WINDOW, setup.iss + 1, setup.iss + 1)
            }
            State::Spliced(splice) if !splice.kernel => {
                return Some(flow.expected_of_splice(&splice.window?));
            }
            State::Recovering(recovery) => {
                let limit = recovery.held.next() + self.settings.splice.hold_bytes as u32;
                (recovery.client_ack(), limit, acked, recovery.point + max_window)
            }
            State::Answering(answering) => {
                let (sender, next) = (&answering.sender, answering.client_next);
                (next, next + SETUP_WINDOW, sender.unacknowledged(), sender.sent_seq())
            }
            State::Setup(_) | State::Spliced(_) | State::Gone => return None,
        };
        Some(Expected { next, limit, unacknowledged, max_window, sent })
    }

    /// A SYN on a connection that is there (RFC 5961 §4).
    fn handle_client_syn(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        let opens = !segment.flags().ack();
        match &flow.state {
            State::Setup(setup) if opens && setup.irs == segment.seq() && !setup.established => {
                // A host that has also sent a SYN without the wish does not mark its packets (RFC 3168 §6.1.1.1).
                if !segment.flags().contains(Flags::ECN) {
                    flow.leg.ecn = Ecn::NotAsked;
                }
                flow.leg.note_told(self.now);
                self.send_syn_ack(flow);
            }
            State::Spliced(splice) if opens && splice.kernel => {
                self.act(Action::Inspect { client: flow.client(), syn: segment.packet().to_vec() });
            }
            State::Spliced(splice) if opens && splice.is_reopened(segment.seq(), flow.leg.acked) => {
                self.counters.count("port_reused");
                self.let_go(flow);
                return reopen(flow);
            }
            State::Answering(answering) if opens && answering.is_reopened(segment) => {
                self.counters.count("port_reused");
                return reopen(flow);
            }
            _ => self.challenge(flow, segment),
        }
        Pass::No
    }

    /// A challenge ACK (RFC 5961 §4): a peer that lost the connection answers it with an exact RST.
    pub(crate) fn challenge(&mut self, flow: &Flow, segment: &TcpSegment<'_>) {
        if !self.may_answer_stranger() {
            return self.counters.count("challenge_rationed");
        }
        self.counters.count("challenge_sent");
        let ack = flow.client_next().unwrap_or(segment.seq());
        let (leg, window) = (&flow.leg, self.own_window(flow));
        let bare = leg.segment(self.now, flow.server_next(), ack, window);
        let challenge = match &flow.state {
            // A spliced connection carries the backend's clock, which this one may be far ahead of after a restart, or as one of two
            // answers to its SYN was later than the one that the client took: it would take all that follows for old (RFC 7323 §5). A peer
            // that lost the connection needs no timestamp.
            State::Spliced(_) | State::Setup(_) => SegmentBuilder { timestamps: None, ..bare },
            _ => bare,
        };
        self.send(challenge.build());
    }

    /// A challenge on a connection that the kernel translates: only the backend knows the numbers. A segment outside its window
    /// makes it acknowledge with the exact ones (RFC 9293 §3.10.7.4), which the kernel translates for the client.
    pub(crate) fn challenge_by_backend(&mut self, flow: &Flow, segment: &TcpSegment<'_>) {
        let State::Spliced(splice) = &flow.state else { return };
        // Who did not conduct the handshake knows no acknowledgement that is old and harmless.
        if flow.leg.max_window == 0 {
            return self.challenge(flow, segment);
        }
        if !self.may_answer_stranger() {
            return self.counters.count("challenge_rationed");
        }
        self.counters.count("challenge_sent");
        self.send(splice.old_segment(&flow.leg, segment.seq()));
    }

    /// A reset that is not exact, inside the window, may be a forger's: whoever means it repeats it exactly when challenged;
    /// outside it is ignored (RFC 5961 §3.2).
    pub(crate) fn challenge_reset(&mut self, flow: &Flow, segment: &TcpSegment<'_>, next: Seq, window: u32) {
        self.counters.count("rst_not_exact_ignored");
        let ahead = segment.seq().since(next);
        if ahead > 0 && ahead.unsigned_abs() < window {
            self.challenge(flow, segment);
        }
    }

    /// What the client is allowed to send: an acknowledgement of the proxy must not close the window that it was given.
    fn own_window(&self, flow: &Flow) -> u32 {
        match &flow.state {
            State::Setup(_) | State::Answering(_) => SETUP_WINDOW,
            State::Recovering(_) => self.settings.splice.hold_bytes as u32,
            State::Spliced(splice) => splice.window.map_or(0, |window| window.allowed),
            State::Gone => 0,
        }
    }
}

impl Flow {
    /// The handshake is complete, or this segment completes it: its sender has got our SYN-ACK. Of what the kernel translates, and
    /// of a restored connection before its backend has spoken, nothing proves anything.
    fn is_proved_by(&self, segment: &TcpSegment<'_>) -> bool {
        match &self.state {
            State::Setup(setup) => setup.established || segment.ack() == setup.iss + 1,
            State::Spliced(splice) => !splice.kernel && splice.window.is_some(),
            State::Recovering(_) | State::Answering(_) | State::Gone => true,
        }
    }

    /// On a connection that the proxy itself translates.
    fn expected_of_splice(&self, window: &Window) -> Expected {
        let ClientLeg { max_window, acked, .. } = self.leg;
        let max_window = max_window.max(window.unsure);
        // The client may have got more of a failed backend, or from an earlier daemon, than is known.
        let unknown = if self.resplices > 0 { max_window } else { window.unsure };
        Expected {
            next: window.client_next,
            limit: window.client_limit + window.unsure,
            unacknowledged: self.leg.window.map_or(window.server_end, |_| acked),
            max_window,
            sent: window.server_end + unknown,
        }
    }

    /// The client's next byte, where the proxy knows it.
    pub(crate) fn client_next(&self) -> Option<Seq> {
        match &self.state {
            State::Setup(setup) => Some(setup.irs + 1 + setup.acknowledged as u32),
            State::Recovering(recovery) => Some(recovery.client_ack()),
            State::Answering(answering) => Some(answering.client_next),
            State::Spliced(splice) if splice.kernel => None,
            State::Spliced(splice) => {
                let owed = splice.debts.as_ref().map(|debts| debts.client_next);
                owed.or(splice.window.map(|window| window.client_next))
            }
            State::Gone => None,
        }
    }

    /// One after the last byte that the client was sent, as far as the proxy knows.
    pub(crate) fn server_next(&self) -> Seq {
        match &self.state {
            State::Spliced(splice) if !splice.kernel => {
                splice.window.map_or(self.leg.acked, |window| window.server_end)
            }
            State::Answering(answering) => answering.sender.sent_seq(),
            State::Recovering(recovery) => recovery.point,
            // Behind our SYN, also while it is not acknowledged (RFC 9293 §3.10.7.4: SEQ=SND.NXT).
            State::Setup(setup) => setup.iss + 1,
            _ => self.leg.acked,
        }
    }
}

impl Splice {
    /// A segment of the client's with this number, outside its window, makes the backend acknowledge (RFC 9293 §3.10.7.4). It says
    /// nothing new, of the window either: the log would wait for a backend whose client has closed it.
    pub(crate) fn old_segment(&self, leg: &ClientLeg, seq: Seq) -> Vec<u8> {
        let window = leg.window.unwrap_or(leg.max_window) >> self.client_scale;
        let old = SegmentBuilder {
            seq,
            ack: Some(leg.acked - self.delta),
            window: window.min(0xffff) as u16,
            ..SegmentBuilder::new(leg.client, self.backend)
        };
        old.build()
    }
}

/// The connection has ended, its client opens another one.
fn reopen(flow: &mut Flow) -> Pass {
    flow.state = State::Gone;
    Pass::Reopens
}
