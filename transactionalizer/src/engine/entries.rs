//! The table of flows: by backend, then by client, so that a failed backend's are at hand and each address is kept once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use cluster::control::Flow;

use crate::endpoint::Endpoint;

use super::entry::Entry;

/// What is known of each flow.
#[derive(Debug, Default)]
pub(super) struct Entries {
    backends: BTreeMap<SocketAddr, HashMap<Endpoint, Entry>>,
    len: usize,
}

impl Entries {
    /// Flows.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, flow: &Flow) -> Option<&Entry> {
        self.backends.get(&flow.backend)?.get(&flow.client.into())
    }

    pub(super) fn get_mut(&mut self, flow: &Flow) -> Option<&mut Entry> {
        self.backends.get_mut(&flow.backend)?.get_mut(&flow.client.into())
    }

    pub(super) fn contains(&self, flow: &Flow) -> bool {
        self.get(flow).is_some()
    }

    /// A new one if there is none.
    pub(super) fn get_or_default(&mut self, flow: Flow) -> &mut Entry {
        let Self { backends, len } = self;
        backends.entry(flow.backend).or_default().entry(flow.client.into()).or_insert_with(|| {
            *len += 1;
            Entry::default()
        })
    }

    pub(super) fn remove(&mut self, flow: &Flow) -> Option<Entry> {
        let clients = self.backends.get_mut(&flow.backend)?;
        let entry = clients.remove(&flow.client.into())?;
        self.len -= 1;
        if clients.is_empty() {
            self.backends.remove(&flow.backend);
        }
        Some(entry)
    }

    /// There are flows of this backend.
    pub(super) fn any_of(&self, backend: SocketAddr) -> bool {
        self.backends.contains_key(&backend)
    }

    /// The flows of a backend, in no order.
    pub(super) fn of(&self, backend: SocketAddr) -> impl Iterator<Item = (Flow, &Entry)> {
        let clients = self.backends.get(&backend).into_iter().flatten();
        clients.map(move |(client, entry)| (Flow { client: (*client).into(), backend }, entry))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Flow, &Entry)> {
        self.backends.keys().flat_map(|backend| self.of(*backend))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Flow, &mut Entry)> {
        self.backends.iter_mut().flat_map(|(backend, clients)| {
            let flow = |client: Endpoint| Flow { client: client.into(), backend: *backend };
            clients.iter_mut().map(move |(client, entry)| (flow(*client), entry))
        })
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.backends.values_mut().flat_map(HashMap::values_mut)
    }
}
