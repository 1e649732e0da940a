//! Backends as operators see and want them.

use std::net::SocketAddr;

use cluster::config::{BackendState, Cluster};
use cluster::control::{BackendHealth, LogStatus};
use packet::Time;

use crate::detector::kinds::Pool;

use super::Engine;
use super::backends::BackendEntry;

impl Engine {
    /// What the operator wants of backends.
    pub fn handle_wanted(&mut self, wanted: &[(SocketAddr, BackendState)], now: Time) {
        for (address, state) in wanted {
            if let Some(entry) = self.backends.get_mut(address) {
                entry.health.set_maintenance(*state == BackendState::Maintenance, now);
            }
        }
    }

    /// For `resplice status`.
    pub fn status(&self) -> LogStatus {
        let backends =
            self.backends.iter().map(|(address, entry)| (*address, entry.health.is_up())).collect();
        let health =
            self.backends.iter().map(|(address, entry)| entry.health(*address, self.latest)).collect();
        let mut counters = self.counters.by_name();
        counters.insert("connections".to_owned(), self.entries.len() as u64);
        counters.insert("kinds".to_owned(), self.kinds.len() as u64);
        counters.insert("kinds_overflowed".to_owned(), self.kinds.overflowed);
        counters.insert("kept_bytes_now".to_owned(), self.kept.bytes() as u64);
        counters.insert("uploads_now".to_owned(), self.uploads.len() as u64);
        counters.insert("lateness_us_now".to_owned(), self.lateness.get(self.latest).as_micros() as u64);
        counters.insert("managers".to_owned(), self.managers as u64);
        LogStatus { backends, health, counters }
    }
}

impl BackendEntry {
    fn health(&self, address: SocketAddr, now: Time) -> BackendHealth {
        let hysteresis = self.health.hysteresis();
        BackendHealth {
            address,
            state: self.health.state(),
            since_ms: now.since(hysteresis.changed()).as_millis() as u64,
            good: hysteresis.good(),
            needed: self.health.needed(),
            flaps: hysteresis.flaps(),
            late: self.late.len() as u64,
            margin: self.margin.factor(now),
        }
    }
}

/// The first pool that a backend is in: kinds of request are compared within it.
pub(super) fn pool_of(cluster: &Cluster, backend: SocketAddr) -> Pool {
    let name = cluster.backend_name(backend);
    let has = |pool: &cluster::config::Pool| name.is_some_and(|name| pool.backends.iter().any(|n| n == name));
    cluster.pools.values().position(has).unwrap_or(usize::MAX)
}
