//! The table of flows: beginnings and ends.

use std::time::Duration;

use cluster::control::Flow;
use packet::{Seq, TcpSegment, Time};

use crate::connection::{Connection, Handshake};
use crate::spans::LogBytes;

use super::entry::{Embryo, Entry, State};
use super::{Action, Engine};

/// An ended flow is kept so long for its last segments.
const LINGER: Duration = Duration::from_secs(10);
/// A SYN that is not answered is kept so long.
const UNANSWERED: Duration = Duration::from_secs(30);
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

impl Engine {
    pub(super) fn max_entries(&self) -> usize {
        self.cluster.splice.connections.saturating_mul(self.cluster.proxies.len().max(1))
    }

    /// The flow's entry, made if there is room.
    pub(super) fn entry(&mut self, flow: Flow, now: Time) -> Option<&mut Entry> {
        if self.entries.len() >= self.max_entries() && !self.entries.contains(&flow) {
            self.make_room();
            if self.entries.len() >= self.max_entries() {
                self.counters.untracked += 1;
                return None;
            }
        }
        let entry = self.entries.get_or_default(flow);
        entry.touched = now;
        Some(entry)
    }

    /// At the bound, flows that have ended are forgotten early.
    fn make_room(&mut self) {
        while self.entries.len() >= self.max_entries() {
            let Some((_, flow)) = self.ended.pop_front() else { return };
            if self.entries.get(&flow).is_some_and(|entry| entry.ended() && entry.embryo.is_none()) {
                self.remove(flow);
            }
        }
    }

    /// A client's SYN. A new ISN may be a new connection; whether it is, the backend decides (RFC 5961 §4).
    pub(super) fn handle_syn(&mut self, flow: Flow, segment: &TcpSegment<'_>, now: Time, log: &dyn LogBytes) {
        let repeated = self.is_repeated(flow, segment.seq());
        match self.live {
            _ if repeated => {}
            None => self.leave_others(flow, now, log),
            Some(live) => self.remember_others(flow, live, now, log),
        }
        let base = self.inherited_base(flow, segment.seq(), repeated, now);
        let (isn, options) = (segment.seq(), segment.syn_options());
        if let Some(entry) = self.entry(flow, now) {
            let before = entry.embryo.as_ref().filter(|embryo| embryo.isn == isn);
            let embryo = Embryo { isn, options, base, since: before.map_or(now, |embryo| embryo.since) };
            // A proxy that was restarted resets what its predecessor began, and begins again with the same number.
            let repeated = matches!(
                &entry.state,
                State::Open(connection) if connection.client_isn() == embryo.isn && !connection.is_reset()
            );
            entry.embryo = (!repeated).then(|| Box::new(embryo));
            // Only a SYN lifts the logger's fence. One that passed before it held lifts nothing.
            entry.fenced &= entry.failing.is_some();
        }
    }

    /// A copy, perhaps a late one: of a backend that refused the client, or failed, so that it has gone on to another; or the reset that
    /// withdraws it has overtaken it. If the client has come back, it acknowledges the SYN-ACK.
    fn is_repeated(&self, flow: Flow, isn: Seq) -> bool {
        let Some(entry) = self.entries.get(&flow) else { return false };
        let asked = entry.embryo.as_ref().is_some_and(|embryo| embryo.isn == isn);
        let withdrawn = entry.withdrawn == Some(isn);
        asked || withdrawn || matches!(entry.state, State::Failed(Some(failed)) if failed == isn)
    }

    /// A backend's SYN-ACK: if it answers the SYN, a new connection begins and the old one's log is void.
    pub(super) fn handle_syn_ack(
        &mut self,
        flow: Flow,
        segment: &TcpSegment<'_>,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entry(flow, now) else { return };
        let Some(embryo) = entry.asked(segment.seq(), now) else { return };
        if segment.ack() != embryo.isn + 1 {
            return;
        }
        let handshake = Handshake {
            client_isn: embryo.isn,
            backend_isn: segment.seq(),
            options: embryo.options,
            backend_options: segment.syn_options(),
            base: embryo.base,
        };
        let (queued, failing, held) = (entry.queued, entry.failing, std::mem::take(&mut entry.held));
        let mut connection = Connection::new(flow, &handshake, &self.cluster, self.kept.share(), now);
        if self.keeps_updates(flow.backend) {
            connection.keep_updates(self.inherited_updates(flow, embryo.isn), &self.cluster.recovery);
        }
        let state = State::Open(Box::new(connection));
        if let Some(entry) = self.entries.get_mut(&flow) {
            *entry = Entry { state, queued, touched: now, ..Entry::default() };
        }
        self.counters.opened += 1;
        // The ends of the connection before: nobody is left to be told of them.
        for held in held {
            self.suppress(held.hold, out);
        }
        if let Some(barrier) = failing {
            self.fail_again(flow, barrier, now);
        }
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.asking.remove(&flow);
        }
    }

    /// Puts a flow that has ended into the queue of those to be forgotten.
    pub(super) fn note_end(&mut self, flow: Flow, now: Time) {
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        if entry.ended() && !entry.ending {
            entry.ending = true;
            self.ended.push_back((now, flow));
        }
    }

    /// Forgets flows that have ended a while ago, and from time to time idle ones.
    pub(super) fn forget(&mut self, now: Time) {
        while let Some((time, flow)) =
            self.ended.front().copied().filter(|(time, _)| now.since(*time) >= LINGER)
        {
            self.ended.pop_front();
            let Some(entry) = self.entries.get_mut(&flow) else { continue };
            if entry.ended() && entry.embryo.is_none() && entry.touched <= time {
                self.remove(flow);
            } else {
                entry.ending = false;
                self.note_end(flow, now);
            }
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Time) {
        let idle = Duration::from_secs(self.cluster.splice.idle_timeout_s);
        let limit = |entry: &Entry| match entry.state {
            State::Unseen => UNANSWERED,
            _ => idle,
        };
        let idle = self.entries.iter().filter(|(_, entry)| now.since(entry.touched) > limit(entry));
        let idle: Vec<Flow> = idle.map(|(flow, _)| flow).collect();
        for flow in idle {
            self.remove(flow);
        }
        self.memories.retain(|_, memory| now < memory.expires);
        self.unended.expire(now);
        self.uploads.expire(now);
    }

    fn remove(&mut self, flow: Flow) {
        let Some(entry) = self.entries.remove(&flow) else { return };
        if let Some(queued) = entry.queued {
            self.timers.remove(&(queued, flow));
        }
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.asking.remove(&flow);
            backend.late.remove(&flow);
        }
    }
}
