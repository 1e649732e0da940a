//! The backend failed: fence it, re-send what was logged, hold what the client says (paper §4.3; design §6, steps 1 and 2).

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{FromProxy, Outcome, RecoveryOrder};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};

use crate::action::Action;
use crate::bridge::Bridge;
use crate::common::Core;
use crate::connect::{SYN_TIMEOUT, SYN_TRIES};
use crate::ecn::Ecn;
use crate::flow::{Attempt, Flow, Recovery, Repeat, Setup, Splice, State};
use crate::held::Held;
use crate::leg::{self, MAX_WINDOW};
use crate::pieces::STARVED;
use crate::sender::Sender;
use crate::supply::Supply;

/// First retransmission timeout of logged bytes: longer than any round trip, the receiver is not known.
const RESEND_TIMEOUT: Duration = Duration::from_millis(300);
/// Alternates of one recovery that are remembered.
const TRIED: usize = 64;

impl Recovery {
    /// Notes that `step` is done.
    pub(crate) fn note(&mut self, now: packet::Time, step: &str) {
        let micros = now.since(self.arrived).as_micros() as u64;
        self.steps.push((step.to_owned(), micros));
    }
}

impl Core {
    /// Begins, or continues with another alternate.
    pub(crate) fn recover(&mut self, flow: &mut Flow, order: RecoveryOrder) {
        let id = order.id;
        match std::mem::replace(&mut flow.state, State::Gone) {
            State::Spliced(splice) if splice.backend == order.flow.backend => {
                self.suspend(flow, splice, order);
                self.connect_alternate(flow);
            }
            // Repeated, or late: the manager has given it up for a later one.
            State::Recovering(recovery) if recovery.order.id >= id => {
                flow.state = State::Recovering(recovery);
            }
            State::Recovering(recovery) if concerns(&recovery, order.flow.backend) => {
                self.try_again(flow, *recovery, order);
            }
            State::Setup(setup) if connects_to(&setup, order.flow.backend) => {
                flow.state = State::Setup(setup);
                self.leave_backend(flow, order.flow.backend);
                self.tell(
                    id,
                    Outcome::Gone("it was still connecting: it goes to another backend".to_owned()),
                );
            }
            // A manager that was restarted does not know that its predecessor's order has been carried out.
            State::Spliced(splice) => {
                self.tell(id, Outcome::Elsewhere(splice.backend));
                flow.state = State::Spliced(splice);
            }
            other => {
                flow.state = other;
                let reason = format!("the connection is {}", flow.state_name());
                self.tell(id, Outcome::Gone(reason));
            }
        }
    }

    pub(crate) fn tell(&mut self, id: u64, outcome: Outcome) {
        self.act(Action::Tell(FromProxy::Ended { id, outcome }));
    }

    /// The log has seen the handshake with a backend that failed, the proxy not yet: nothing is lost, another one is asked.
    pub(crate) fn leave_backend(&mut self, flow: &mut Flow, backend: SocketAddr) {
        if let State::Setup(setup) = &flow.state {
            self.reset_backend(flow.leg.client, backend, setup.irs + 1);
        }
        self.connect_next(flow);
    }

    /// Fences the backend and re-sends what was logged.
    pub(crate) fn suspend(&mut self, flow: &mut Flow, splice: Splice, mut order: RecoveryOrder) {
        let client = flow.leg.client;
        self.suspend_packets(flow);
        self.act(Action::Unsplice(client));
        flow.parked = false;
        self.reset_backend(client, splice.backend, Seq(order.client_next) + u32::from(order.client_fin));
        if let Some(options) = order.options {
            // The path may since have turned out to take less than the client offered.
            let mss = flow.leg.options.mss.into_iter().chain(options.mss).min();
            flow.leg.options = SynOptions { mss, ..options };
            // An alternate may believe no timestamp before the one that it hears first (RFC 7323 §5).
            options.timestamp.into_iter().for_each(|value| flow.leg.note_timestamp(value));
        }
        let owed = splice.debts.as_ref().map(|debts| debts.to_backend.clone());
        let supply = complete(&mut order, owed.as_ref());
        if Seq(order.client_next).before(Seq(order.client_known)) {
            flow.state = State::Spliced(splice);
            return self.client_bytes_lost(flow, &order);
        }
        let next = Seq(order.client_next);
        let held = match &splice.debts {
            Some(debts) => debts.held.moved_to(next),
            None => Held::new(next, self.settings.splice.hold_bytes),
        };
        let mut first = Seq(order.resend_from) + splice.delta;
        let logged_edge = first + order.client_window.now.min(MAX_WINDOW);
        let mut bytes = std::mem::take(&mut order.resend);
        if let Some(debts) = &splice.debts {
            // What the backend sent before belongs to its take-in, not to the client's stream.
            let before = debts.point.since(first).clamp(0, bytes.len() as i32);
            bytes.drain(..before as usize);
            first = first + before as u32;
        }
        let point = first + bytes.len() as u32;
        // What an earlier daemon saw counts only as far as it was logged.
        if splice.kernel || flow.leg.window.is_none() {
            flow.leg.learn_from_log(first, order.client_window);
        } else if flow.leg.acked.before(first) && !owes_client(&splice) {
            flow.leg.catch_up(first, logged_edge);
        }
        let bridge = Bridge::new(std::mem::take(&mut order.beyond), order.left_out);
        let splice_delta = splice.delta;
        let resend = self.resend(flow, splice, first, bytes);
        let recovery = Recovery {
            delta: splice_delta,
            arrived: self.now,
            steps: Vec::new(),
            deadline: self.now + self.settings.recovery_timeout,
            point,
            resend_first: first,
            resend,
            held,
            attempt: Attempt::Waiting,
            bridge,
            owed,
            supply,
            order,
            tried: Vec::new(),
        };
        flow.state = State::Recovering(Box::new(recovery));
        self.pay_from_log(flow);
        self.ask_client(flow);
    }

    /// The client had them acknowledged and does not repeat them, and neither the log nor this proxy has them.
    fn client_bytes_lost(&mut self, flow: &mut Flow, order: &RecoveryOrder) {
        let lost = Seq(order.client_known).since(Seq(order.client_next));
        self.counters.count("client_bytes_lost");
        self.tell(order.id, Outcome::Gone(format!("{lost} bytes of its requests are not in the log again")));
        self.abort(flow, flow.server_next());
    }

    /// Logged bytes go behind those that are still owed from an earlier recovery.
    fn resend(&self, flow: &Flow, splice: Splice, first: Seq, bytes: Vec<u8>) -> Sender {
        if let Some(debts) =
            splice.debts.filter(|debts| debts.to_client.end_seq() == first && !debts.to_client.is_done())
        {
            let mut owed = debts.to_client;
            owed.append(&bytes);
            return owed.in_one_burst();
        }
        // They were sent before, so the client's window took them.
        let window = bytes.len().max(flow.leg.room(first) as usize);
        let mss = flow.leg.payload_bytes(self.mss());
        Sender::new(first, bytes, false, mss, window, RESEND_TIMEOUT).in_one_burst()
    }

    /// Frees the failed backend's socket, if its kernel still lives.
    pub(crate) fn reset_backend(&mut self, client: SocketAddr, backend: SocketAddr, seq: Seq) {
        let reset = SegmentBuilder { seq, flags: Flags::RST, ..SegmentBuilder::new(client, backend) };
        self.send(reset.build());
    }

    /// The same of an alternate that has taken part, where it believes it.
    pub(crate) fn reset_alternate(&mut self, client: SocketAddr, recovery: &Recovery) {
        if let Some(seq) = recovery.alternate_next() {
            self.reset_backend(client, recovery.order.alternate, seq);
        }
    }

    /// The alternate failed: the same recovery with the next one.
    fn try_again(&mut self, flow: &mut Flow, mut recovery: Recovery, order: RecoveryOrder) {
        recovery.deadline = self.now + self.settings.recovery_timeout;
        // A manager that was restarted may know of the failure of an alternate only, which the client never was on.
        let never_there = recovery.order.flow.backend != order.flow.backend;
        if never_there && recovery.is_at_work_with(order.alternate) {
            recovery.order.id = order.id;
            flow.state = State::Recovering(Box::new(recovery));
            return;
        }
        recovery.forget_unsent();
        let (asked, isn, next) = (recovery.order.alternate, recovery.isn(), recovery.alternate_next());
        let connecting = matches!(recovery.attempt, Attempt::Connecting(_));
        if never_there {
            let id = recovery.order.id;
            self.tell(id, Outcome::AlternateFailed("it failed as well".to_owned()));
            recovery.order.id = order.id;
            recovery.order.alternate = order.alternate;
        } else {
            recovery.follow(order);
        }
        // The SYN that it wants is under way. Another one and a reset between them might arrive in any order.
        let goes_on = connecting && (recovery.order.alternate, recovery.isn()) == (asked, isn);
        flow.state = State::Recovering(Box::new(recovery));
        if goes_on {
            return;
        }
        if let Some(seq) = next {
            self.reset_backend(flow.leg.client, asked, seq);
        }
        self.connect_alternate(flow);
    }

    /// SYN to the alternate, with ISN S − R − 1: client→server again needs no translation (design §6, step 5).
    fn connect_alternate(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Recovering(recovery) = &mut flow.state else { return };
        recovery.attempt = Attempt::Connecting(Repeat::after(now, SYN_TIMEOUT));
        recovery.note_tried();
        let ecn = flow.leg.ecn == Ecn::Promised;
        let packet = leg::syn(&flow.leg, recovery.order.alternate, recovery.isn(), ecn);
        self.send(packet);
    }

    pub(crate) fn pay_from_log(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Recovering(recovery) = &mut flow.state else { return };
        let ack = recovery.client_ack();
        let window = self.settings.splice.hold_bytes as u32;
        while let Some(piece) = recovery.resend.poll(now) {
            self.send_to_client(&flow.leg, &piece, ack, window);
        }
    }

    /// A client's segment while it has no backend: its acknowledgements count, its data is held, its probes answered.
    pub(crate) fn handle_suspended_client(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Recovering(recovery) = &mut flow.state else { return };
        let flags = segment.flags();
        if flags.rst() {
            let exact = segment.seq() == recovery.held.next() || segment.seq() == recovery.client_ack();
            let (next, window) = (recovery.client_ack(), self.settings.splice.hold_bytes as u32);
            return if exact {
                self.client_left(flow);
            } else {
                self.challenge_reset(flow, segment, next, window);
            };
        }
        if flags.ack() {
            recovery.resend.handle_ack(self.now, segment.ack(), flow.leg.window.unwrap_or(0) as usize);
        }
        let old = segment.seq().before(recovery.client_ack());
        self.hold(&mut recovery.held, segment);
        let numbers = (recovery.point, recovery.client_ack(), self.settings.splice.hold_bytes as u32);
        self.report_gap(&flow.leg, &recovery.held, segment, numbers);
        self.pay_from_log(flow);
        if old {
            self.answer_probe(flow);
        }
    }

    /// Keep-alives and window probes carry an old sequence number (RFC 9293 §3.8.4, §3.8.6.1).
    fn answer_probe(&mut self, flow: &mut Flow) {
        let State::Recovering(recovery) = &flow.state else { return };
        let (seq, ack) = (recovery.point, recovery.client_ack());
        let window = self.settings.splice.hold_bytes as u32;
        self.acknowledge_client(&flow.leg, seq, ack, window);
    }

    fn client_left(&mut self, flow: &mut Flow) {
        self.end_recovery(flow, Outcome::Gone("the client reset the connection".to_owned()));
        self.resume_packets(flow);
        flow.state = State::Gone;
    }

    /// Tells the manager and frees the alternate; the caller sets the next state.
    pub(crate) fn end_recovery(&mut self, flow: &mut Flow, outcome: Outcome) {
        let State::Recovering(recovery) = &flow.state else { return };
        self.reset_alternate(flow.leg.client, recovery);
        self.tell(recovery.order.id, outcome);
    }

    /// The attempt with this alternate is over; the client waits for another one, within the recovery's time.
    pub(crate) fn alternate_failed(&mut self, flow: &mut Flow, reason: String) {
        self.attempt_failed(flow, Outcome::AlternateFailed(reason));
    }

    fn attempt_failed(&mut self, flow: &mut Flow, outcome: Outcome) {
        self.counters.count("alternates_failed");
        self.end_recovery(flow, outcome);
        if let State::Recovering(recovery) = &mut flow.state {
            recovery.attempt = Attempt::Waiting;
        }
    }

    pub(crate) fn handle_recovery_timeout(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Recovering(recovery) = &mut flow.state else { return };
        if now >= recovery.deadline {
            self.end_recovery(flow, Outcome::AlternateFailed("the recovery took too long".to_owned()));
            return self.abort(flow, flow.server_next());
        }
        recovery.resend.handle_timeout(now);
        match &mut recovery.attempt {
            Attempt::Connecting(repeat) if now >= repeat.at && repeat.tries >= SYN_TRIES => {
                return self.attempt_failed(flow, Outcome::AlternateSilent);
            }
            Attempt::Connecting(repeat) if now >= repeat.at => {
                *repeat = repeat.again(now, SYN_TIMEOUT);
                let packet = leg::syn(&flow.leg, recovery.order.alternate, recovery.isn(), false);
                self.send(packet);
            }
            Attempt::TakingIn(taking) if taking.replay.is_starved(now) => {
                return self.replay_lost(flow, STARVED);
            }
            Attempt::TakingIn(taking) => taking.replay.handle_timeout(now),
            _ => {}
        }
        self.pay_from_log(flow);
        self.replay(flow);
    }
}

impl Recovery {
    /// Another order for the same failure. Where the log knows more by now, that is sent again, too; where it knows less, or an
    /// alternate's bytes already stand behind p, what was known before goes on to hold.
    fn follow(&mut self, mut order: RecoveryOrder) {
        let first = Seq(order.resend_from) + self.delta;
        let bytes = std::mem::take(&mut order.resend);
        let more = (first + bytes.len() as u32).since(self.point);
        if more < 0 || (more > 0 && self.bridge.taken() > 0) {
            self.order.id = order.id;
            self.order.alternate = order.alternate;
            return;
        }
        if let Some(new) = bytes.len().checked_sub(more as usize).and_then(|old| bytes.get(old..))
            && !new.is_empty()
        {
            self.resend.append(new);
            self.point = self.point + new.len() as u32;
            self.bridge = Bridge::new(std::mem::take(&mut order.beyond), order.left_out);
        }
        self.order = order;
        self.supply = complete(&mut self.order, self.owed.as_ref());
        self.held = self.held.moved_to(Seq(self.order.client_next));
    }

    /// The client has nothing of what the alternate that failed has sent behind p, before it was sent that: another one's `Date` there
    /// may be its own.
    fn forget_unsent(&mut self) {
        let left = self.resend.withdraw(self.point);
        self.bridge.forget_behind(left);
    }

    /// The last [`TRIED`] alternates are remembered.
    fn note_tried(&mut self) {
        self.tried.retain(|tried| *tried != self.order.alternate);
        self.tried.push(self.order.alternate);
        let forgotten = self.tried.len().saturating_sub(TRIED);
        self.tried.drain(..forgotten);
    }

    fn is_at_work_with(&self, alternate: SocketAddr) -> bool {
        self.order.alternate == alternate && !matches!(self.attempt, Attempt::Waiting)
    }

    /// The alternate's view of the client's initial sequence number: S − R − 1.
    pub(crate) fn isn(&self) -> Seq {
        Seq(self.order.client_next) - self.order.replay.len() as u32 - self.supply.bytes() as u32 - 1
    }

    /// One after the client's bytes, and FIN, that were logged: the proxy delivers them to the alternate.
    pub(crate) fn client_ack(&self) -> Seq {
        Seq(self.order.client_next) + u32::from(self.order.client_fin)
    }

    /// What the alternate expects next, if there is one: only there does it believe a reset (RFC 5961 §3.2).
    fn alternate_next(&self) -> Option<Seq> {
        match &self.attempt {
            Attempt::Connecting(_) => Some(self.isn() + 1),
            Attempt::TakingIn(taking) => Some(taking.replay.unacknowledged()),
            Attempt::Waiting => None,
        }
    }
}

/// While it does, the log's last acknowledgement is one that the proxy gave in the client's name.
fn owes_client(splice: &Splice) -> bool {
    splice.debts.as_ref().is_some_and(|debts| !debts.to_client.is_done())
}

/// Requests that the proxy has acknowledged to the client, but not yet delivered, need not have been logged. What follows the
/// replay is returned.
fn complete(order: &mut RecoveryOrder, owed: Option<&Sender>) -> Supply {
    let mut supply = Supply::new(order.rest.take());
    if let Some((bytes, later, fin)) = owed.and_then(|owed| owed.from(Seq(order.client_next))) {
        if supply.is_empty() {
            order.replay.extend_from_slice(bytes);
            supply = later.again();
        } else {
            supply.append(bytes, &later);
        }
        let more = bytes.len().saturating_add(later.bytes());
        order.client_next = order.client_next.wrapping_add(more as u32);
        order.client_fin |= fin;
    }
    supply
}

pub(crate) fn connects_to(setup: &Setup, backend: SocketAddr) -> bool {
    setup.connect.as_ref().is_some_and(|connect| connect.backend == backend)
}

/// The client is, or would have been, on this backend.
pub(crate) fn concerns(recovery: &Recovery, backend: SocketAddr) -> bool {
    recovery.order.flow.backend == backend || recovery.tried.contains(&backend)
}
