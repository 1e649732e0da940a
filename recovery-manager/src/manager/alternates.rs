//! Which backend may stand in for which.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::config::Cluster;

use super::LoggerId;

/// The backends of the cluster, what is known of them and what is asked of them.
#[derive(Debug)]
pub(super) struct Alternates {
    backends: BTreeMap<SocketAddr, Backend>,
    turn: usize,
}

#[derive(Debug, Default)]
struct Backend {
    /// The others of its pools.
    others: Vec<SocketAddr>,
    /// The logger that last called it down.
    down_by: Option<LoggerId>,
    /// Recoveries that it stands in for now.
    recovering: usize,
}

impl Alternates {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let backend = |address| Backend { others: cluster.alternates(address), ..Backend::default() };
        let backends =
            cluster.backends.values().map(|configured| (configured.address, backend(configured.address)));
        Self { backends: backends.collect(), turn: 0 }
    }

    /// The backend that is up, stands in for the fewest connections and was not `tried`; turn by turn among equals.
    pub(super) fn choose(&mut self, failed: SocketAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let others = &self.backends.get(&failed)?.others;
        self.turn = self.turn.wrapping_add(1);
        let start = self.turn.checked_rem(others.len())?;
        let from_turn = others.iter().cycle().skip(start).take(others.len());
        let load = |address: &SocketAddr| {
            self.backends.get(address).filter(|b| b.down_by.is_none()).map(|b| b.recovering)
        };
        let usable = from_turn.filter(|other| !tried.contains(other) && **other != failed);
        usable
            .filter_map(|other| Some((load(other)?, *other)))
            .min_by_key(|(load, _)| *load)
            .map(|(_, it)| it)
    }

    pub(super) fn begin(&mut self, alternate: SocketAddr) {
        if let Some(backend) = self.backends.get_mut(&alternate) {
            backend.recovering += 1;
        }
    }

    pub(super) fn end(&mut self, alternate: SocketAddr) {
        if let Some(backend) = self.backends.get_mut(&alternate) {
            backend.recovering = backend.recovering.saturating_sub(1);
        }
    }

    /// True if this changes whether it is up; a backend that is not configured never changes.
    pub(super) fn set(&mut self, backend: SocketAddr, down_by: Option<LoggerId>) -> bool {
        let Some(backend) = self.backends.get_mut(&backend) else { return false };
        let changed = backend.down_by.is_some() != down_by.is_some();
        backend.down_by = down_by;
        changed
    }

    pub(super) fn down(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.backends.iter().filter(|(_, backend)| backend.down_by.is_some()).map(|(address, _)| *address)
    }

    pub(super) fn down_by(&self, backend: SocketAddr) -> Option<LoggerId> {
        self.backends.get(&backend)?.down_by
    }

    /// Every backend and whether it is up.
    pub(super) fn all(&self) -> Vec<(SocketAddr, bool)> {
        self.backends.iter().map(|(address, backend)| (*address, backend.down_by.is_none())).collect()
    }
}
