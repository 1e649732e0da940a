//! What is remembered of clients whose backend failed, until they come back with another one.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::PoolState;
use cluster::control::{Client, ConnectionReport, Flow, Updates};
use packet::{Seq, Time};

use crate::kept::Share;
use crate::spans::LogBytes;

use super::Engine;
use super::entry::{Entry, State};

/// A failed client is remembered so long beyond the time that a recovery may take.
const REMEMBER: Duration = Duration::from_secs(30);
/// Requests may grow so much when they are replayed (a `Range` field).
const REPLAY_GROWTH: u32 = 64 << 10;

/// What is remembered of a client whose backend failed.
#[derive(Debug)]
pub(super) struct Memory {
    t_l: u32,
    client_next: Seq,
    pending_bytes: u32,
    backend: SocketAddr,
    /// Where backends have each their own state: what is replayed first.
    updates: Option<Updates>,
    /// They are counted as long as they are here.
    _share: Share,
    pub(super) expires: Time,
}

impl Memory {
    /// The ordinal before that of the first transaction on the connection whose SYN has this number, if that continues the
    /// failed one: the number is S − R − 1 (design §6.5). Replayed updates count as the last ones before T_L + 1.
    fn base(&self, isn: Seq) -> Option<u32> {
        let sent = u32::try_from((self.client_next - 1).since(isn)).ok()?;
        let answered = self.updates.as_ref().map_or(&[][..], |updates| &updates.answered);
        let bytes = answered.iter().map(|update| update.bytes.len() as u32).fold(0, u32::saturating_add);
        let most = self.pending_bytes.saturating_add(REPLAY_GROWTH).saturating_add(bytes);
        (sent <= most).then(|| self.t_l.saturating_sub(answered.len() as u32))
    }
}

impl Engine {
    /// See [`Memory::base`]; any other SYN begins anew, unless it is one of the failed connection, `repeated`.
    pub(super) fn inherited_base(&mut self, flow: Flow, isn: Seq, repeated: bool, now: Time) -> u32 {
        let Some(memory) = self.memories.get_mut(&flow.client) else { return 0 };
        if let Some(base) = memory.base(isn)
            && memory.backend != flow.backend
            && now < memory.expires
        {
            if let Some(updates) = memory.updates.as_mut().filter(|it| !it.ran_at.contains(&flow.backend)) {
                updates.ran_at.push(flow.backend);
            }
            return base;
        }
        if repeated && memory.backend == flow.backend {
            return 0;
        }
        self.memories.remove(&flow.client);
        self.unended.forget(flow.client);
        0
    }

    /// The updates of the failed connection that this one continues.
    pub(super) fn inherited_updates(&self, flow: Flow, isn: Seq) -> Option<Updates> {
        let memory = self.memories.get(&flow.client).filter(|memory| memory.backend != flow.backend)?;
        memory.base(isn).and(memory.updates.clone())
    }

    /// An alternate of this backend would not have the state of its connections.
    pub(super) fn keeps_updates(&self, backend: SocketAddr) -> bool {
        let pool = self.backends.get(&backend).and_then(|entry| self.cluster.pools.values().nth(entry.pool));
        pool.is_some_and(|pool| pool.state == PoolState::Separate)
    }

    /// Backends on which this client's updates may have run since its failure was reported.
    pub(super) fn ran_at(&self, client: Client) -> Option<&[SocketAddr]> {
        Some(&self.memories.get(&client)?.updates.as_ref()?.ran_at)
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
        // No more than the connection had.
        let mut share = self.kept.share();
        share.set(report.updates.as_ref().map_or(0, Updates::bytes));
        let memory = Memory {
            t_l: report.t_l,
            client_next: Seq(report.client_next),
            pending_bytes,
            backend: report.flow.backend,
            updates: report.updates.clone(),
            _share: share,
            expires: now + self.recovery_patience(),
        };
        self.memories.insert(report.flow.client, memory);
    }

    /// A client goes to another backend although this one has reported no failure of its connection: a predecessor has, while a recovery
    /// may take that long. Where it begins anew, [`Engine::inherited_base`] forgets that at once.
    pub(super) fn remember_others(&mut self, flow: Flow, live: Time, now: Time, log: &dyn LogBytes) {
        if now.since(live) > self.recovery_patience() || self.memories.contains_key(&flow.client) {
            return;
        }
        let left = self.backends.keys().find_map(|backend| {
            let other = Flow { client: flow.client, backend: *backend };
            let open = self.connection(other).filter(|open| other != flow && !open.over())?;
            Some(open.report(log))
        });
        if let Some(report) = left {
            self.remember(&report, now);
        }
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
}
