//! Two connections made one: translation, the hand-over to the kernel, and the end (design §3, step 4).

use std::time::Duration;

use cluster::control::FromProxy;
use packet::{Seq, TcpSegment, Translation};

use crate::action::{Action, KernelSplice};
use crate::common::Core;
use crate::engine::Pass;
use crate::flow::{Debts, Flow, Idle, Splice, State};
use crate::leg::ClientLeg;
use crate::pieces::STARVED;
use crate::sender::Piece;
use crate::window::{Reset, Window};

/// A connection closed on both sides is remembered this long for late segments.
pub const CLOSED_LINGER: Duration = Duration::from_secs(10);
/// A connection closed on one side may be silent this long (RFC 5382 REQ-5: at least 4 minutes).
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(600);
/// While something is owed, a backend's segments begin at most so many bytes from what the client has acknowledged: others
/// are of an earlier connection of this client, and their acknowledgements mean nothing.
const OWED_SPAN: i32 = 64 << 20;
/// Timeouts without progress after which a debt cannot be paid.
const MAX_TIMEOUTS: u32 = 8;

impl Splice {
    pub(crate) fn to_backend(&self, leg: &ClientLeg) -> Translation {
        let back = self.delta.wrapping_neg();
        Translation {
            source: leg.client,
            destination: self.backend,
            seq: 0,
            ack: back,
            sack: back,
            ts_value: 0,
            ts_echo: self.ts.unwrap_or(0).wrapping_neg(),
            rescale: rescale(leg.client_scale(), self.client_scale),
        }
    }

    pub(crate) fn to_client(&self, leg: &ClientLeg) -> Translation {
        Translation {
            source: leg.service,
            destination: leg.client,
            seq: self.delta,
            ack: 0,
            sack: 0,
            ts_value: self.ts.unwrap_or(0),
            ts_echo: 0,
            rescale: rescale(self.server_scale, leg.announced_scale),
        }
    }

    /// A SYN after a reset, or after both sides have acknowledged each other's end, begins a new connection; in the latter case
    /// only beyond the old one (RFC 9293 §3.10.7.4). `acked`: the client's acknowledgement.
    pub(crate) fn is_reopened(&self, syn: Seq, acked: Seq) -> bool {
        let beyond = self.window.is_some_and(|window| window.client_end.before_or_at(syn));
        self.closing.deadline.is_some() && (beyond && self.has_got_all(acked) || self.closing.reset)
    }

    /// This SYN-ACK does not begin what the backend has sent so far.
    fn is_of_another_process(&self, syn_ack: &TcpSegment<'_>) -> bool {
        let first = syn_ack.seq() + 1 + self.delta;
        self.window.is_some_and(|window| !(0..OWED_SPAN).contains(&window.server_end.since(first)))
    }

    /// Both sides have acknowledged all that there is; `acked`: the client's acknowledgement.
    pub(crate) fn has_got_all(&self, acked: Seq) -> bool {
        self.window.is_some_and(|window| {
            window.client_end.before_or_at(window.client_next) && window.server_end.before_or_at(acked)
        })
    }

    /// Whether a reset of the client goes on to the backend, which judges it; it ends the connection only where the backend may
    /// believe it.
    fn takes_reset(&mut self, segment: &TcpSegment<'_>) -> bool {
        // Of what the kernel translates, conntrack keeps account.
        if self.kernel {
            return true;
        }
        let place = self.window.map(|window| window.judge_reset(segment.seq()));
        self.closing.reset |= place == Some(Reset::Exact);
        place != Some(Reset::Outside)
    }

    /// A backend whose handshake has not ended answers a forged acknowledgement, which took the fast path, with a reset of that number
    /// (RFC 9293 §3.10.7.4). The client ignores it: it lies outside its window.
    fn answers_forged(&self, leg: &ClientLeg, segment: &TcpSegment<'_>) -> bool {
        let seq = segment.seq() + self.delta;
        let outside = self.window.is_some_and(|window| window.is_outside(seq, leg.max_window));
        !self.kernel && segment.flags().rst() && outside
    }

    /// All that the backend has to say, its end included, is acknowledged to it and owed to the client: a kernel that has forgotten the
    /// connection since then answers late acknowledgements with resets.
    fn is_owed_whole(&self) -> bool {
        self.debts.as_ref().is_some_and(|debts| debts.to_client.is_closed())
    }

    /// The kernel translates no window scales, cuts no segments, makes no timestamps, and miscalculates checksums of options on odd places.
    /// Nor does it end a handshake: a repeated SYN-ACK would go to the client, whose answer echoes what its first backend said last, and
    /// Linux (6.15 and later) takes no echo older than the SYN-ACK then.
    pub(crate) fn fits_kernel(&self, leg: &ClientLeg) -> bool {
        self.server_scale == leg.announced_scale
            && self.client_scale == leg.client_scale()
            && self.debts.is_none()
            && self.lacks.is_none()
            && !self.unheard
            && !leg.odd_places
    }
}

/// Learns what may come from a backend's segment that is no SYN.
pub(crate) fn note_backend(splice: &mut Splice, leg: &ClientLeg, segment: &TcpSegment<'_>) {
    let (delta, scale) = (splice.delta, splice.server_scale);
    if let Some(window) = &mut splice.window {
        window.note_backend(segment, delta, scale);
    } else if !splice.kernel && segment.flags().ack() && !segment.flags().rst() {
        splice.window = Some(Window::picked_up(segment, delta, scale, leg.client_scale()));
    }
}

fn rescale(from: u8, to: u8) -> Option<(u8, u8)> {
    (from != to).then_some((from, to))
}

impl Core {
    /// Puts a spliced connection on the path that fits it: the kernel's, or the queue before conntrack.
    pub(crate) fn settle(&mut self, flow: &mut Flow) {
        let prefers_kernel = self.prefers_kernel();
        let State::Spliced(splice) = &mut flow.state else { return };
        let client = flow.leg.client;
        splice.kernel = prefers_kernel && splice.fits_kernel(&flow.leg);
        if splice.kernel {
            splice.idle.seen = self.now;
            let scaled = flow.leg.options.window_scale.is_some();
            let entry = KernelSplice {
                client,
                backend: splice.backend,
                delta: splice.delta,
                timestamps: splice.ts,
                window_scales: scaled.then_some((splice.client_scale, splice.server_scale)),
                sack_permitted: flow.leg.options.sack_permitted,
            };
            self.act(Action::Splice(entry));
            flow.parked = false;
            self.resume_packets(flow);
        } else {
            self.translate_here(flow);
        }
    }

    /// Its packets are queued before conntrack from now on, once a daemon after this one would find it.
    pub(crate) fn translate_here(&mut self, flow: &mut Flow) {
        self.park(flow);
        self.suspend_packets(flow);
        self.record(flow);
    }

    /// A change of the set is a transaction with the kernel: only where it changes something.
    pub(crate) fn suspend_packets(&mut self, flow: &mut Flow) {
        if !std::mem::replace(&mut flow.suspended, true) {
            self.act(Action::Suspend(flow.leg.client));
        }
    }

    pub(crate) fn resume_packets(&mut self, flow: &mut Flow) {
        if std::mem::replace(&mut flow.suspended, false) {
            flow.began = (self.now.as_millis() as u32).wrapping_sub(1);
            self.act(Action::Resume(flow.leg.client));
        }
    }

    /// It has ended. What the fast path has of it must be gone before its client's packets are no longer queued: what is queued
    /// stays kept off there.
    pub(crate) fn let_go(&mut self, flow: &mut Flow) {
        self.unpark(flow);
        if matches!(&flow.state, State::Spliced(splice) if splice.young.is_some()) {
            self.act(Action::Unsplice(flow.leg.client));
        }
        self.resume_packets(flow);
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.settings.splice.idle_timeout_s)
    }

    /// Used just now.
    pub(crate) fn busy(&self) -> Idle {
        Idle { seen: self.now, check: self.now + self.idle_timeout() }
    }

    pub(crate) fn handle_spliced_client(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        let State::Spliced(splice) = &mut flow.state else { return Pass::No };
        if segment.flags().rst() && !splice.takes_reset(segment) {
            self.counters.count("rst_outside_window_dropped");
            return Pass::No;
        }
        if let Some(window) = splice.window.as_mut().filter(|_| !segment.flags().rst()) {
            window.note_client(segment);
        }
        if !splice.kernel {
            splice.idle.seen = self.now;
        }
        let translation = splice.to_backend(&flow.leg);
        let mut short = false;
        if let Some(debts) = &mut splice.debts {
            self.client_acknowledges(&flow.leg, debts, segment);
            // What is owed goes with the client's latest acknowledgement: one older than a window is dropped (RFC 5961 §5).
            if segment.flags().ack() {
                let acked = segment.ack().max(debts.point) + translation.ack;
                debts.leg.irs = debts.leg.irs.max(acked - 1);
            }
            short = segment.flags().ack() && !segment.flags().rst() && segment.ack().before(debts.point);
        }
        let holds = splice.debts.as_ref().is_some_and(|debts| debts.holds_back(segment));
        if holds {
            self.hold_back(flow, segment);
        } else if short {
            self.speak_for_client(flow, segment);
        }
        let State::Spliced(splice) = &mut flow.state else { return Pass::No };
        splice.closing.client_fin |= segment.flags().fin();
        if let Some(debts) = splice.debts.as_mut().filter(|_| !holds && !segment.flags().rst()) {
            debts.to_backend.note_passed(segment.seq() + segment.sequence_length());
        }
        self.note_close(flow);
        self.settle_debts(flow, false);
        if short || holds { Pass::No } else { Pass::Translated(translation) }
    }

    /// The backend's bytes begin at `point`: what the client lacks before it is the proxy's to repeat, and takes of its window.
    fn speak_for_client(&mut self, flow: &Flow, segment: &TcpSegment<'_>) {
        let State::Spliced(Splice { delta, debts: Some(debts), .. }) = &flow.state else { return };
        let (ack, window) = (debts.point - *delta, flow.leg.room(debts.point));
        self.forward_client_bytes(&flow.leg, &debts.leg, segment.seq(), segment.payload(), ack, window);
        if segment.flags().fin() {
            let seq = segment.seq() + segment.payload().len() as u32;
            self.send_to_backend(&flow.leg, &debts.leg, &Piece { seq, data: &[], fin: true }, ack, window);
        }
    }

    pub(crate) fn handle_spliced_backend(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        let State::Spliced(splice) = &mut flow.state else { return Pass::No };
        if segment.flags().syn() {
            return self.repeated_syn_ack(flow, segment);
        }
        if splice.answers_forged(&flow.leg, segment) {
            self.counters.count("rst_of_backend_outside_window_dropped");
            return Pass::No;
        }
        if segment.flags().rst() && splice.is_owed_whole() {
            self.counters.count("rst_after_end_dropped");
            return Pass::No;
        }
        if !splice.kernel {
            splice.idle.seen = self.now;
        }
        note_backend(splice, &flow.leg, segment);
        let begins = std::mem::take(&mut splice.unheard) && splice.young.is_none() && self.prefers_kernel();
        // Before it has said anything else it may answer what was forged: what a restored connection's client sends is not judged. One that
        // answers what the client said some time ago is behind what that has got, which ignores it (RFC 5961 §3.2).
        let late = flow.leg.window.is_some() && (segment.seq() + splice.delta).before(flow.leg.acked);
        splice.closing.reset |= segment.flags().rst() && !late && (splice.kernel || splice.window.is_some());
        let translation = splice.to_client(&flow.leg);
        if let (Some((value, _)), Some(offset)) = (segment.timestamps(), splice.ts) {
            flow.leg.raise_floor(value.wrapping_add(offset));
        }
        if let Some(debts) = &mut splice.debts {
            let ours = (-OWED_SPAN..OWED_SPAN).contains(&segment.seq().since(debts.leg.irs));
            if ours {
                debts.leg.learn(segment);
            }
            if ours && segment.flags().ack() {
                debts.client_next = debts.client_next.max(segment.ack());
                debts.to_backend.handle_ack(self.now, segment.ack(), debts.leg.window as usize);
            }
            self.pay_backend(&flow.leg, debts);
            if segment.seq().before(debts.point - splice.delta) && !segment.payload().is_empty() {
                self.counters.count("taken_in_again_dropped");
                return self.acknowledge_taken_in(flow, segment);
            }
            // The client was told more when its first backend failed: to it this is an old acknowledgement.
            if flow.resplices > 0 && debts.is_outdated(segment) {
                return Pass::No;
            }
            let most = self.settings.splice.hold_bytes;
            if debts.absorb(&flow.leg, segment, splice.delta, most) {
                splice.closing.server_fin |= segment.flags().fin();
                self.pay_client(&flow.leg, debts);
                return self.acknowledge_taken_in(flow, segment);
            }
        }
        splice.closing.server_fin |= segment.flags().fin();
        self.note_close(flow);
        self.settle_debts(flow, begins);
        Pass::Translated(translation)
    }

    /// The alternate repeats what was taken in. Of an answer to a `Range` request that is a head and bytes that the client has
    /// elsewhere in its stream: a client that still lacks re-sent bytes there must not get it.
    fn acknowledge_taken_in(&mut self, flow: &Flow, segment: &TcpSegment<'_>) -> Pass {
        let State::Spliced(Splice { debts: Some(debts), .. }) = &flow.state else { return Pass::No };
        self.counters.count("taken_in_again_dropped");
        let window = flow.leg.room(debts.point.max(flow.leg.acked));
        let packet = debts.leg.segment(&flow.leg, segment.ack(), debts.leg.irs + 1, window).build();
        self.send(packet);
        Pass::No
    }

    /// The backend repeats its SYN-ACK: our ACK with the request was lost. Acknowledge it; the client repeats the data. With another
    /// number it is of a later process, which has got a late copy of our SYN and knows nothing of the connection. Acknowledging what
    /// the client has acknowledged makes it reset itself (RFC 9293 §3.10.7.4), as it would have answered any later segment.
    fn repeated_syn_ack(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        let State::Spliced(splice) = &flow.state else { return Pass::No };
        let another = splice.is_of_another_process(segment);
        let next = if another { flow.leg.acked - splice.delta } else { segment.seq() + 1 };
        // After a restart this is the only one of the client's timestamps that is known: with another one the backend drops the
        // acknowledgement, and with it all that the client sends (RFC 7323 §5.3).
        if let Some((_, echo)) = segment.timestamps() {
            flow.leg.note_timestamp(echo);
        }
        let to = crate::leg::BackendLeg::new(&flow.leg, segment);
        let packet = to.segment(&flow.leg, segment.ack(), next, flow.leg.window.unwrap_or(0)).build();
        self.counters.count(if another { "syn_ack_of_another" } else { "syn_ack_repeated" });
        self.send(packet);
        Pass::No
    }

    pub(crate) fn note_close(&mut self, flow: &mut Flow) {
        let State::Spliced(splice) = &mut flow.state else { return };
        // Of what the kernel translates only stray segments come here; conntrack tells when it ends.
        if splice.kernel {
            return;
        }
        let closing = &mut splice.closing;
        if closing.client_fin || closing.server_fin {
            splice.idle.check = splice.idle.check.min(self.now + HALF_CLOSED_IDLE);
        }
        // A reset may be one that its receiver rejects (RFC 5961): any later segment postpones the end.
        if closing.reset || (closing.client_fin && closing.server_fin) {
            closing.deadline = Some(self.now + CLOSED_LINGER);
            // Who lacks something gets it by a daemon after this one, too.
            if closing.reset || splice.has_got_all(flow.leg.acked) {
                self.unpark(flow);
            }
        }
    }

    fn client_acknowledges(&mut self, leg: &ClientLeg, debts: &mut Debts, segment: &TcpSegment<'_>) {
        if segment.flags().ack() {
            debts.to_client.handle_ack(self.now, segment.ack(), leg.window.unwrap_or(0) as usize);
            self.pay_client(leg, debts);
        }
    }

    pub(crate) fn pay_client(&mut self, leg: &ClientLeg, debts: &mut Debts) {
        let window = debts.to_backend.granted(debts.client_next, debts.leg.window);
        let now = self.now;
        while let Some(piece) = debts.to_client.poll(now) {
            self.send_to_client(leg, &piece, debts.client_next, window);
        }
    }

    pub(crate) fn pay_backend(&mut self, leg: &ClientLeg, debts: &mut Debts) {
        let ack = debts.leg.irs + 1;
        let window = leg.room(debts.point.max(leg.acked));
        let now = self.now;
        while let Some(piece) = debts.to_backend.poll(now) {
            self.send_to_backend(leg, &debts.leg, &piece, ack, window);
        }
        if let Some(rest) = debts.to_backend.ask(now) {
            self.act(Action::Tell(FromProxy::Read(rest)));
        }
    }

    /// Once nothing is owed any more, the kernel may take over; also where nothing was (`begins`), and the alternate has spoken now.
    fn settle_debts(&mut self, flow: &mut Flow, begins: bool) {
        let State::Spliced(splice) = &mut flow.state else { return };
        if let Some(debts) = &mut splice.debts {
            self.release_held(&flow.leg, debts);
        }
        let paid = splice
            .debts
            .as_ref()
            .is_some_and(|debts| debts.to_client.is_done() && debts.to_backend.is_done());
        if paid {
            splice.debts = None;
        }
        let open =
            splice.closing.deadline.is_none() && !splice.closing.client_fin && !splice.closing.server_fin;
        if paid && open {
            self.settle(flow);
        } else if begins && splice.debts.is_none() && open {
            self.hand_to_conntrack(flow);
        }
    }

    pub(crate) fn handle_spliced_timeout(&mut self, flow: &mut Flow) {
        let (now, mut idle) = (self.now, self.idle_timeout());
        let State::Spliced(splice) = &mut flow.state else { return };
        if splice.closing.client_fin || splice.closing.server_fin {
            idle = idle.min(HALF_CLOSED_IDLE);
        }
        if splice.closing.deadline.is_some_and(|deadline| now >= deadline) {
            return self.forget(flow, "connections_ended");
        }
        if splice.young.is_some_and(|young| now >= young.until) {
            return self.end_youth(flow);
        }
        if !splice.kernel && now >= splice.idle.check {
            splice.idle.check = splice.idle.seen + idle;
            if now >= splice.idle.check {
                return self.forget(flow, "connections_idle_forgotten");
            }
            self.park(flow);
            self.record(flow);
        }
        let State::Spliced(Splice { debts: Some(debts), .. }) = &mut flow.state else { return };
        if debts.to_backend.is_starved(now) {
            return self.replay_lost(flow, STARVED);
        }
        debts.to_client.handle_timeout(now);
        debts.to_backend.handle_timeout(now);
        if debts.to_client.timeouts() > MAX_TIMEOUTS || debts.to_backend.timeouts() > MAX_TIMEOUTS {
            self.counters.count("debt_unpayable");
            let seq = flow.server_next();
            return self.abort(flow, seq);
        }
        self.pay_client(&flow.leg, debts);
        self.pay_backend(&flow.leg, debts);
    }

    fn forget(&mut self, flow: &mut Flow, event: &'static str) {
        self.counters.count(event);
        self.let_go(flow);
        flow.state = State::Gone;
    }

    /// Resets the client and forgets the connection.
    pub(crate) fn abort(&mut self, flow: &mut Flow, seq: Seq) {
        let ack = flow.client_next().unwrap_or(Seq(0));
        let reset = flow.leg.reset(self.now, seq, ack);
        if !self.resets.handle_sent(self.now, reset.clone()) {
            self.counters.count("client_resets_not_repeated");
        }
        self.send(reset);
        self.act(Action::Unsplice(flow.leg.client));
        self.resume_packets(flow);
        self.counters.count("clients_reset");
        flow.state = State::Gone;
    }
}
