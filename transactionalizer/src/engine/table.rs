//! The table of flows: beginnings, ends, and what is remembered of those that failed.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Client, ClientWindow, ConnectionReport, Flow, PartialResponse};
use packet::{Seq, SynOptions, TcpSegment, Time};

use crate::connection::{Connection, Handshake};
use crate::judge::End;

use super::{Action, Engine};

/// An ended flow is kept so long for its last segments.
const LINGER: Duration = Duration::from_secs(10);
/// A failed client is remembered so long beyond the time that a recovery may take.
const REMEMBER: Duration = Duration::from_secs(30);
/// Requests may grow so much when they are replayed (a `Range` field).
const REPLAY_GROWTH: u32 = 64 << 10;
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// A SYN that has not been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embryo {
    pub(super) isn: Seq,
    pub(super) options: SynOptions,
    pub(super) base: u32,
    /// When it was logged first.
    pub(super) since: Time,
}

/// A connection whose beginning is not in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Middle {
    pub(super) ack_cl: Seq,
    pub(super) client_next: Seq,
    pub(super) ended: bool,
}

impl Middle {
    /// That it cannot be recovered.
    pub(super) fn report(&self, flow: Flow) -> ConnectionReport {
        ConnectionReport {
            flow,
            options: None,
            t_l: 0,
            ack_tl: self.ack_cl.0,
            ack_cl: self.ack_cl.0,
            client_window: ClientWindow::default(),
            client_next: self.client_next.0,
            client_fin: false,
            pending: vec![],
            rest: None,
            partial: PartialResponse::default(),
            unacked: vec![],
            beyond: Vec::new(),
            unrecoverable: Some("log began in mid-connection".to_owned()),
        }
    }
}

/// What is known of a flow.
#[derive(Debug, Default)]
pub(super) enum State {
    /// At most a SYN.
    #[default]
    Unseen,
    /// From the handshake on.
    Open(Box<Connection>),
    /// Only that it exists.
    Middle(Middle),
    /// Reported as failed: everything that its backend still sends is void.
    Failed,
}

/// A segment that the logger holds for us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) hold: u64,
    pub(super) end: End,
    pub(super) time: Time,
}

/// A debt of the application that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    /// Since when it could have paid.
    pub(super) since: Time,
    /// When it was first found to be late.
    pub(super) suspected: Time,
    /// When to look again.
    pub(super) next: Time,
}

/// One flow.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Absent from the handshake on.
    pub(super) embryo: Option<Box<Embryo>>,
    pub(super) state: State,
    pub(super) held: Vec<Held>,
    /// Where it stands in the engine's timers.
    pub(super) queued: Option<Time>,
    pub(super) touched: Time,
    /// The log was lapped, and not all segments since then prove that nothing is missing: (client's, backend's).
    pub(super) suspect: (bool, bool),
    /// It is in the queue of ended flows.
    pub(super) ending: bool,
    /// A failure was found while nobody listened; it is not looked for again.
    pub(super) given_up: bool,
    /// The application's debt that is overdue; few connections have one.
    pub(super) late: Option<Box<Late>>,
    /// Its backend has been fenced under this barrier; it is reported when the fence holds.
    pub(super) failing: Option<u64>,
}

impl Entry {
    /// The connection, if its handshake was logged.
    pub(super) fn open(&self) -> Option<&Connection> {
        match &self.state {
            State::Open(connection) => Some(connection),
            _ => None,
        }
    }

    /// The SYN that a backend's answer of this number answers.
    fn asked(&self, backend_isn: Seq, now: Time) -> Option<Embryo> {
        let anew = || {
            let (isn, options, base) = self.open()?.answered_anew(backend_isn)?;
            Some(Embryo { isn, options, base, since: now })
        };
        self.embryo.as_deref().copied().or_else(anew)
    }

    /// The application's debt that is overdue.
    pub(super) fn late(&self) -> Option<Late> {
        self.late.as_deref().copied()
    }

    /// A failure of the backend would matter to the client.
    pub(super) fn concerned(&self) -> bool {
        let state = match &self.state {
            State::Open(connection) => !connection.over(),
            State::Middle(middle) => !middle.ended,
            State::Unseen | State::Failed => false,
        };
        state && !self.given_up && self.failing.is_none()
    }

    fn ended(&self) -> bool {
        match &self.state {
            State::Open(connection) => connection.closed(),
            State::Middle(middle) => middle.ended,
            State::Unseen => self.embryo.is_none(),
            State::Failed => true,
        }
    }
}

/// What is remembered of a client whose backend failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    t_l: u32,
    client_next: Seq,
    pending_bytes: u32,
    backend: SocketAddr,
    expires: Time,
}

impl Engine {
    fn max_entries(&self) -> usize {
        self.cluster.splice.connections.saturating_mul(self.cluster.proxies.len().max(1))
    }

    /// The flow's entry, made if there is room.
    pub(super) fn entry(&mut self, flow: Flow, now: Time) -> Option<&mut Entry> {
        if !self.entries.contains(&flow) {
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
    pub(super) fn handle_syn(&mut self, flow: Flow, segment: &TcpSegment<'_>, now: Time) {
        if self.live.is_none() {
            self.leave_others(flow, now);
        }
        let base = self.inherited_base(flow, segment.seq(), now);
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
        }
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
        let state =
            State::Open(Box::new(Connection::new(flow, &handshake, &self.cluster, self.kept.share(), now)));
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

    /// T_L of the failed connection that a SYN with this ISN continues at another backend: the ISN is S − R − 1
    /// (design §6.5). Any other SYN begins anew.
    fn inherited_base(&mut self, flow: Flow, isn: Seq, now: Time) -> u32 {
        let Some(memory) = self.memories.get(&flow.client) else { return 0 };
        let replayed = (memory.client_next - 1).since(isn);
        let continues =
            replayed >= 0 && replayed as u32 <= memory.pending_bytes.saturating_add(REPLAY_GROWTH);
        if continues && memory.backend != flow.backend && now < memory.expires {
            return memory.t_l;
        }
        self.memories.remove(&flow.client);
        self.unended.forget(flow.client);
        0
    }

    /// Remembers a failed client, so that ordinals go on.
    pub(super) fn remember(&mut self, report: &ConnectionReport, now: Time) {
        if self.memories.len() >= self.max_entries() {
            self.memories.retain(|_, memory| now < memory.expires);
        }
        if self.memories.len() >= self.max_entries() {
            self.counters.forgotten += 1;
            return;
        }
        let kept: u32 = report.pending.iter().map(|request| request.bytes.len() as u32).sum();
        let pending_bytes = kept.saturating_add(report.rest.map_or(0, |rest| rest.bytes as u32));
        let memory = Memory {
            t_l: report.t_l,
            client_next: Seq(report.client_next),
            pending_bytes,
            backend: report.flow.backend,
            expires: now + self.recovery_patience(),
        };
        self.memories.insert(report.flow.client, memory);
    }

    /// No recovery takes longer.
    pub(super) fn recovery_patience(&self) -> Duration {
        Duration::from_millis(self.cluster.recovery.timeout_ms) + REMEMBER
    }

    /// The recovery of this client ended, on `backend` if it succeeded. The memory stays until that connection's handshake
    /// has been read from the log.
    pub fn handle_ended(&mut self, client: Client, backend: Option<SocketAddr>) {
        self.unended.end(client, backend);
        if backend.is_none() {
            self.uploads.forget(client);
        }
        let known = |backend| {
            matches!(self.entries.get(&Flow { client, backend }), Some(Entry { state: State::Open(_), .. }))
        };
        if backend.is_none_or(known) {
            self.memories.remove(&client);
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
            State::Unseen => REMEMBER,
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
