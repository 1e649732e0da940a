//! What is known of the backends, and what the operator wants of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use cluster::config::{BackendState, Cluster};
use cluster::control::BackendStatus;

use super::Unusable;

#[derive(Debug, Clone)]
pub(super) struct Backends {
    known: BTreeMap<SocketAddr, Backend>,
    /// What the operator said, by name: it holds over a reload.
    orders: BTreeMap<String, BackendState>,
    /// Not configured any more, but with connections when last looked at.
    former: BTreeSet<SocketAddr>,
}

#[derive(Debug, Clone)]
struct Backend {
    name: String,
    configured: BackendState,
    down: bool,
}

impl Backends {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { known: known(cluster), orders: BTreeMap::new(), former: BTreeSet::new() }
    }

    pub(super) fn replace(&mut self, new: Self, used: &BTreeSet<SocketAddr>) {
        let before = std::mem::replace(&mut self.known, new.known);
        for (address, backend) in &mut self.known {
            backend.down = before.get(address).is_some_and(|before| before.down);
        }
        self.former = used.iter().copied().filter(|address| !self.known.contains_key(address)).collect();
        let known = &self.known;
        self.orders.retain(|name, _| known.values().any(|backend| backend.name == *name));
    }

    /// True if this changes anything.
    pub(super) fn set_down(&mut self, backend: SocketAddr, down: bool) -> bool {
        let Some(backend) = self.known.get_mut(&backend) else { return false };
        std::mem::replace(&mut backend.down, down) != down
    }

    /// False if there is no such backend.
    pub(super) fn order(&mut self, name: &str, state: BackendState) -> bool {
        let Some(backend) = self.known.values().find(|backend| backend.name == name) else { return false };
        if state == BackendState::Up && backend.configured == state {
            self.orders.remove(name);
        } else {
            self.orders.insert(name.to_owned(), state);
        }
        true
    }

    pub(super) fn orders(&self) -> &BTreeMap<String, BackendState> {
        &self.orders
    }

    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.known.contains_key(&address) || self.former.contains(&address)
    }

    pub(super) fn remember(&mut self, address: SocketAddr) {
        if !self.known.contains_key(&address) {
            self.former.insert(address);
        }
    }

    pub(super) fn former(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.former.iter().copied()
    }

    /// Why new connections avoid it, if they do.
    pub(super) fn unusable(&self, address: SocketAddr) -> Option<Unusable> {
        let backend = self.known.get(&address)?;
        match self.state(backend) {
            BackendState::Drain | BackendState::Maintenance => Some(Unusable::Drained),
            BackendState::Up => backend.down.then_some(Unusable::Down),
        }
    }

    pub(super) fn usable(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.known.keys().copied().filter(|address| self.unusable(*address).is_none())
    }

    fn state(&self, backend: &Backend) -> BackendState {
        self.orders.get(&backend.name).copied().unwrap_or(backend.configured)
    }

    pub(super) fn wanted(&self) -> Vec<(SocketAddr, BackendState)> {
        self.known.iter().map(|(address, backend)| (*address, self.state(backend))).collect()
    }

    pub(super) fn states(&self, connections: &BTreeMap<SocketAddr, u64>) -> Vec<BackendStatus> {
        let connections = |address| connections.get(&address).copied().unwrap_or_default();
        let known = self.known.iter().map(|(address, backend)| BackendStatus {
            name: Some(backend.name.clone()),
            address: *address,
            state: self.state(backend),
            down: backend.down,
            connections: connections(*address),
        });
        let former = self.former.iter().filter(|address| connections(**address) > 0);
        let former = former.map(|address| BackendStatus {
            name: None,
            address: *address,
            state: BackendState::Drain,
            down: false,
            connections: connections(*address),
        });
        known.chain(former).collect()
    }
}

fn known(cluster: &Cluster) -> BTreeMap<SocketAddr, Backend> {
    let backend = |(name, backend): (&String, &cluster::config::Backend)| {
        (backend.address, Backend { name: name.clone(), configured: backend.state, down: false })
    };
    cluster.backends.iter().map(backend).collect()
}
