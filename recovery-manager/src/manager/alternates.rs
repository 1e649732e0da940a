//! Which backend may stand in for which.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::config::{BackendState, Cluster};

use super::LoggerId;

/// Backends that are remembered at least after the configuration has stopped naming them.
const MIN_GONE: usize = 64;

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
    /// What the operator wants of it.
    wanted: BackendState,
}

impl Alternates {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let backend = |configured: &cluster::config::Backend| {
            let others = cluster.alternates(configured.address);
            (configured.address, Backend { others, wanted: configured.state, ..Backend::default() })
        };
        Self { backends: cluster.backends.values().map(backend).collect(), turn: 0 }
    }

    /// Takes another configuration. A backend that it does not name stands in for nobody any more; the others of its pools
    /// stand in for it.
    pub(super) fn reload(&mut self, cluster: &Cluster) {
        let before = std::mem::replace(self, Self::new(cluster));
        self.turn = before.turn;
        for (address, old) in before.backends {
            // What is wanted of it comes from the proxy.
            let kept = match self.backends.remove(&address) {
                Some(backend) => Backend { others: backend.others, ..old },
                None => Backend { wanted: BackendState::Maintenance, ..old },
            };
            self.backends.insert(address, kept);
        }
        self.forget_gone(cluster);
    }

    /// Of those that no configuration names any more, as many as there are others are remembered: the latest failures of
    /// their connections can still be recovered.
    fn forget_gone(&mut self, cluster: &Cluster) {
        let configured: Vec<SocketAddr> = cluster.backends.values().map(|backend| backend.address).collect();
        let mut room = configured.len().max(MIN_GONE);
        self.backends.retain(|address, backend| {
            let stays = configured.contains(address) || backend.recovering > 0 || room > 0;
            room = room.saturating_sub(usize::from(!configured.contains(address)));
            stays
        });
    }

    /// What the operator wants of the backends.
    pub(super) fn want(&mut self, wanted: &[(SocketAddr, BackendState)]) {
        for (address, state) in wanted {
            if let Some(backend) = self.backends.get_mut(address) {
                backend.wanted = *state;
            }
        }
    }

    /// The backend that is up, stands in for the fewest connections and was not `tried`; turn by turn among equals. Drained
    /// ones only if there is no other, those in maintenance never.
    pub(super) fn choose(&mut self, failed: SocketAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let others = &self.backends.get(&failed)?.others;
        self.turn = self.turn.wrapping_add(1);
        let start = self.turn.checked_rem(others.len())?;
        let from_turn = others.iter().cycle().skip(start).take(others.len());
        let load = |address: &SocketAddr| {
            let backend = self.backends.get(address).filter(|backend| backend.down_by.is_none())?;
            (backend.wanted != BackendState::Maintenance).then_some((backend.wanted, backend.recovering))
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
