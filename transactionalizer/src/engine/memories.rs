//! What is remembered of clients whose backend failed, until they come back with another one.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Client, ConnectionReport, Flow};
use packet::{Seq, Time};

use super::Engine;
use super::entry::{Entry, State};

/// A failed client is remembered so long beyond the time that a recovery may take.
const REMEMBER: Duration = Duration::from_secs(30);
/// Requests may grow so much when they are replayed (a `Range` field).
const REPLAY_GROWTH: u32 = 64 << 10;

/// What is remembered of a client whose backend failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    t_l: u32,
    client_next: Seq,
    pending_bytes: u32,
    backend: SocketAddr,
    pub(super) expires: Time,
}

impl Engine {
    /// T_L of the failed connection that a SYN with this ISN continues at another backend: the ISN is S − R − 1
    /// (design §6.5). Any other SYN begins anew.
    pub(super) fn inherited_base(&mut self, flow: Flow, isn: Seq, now: Time) -> u32 {
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
}
