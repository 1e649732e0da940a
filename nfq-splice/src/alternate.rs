//! The alternate backend: replay, take in, compare, re-splice (paper §4.3; design §6, steps 5 to 7).

use cluster::control::{FromProxy, Outcome, RecoveryOrder, TakeIn};
use packet::{Reassembly, Seq, TcpSegment};

use crate::action::Action;
use crate::bridge::Bridge;
use crate::common::Core;
use crate::connect::BACKEND_TIMEOUT;
use crate::ecn::{self, Ecn};
use crate::flow::{Attempt, Debts, Flow, Recovery, State, TakingIn};
use crate::leg::{BackendLeg, ClientLeg};
use crate::replays::Replays;
use crate::sender::{Piece, Sender};
use crate::supply::Supply;
use crate::take_in::{Comparison, Verdict};
use crate::window::Window;

/// Bytes of the alternate's response kept beyond a gap.
const REORDER_BYTES: usize = 1 << 20;
/// Receive window towards the alternate at most, bytes.
const TAKE_IN_WINDOW: u64 = 4 << 20;
/// The same while updates are replayed: their answers are small, and the window must not shrink much afterwards (RFC 9293 §3.8.6).
const REPLAY_WINDOW: u64 = 64 << 10;
/// A client that never offered so many segments has a small window.
const SMALL_WINDOW: u32 = 4;
/// Bytes beyond the splice point that the alternate may send before the splice.
const SURPLUS: u32 = 16 << 10;

impl TakingIn {
    /// One after the last byte of the alternate that the proxy takes in; what lies beyond is the client's to acknowledge.
    fn next(&self) -> Seq {
        let taken = self.leg.irs + 1 + self.taken() as u32;
        if taken.before(self.reassembly.next()) { taken } else { self.reassembly.next() }
    }

    /// Gives the sender what of the requests may be sent: all of them once the updates have been run again.
    fn release_requests(&mut self, order: &RecoveryOrder, supply: &Supply) {
        let given = self.replay.given();
        let allowed = self.replays.allowed().min(order.replay.len());
        self.replay.append(order.replay.get(given..allowed).unwrap_or_default());
        if self.replays.is_done() {
            if order.client_fin {
                self.replay.close();
            }
            self.replay.set_supply(supply.again());
        }
    }

    /// Others are of an earlier connection of this client: an acknowledgement would pass for one of the replay, a reset for
    /// a failure.
    fn is_ours(&self, segment: &TcpSegment<'_>) -> bool {
        let ahead = segment.seq().since(self.reassembly.next());
        self.leg.irs.before_or_at(segment.seq()) && ahead <= REORDER_BYTES as i32
    }

    /// A SYN-ACK from which to begin again: of several SYNs, and a reset between them, the alternate took another one last. One that
    /// is in the middle of a handshake does not answer what belongs to the connection before.
    fn is_answered_anew(&self, segment: &TcpSegment<'_>, expected: Seq) -> bool {
        let silent = self.reassembly.next() == self.leg.irs + 1 && self.reassembly.kept() == 0;
        let answers = segment.flags().syn() && !segment.flags().rst() && segment.ack() == expected;
        answers && silent && segment.seq() != self.leg.irs && self.replay.unacknowledged() == expected
    }

    /// Bytes of the alternate's stream that the client has, or gets from the proxy.
    fn taken(&self) -> u64 {
        self.replays.taken() + self.comparison.taken() + self.bridged.unwrap_or_default()
    }

    /// Nothing (more) is to be run again or compared: what comes is the client's, or crosses the bridge.
    fn is_compared(&self) -> bool {
        self.replays.is_done() && self.bridged.is_some()
    }
}

impl Recovery {
    /// What the alternate may send: up to the splice point, and beyond it what the client takes, so that nothing overshoots.
    /// A whole segment in any case: a sender does not use less before its timer ends (RFC 9293 §3.8.6.2.1). For the same
    /// reason never more at once than the client ever offered, if that was only [`SMALL_WINDOW`] segments: senders make their
    /// segments smaller than half the greatest window they saw, and would wait for that timer with every segment that a smaller
    /// window has no room for. Any other client gets whole segments anyway.
    fn window(&self, leg: &ClientLeg, taking: &TakingIn, mss: u16) -> u32 {
        let segment = u32::from(mss);
        let before = self.bridge.length().saturating_add(taking.comparison.longest_joint());
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let room = leg.room(self.point).saturating_sub(before).min(SURPLUS).max(segment);
        let most = match self.order.client_window.most {
            most @ 1.. if most < SMALL_WINDOW * segment => u64::from(most),
            _ => TAKE_IN_WINDOW,
        };
        if !taking.replays.is_done() {
            // The transaction in progress has not been asked for yet: nothing can overshoot.
            return (REPLAY_WINDOW.min(most) as u32).max(1 << taking.leg.client_scale);
        }
        let ahead = self.bridge.length().saturating_sub(taking.bridged.unwrap_or_default());
        let lacking = taking.comparison.lacking().saturating_add(ahead);
        let window = lacking.saturating_add(u64::from(room)).min(most) as u32;
        window.max(1 << taking.leg.client_scale)
    }
}

impl Core {
    /// A segment of the alternate during recovery.
    pub(crate) fn handle_alternate(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Recovering(recovery) = &mut flow.state else { return };
        let flags = segment.flags();
        let expected = recovery.isn() + 1;
        match &mut recovery.attempt {
            Attempt::Connecting(_) if !flags.ack() || segment.ack() != expected => self.refuse(segment),
            Attempt::TakingIn(taking) if taking.is_answered_anew(segment, expected) => {
                self.counters.count("alternate_answered_anew");
                self.begin_replay(flow, segment);
            }
            Attempt::TakingIn(taking) if !taking.is_ours(segment) => {
                self.counters.count("alternate_segment_out_of_window");
            }
            Attempt::Connecting(_) | Attempt::TakingIn(_) if flags.rst() => {
                self.alternate_failed(flow, "it refused or reset the connection".to_owned());
            }
            Attempt::Connecting(_) if flags.syn() => self.begin_replay(flow, segment),
            Attempt::TakingIn(_) if flags.syn() => self.acknowledge_alternate(flow),
            Attempt::TakingIn(_) => self.take_in(flow, segment),
            Attempt::Connecting(_) | Attempt::Waiting => self.counters.count("fenced_segment_dropped"),
        }
    }

    fn begin_replay(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let (now, mss) = (self.now, self.mss());
        let State::Recovering(recovery) = &mut flow.state else { return };
        recovery.note(now, "alternate connected");
        let granted = ecn::grants(segment);
        // Only the first SYN asked.
        let first = matches!(&recovery.attempt, Attempt::Connecting(repeat) if repeat.tries == 1);
        if flow.leg.ecn == Ecn::Promised && (first || granted) {
            self.learnt.note_ecn(now, segment.source(), granted);
        }
        let leg = BackendLeg::new(&flow.leg, segment);
        self.learnt.note_mss(leg.backend, leg.mss());
        let first = recovery.isn() + 1;
        let order = &recovery.order;
        let replays = Replays::new(&order.replayed, &order.replay);
        let (payload, window) = (leg.payload_bytes(mss), leg.window as usize);
        let replay = Sender::new(first, Vec::new(), false, payload, window, BACKEND_TIMEOUT);
        let comparison = Comparison::new(order.take_in.clone());
        let reassembly = Reassembly::new(leg.irs + 1, REORDER_BYTES);
        let bridged = (order.take_in == TakeIn::Nothing).then_some(0);
        let mut taking = TakingIn { leg, replay, replays, comparison, bridged, reassembly, owes_ack: false };
        taking.release_requests(order, &recovery.supply);
        let ready = taking.is_compared() && recovery.bridge.length() == 0;
        recovery.attempt = Attempt::TakingIn(Box::new(taking));
        if ready {
            return self.resplice(flow, &[], false);
        }
        self.replay(flow);
    }

    /// Sends what the alternate's window allows of the replayed requests.
    pub(crate) fn replay(&mut self, flow: &mut Flow) {
        let (now, mss) = (self.now, self.mss());
        let State::Recovering(recovery) = &mut flow.state else { return };
        let Attempt::TakingIn(taking) = &recovery.attempt else { return };
        let (ack, window) = (taking.next(), recovery.window(&flow.leg, taking, mss));
        let Attempt::TakingIn(taking) = &mut recovery.attempt else { return };
        while let Some(piece) = taking.replay.poll(now) {
            self.send_to_backend(&flow.leg, &taking.leg, &piece, ack, window);
        }
        if let Some(rest) = taking.replay.ask(now) {
            self.act(Action::Tell(FromProxy::Read(rest)));
        }
    }

    fn acknowledge_alternate(&mut self, flow: &Flow) {
        let State::Recovering(recovery) = &flow.state else { return };
        let Attempt::TakingIn(taking) = &recovery.attempt else { return };
        let seq = taking.replay.unacknowledged();
        let window = recovery.window(&flow.leg, taking, self.mss());
        let packet = taking.leg.segment(&flow.leg, seq, taking.next(), window).build();
        self.send(packet);
    }

    /// Behind a gap each segment is answered at once: three equal answers have the alternate repeat what was lost (RFC 5681 §3.2).
    fn owe_acknowledgement(&mut self, flow: &mut Flow) {
        let State::Recovering(recovery) = &mut flow.state else { return };
        let Attempt::TakingIn(taking) = &mut recovery.attempt else { return };
        if taking.reassembly.kept() > 0 {
            self.acknowledge_alternate(flow);
        } else if !std::mem::replace(&mut taking.owes_ack, true) {
            self.owed_acks.push(flow.leg.client);
        }
    }

    pub(crate) fn pay_acknowledgement(&mut self, flow: &mut Flow) {
        let State::Recovering(recovery) = &mut flow.state else { return };
        let Attempt::TakingIn(taking) = &mut recovery.attempt else { return };
        if std::mem::take(&mut taking.owes_ack) {
            self.acknowledge_alternate(flow);
        }
    }

    fn take_in(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let now = self.now;
        let State::Recovering(recovery) = &mut flow.state else { return };
        let recovery = &mut **recovery;
        let Attempt::TakingIn(taking) = &mut recovery.attempt else { return };
        taking.leg.learn(segment);
        if segment.flags().ack() {
            taking.replay.handle_ack(now, segment.ack(), taking.leg.window as usize);
        }
        let replaying = !taking.replays.is_done();
        let TakingIn { replays, comparison, reassembly, bridged, .. } = &mut **taking;
        let mut verdict = match bridged {
            Some(_) if !replaying => Verdict::Equal { taken: comparison.taken() },
            _ => Verdict::More,
        };
        let mut beyond = Vec::new();
        reassembly.push(segment.seq(), segment.payload(), &mut |bytes| {
            let bytes = match replays.push(bytes, &recovery.order.replay) {
                Ok(used) => bytes.get(used..).unwrap_or_default(),
                Err(why) => return verdict = Verdict::Unfit(why),
            };
            if verdict == Verdict::More && replays.is_done() {
                let before = comparison.taken();
                verdict = comparison.push(bytes);
                let used = comparison.taken().saturating_sub(before) as usize;
                beyond.extend_from_slice(bytes.get(used..).unwrap_or_default());
            } else {
                beyond.extend_from_slice(bytes);
            }
        });
        let fin =
            segment.flags().fin() && segment.seq() + segment.payload().len() as u32 == reassembly.next();
        let used = if matches!(verdict, Verdict::Equal { .. }) {
            let at = *bridged.get_or_insert(0);
            let used = (recovery.bridge.length().saturating_sub(at)).min(beyond.len() as u64);
            verdict = cross(&mut recovery.bridge, &mut recovery.resend, comparison.taken(), at, &beyond);
            *bridged = Some(at + used);
            used as usize
        } else {
            0
        };
        let rest = beyond.get(used..).unwrap_or_default();
        if replaying {
            taking.release_requests(&recovery.order, &recovery.supply);
            if matches!(verdict, Verdict::Unfit(_)) && !taking.replays.is_done() {
                self.counters.count("replays_differ");
            }
        }
        self.judge(flow, verdict, rest, fin, !segment.payload().is_empty());
    }

    fn judge(&mut self, flow: &mut Flow, verdict: Verdict, beyond: &[u8], fin: bool, data: bool) {
        match verdict {
            Verdict::Equal { .. } => self.resplice(flow, beyond, fin),
            Verdict::More if fin => {
                self.alternate_failed(
                    flow,
                    "it closed before it had sent what the client already has".to_owned(),
                );
            }
            Verdict::More => {
                self.replay(flow);
                if data {
                    self.owe_acknowledgement(flow);
                }
            }
            Verdict::Unfit(reason) => self.alternate_failed(flow, reason),
            Verdict::Mismatch { at, before, logged, alternate } => {
                self.counters.count("mismatches");
                self.end_recovery(flow, Outcome::Mismatch { at, before, logged, alternate });
                self.abort(flow, flow.server_next());
            }
        }
    }

    /// From here on the alternate's bytes are the client's. `beyond`: bytes already received behind the splice point.
    fn resplice(&mut self, flow: &mut Flow, beyond: &[u8], fin: bool) {
        let State::Recovering(recovery) = std::mem::replace(&mut flow.state, State::Gone) else { return };
        let mut recovery = *recovery;
        let Attempt::TakingIn(taking) = std::mem::replace(&mut recovery.attempt, Attempt::Waiting) else {
            return;
        };
        if let Some(joint) = taking.comparison.joint() {
            self.counters.count("responses_rechunked");
            recovery.own(joint);
        }
        recovery.point = recovery.point + recovery.bridge.taken() as u32;
        recovery.note(self.now, if taking.comparison.taken() > 0 { "compared" } else { "ready" });
        let taken_in = taking.taken();
        let TakingIn { leg, replay, .. } = *taking;
        let at = recovery.point;
        let absorbed = recovery.absorb(&flow.leg, beyond, fin);
        let (beyond, left_fin) = if absorbed { (&[][..], false) } else { (beyond, fin) };
        let start = leg.irs + 1 + taken_in as u32 + recovery.point.since(at) as u32;
        let delta = recovery.point.0.wrapping_sub(start.0);
        let window = flow.leg.room(recovery.point);
        let granted = replay.granted(recovery.client_ack(), leg.window);
        let debts = debts(&mut recovery, replay, &leg, start);
        let next = recovery.isn() + 1;
        let client_end = recovery.client_ack().max(recovery.held.end());
        let server_end = recovery.point + beyond.len() as u32 + u32::from(left_fin);
        let allowed = self.settings.splice.hold_bytes as u32;
        // It opens the alternate's window and may end the handshake. What the client sends along the new way echoes a clock older than
        // the alternate's SYN-ACK, and Linux (6.15 and later) takes none such in SYN-RECEIVED: it must not overtake this.
        let mut opening =
            Some(leg.segment(&flow.leg, Seq(recovery.order.client_next), start, window).build());
        if debts.is_none() {
            self.actions.extend(opening.take().map(Action::SendFirst));
        }
        let ts = leg.has_timestamps(&flow.leg).then(|| flow.leg.align(self.now, &leg));
        flow.resplices += 1;
        self.splice(flow, &leg, (delta, ts), debts, Window::new(next, client_end, server_end, allowed));
        if let State::Spliced(splice) = &mut flow.state {
            splice.closing.server_fin = absorbed && fin;
        }
        self.release(flow, &recovery, &leg, start, window);
        self.actions.extend(opening.map(Action::Send));
        self.forward_beyond(flow, &recovery, beyond, left_fin, granted);
        recovery.note(self.now, "re-spliced");
        self.counters.count("connections_respliced");
        if !recovery.order.replayed.is_empty() {
            self.counters.count("connections_replayed");
        }
        let outcome = Outcome::Respliced {
            resent: u64::from(recovery.point.since(recovery.resend_first) as u32),
            taken_in,
            steps: recovery.steps,
        };
        self.tell(recovery.order.id, outcome);
    }

    /// Held client bytes go on, unless the alternate has to take older ones first.
    fn release(&mut self, flow: &mut Flow, recovery: &Recovery, leg: &BackendLeg, start: Seq, window: u32) {
        if let State::Spliced(crate::flow::Splice { debts: Some(debts), .. }) = &mut flow.state {
            self.pay_client(&flow.leg, debts);
            self.pay_backend(&flow.leg, debts);
            self.release_held(&flow.leg, debts);
        } else {
            self.forward_held(&flow.leg, &recovery.held, leg, start, window);
        }
    }

    /// In pieces of one segment, as far as the client's window goes; a FIN goes with the last one, or alone. None of it has
    /// been acknowledged to the alternate, which repeats what does not get through.
    fn forward_beyond(&mut self, flow: &Flow, recovery: &Recovery, beyond: &[u8], fin: bool, granted: u32) {
        let mss = flow.leg.payload_bytes(self.mss());
        let ack = recovery.client_ack();
        let room = flow.leg.room(recovery.point) as usize;
        let alone: Option<&[u8]> = (fin && beyond.is_empty()).then_some(&[]);
        let mut sent = 0;
        for data in beyond.chunks(mss).chain(alone) {
            let seq = recovery.point + sent as u32;
            sent += data.len();
            if sent > room {
                return;
            }
            self.send_to_client(
                &flow.leg,
                &Piece { seq, data, fin: fin && sent == beyond.len() },
                ack,
                granted,
            );
        }
    }
}

/// What the alternate sends behind p goes to the client from here, as far as the bridge reaches. `p`: bytes taken in before.
fn cross(bridge: &mut Bridge, resend: &mut Sender, p: u64, at: u64, data: &[u8]) -> Verdict {
    match bridge.push(at, data) {
        Ok(()) => resend.append_known(bridge.give()),
        Err(place) => {
            return Verdict::Mismatch {
                at: p + place,
                before: Vec::new(),
                logged: Vec::new(),
                alternate: Vec::new(),
            };
        }
    }
    if at + data.len() as u64 >= bridge.length() { Verdict::Equal { taken: p } } else { Verdict::More }
}

/// What the proxy still owes after the re-splice: logged bytes the client has not acknowledged, requests the alternate has not.
fn debts(recovery: &mut Recovery, replay: Sender, leg: &BackendLeg, start: Seq) -> Option<Box<Debts>> {
    if recovery.resend.is_done() && replay.is_done() {
        return None;
    }
    let empty = Sender::new(recovery.point, Vec::new(), false, 1, 0, BACKEND_TIMEOUT);
    let client_next = recovery.client_ack();
    Some(Box::new(Debts {
        to_client: std::mem::replace(&mut recovery.resend, empty),
        to_backend: replay,
        leg: BackendLeg { irs: start - 1, ..leg.clone() },
        point: recovery.point,
        client_next,
        absorbed: 0,
        held: recovery.held.moved_to(client_next),
    }))
}
