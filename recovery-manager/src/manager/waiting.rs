//! Recoveries that wait until an alternate has room for them, in the order in which they came.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::control::Client;

/// Entries that are looked at from the front, of each failed backend: the first may have tried the alternate that has room.
const LOOK: usize = 8;

/// A place in the queue.
pub(super) type Place = (SocketAddr, u64);

/// By failed backend, because these have different alternates.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    clients: BTreeMap<Place, Client>,
    next: u64,
}

impl Waiting {
    /// Behind all others of this failed backend.
    pub(super) fn push(&mut self, failed: SocketAddr, client: Client) -> Place {
        let place = (failed, self.next);
        self.next += 1;
        self.clients.insert(place, client);
        place
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.clients.remove(&place);
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn clear(&mut self) {
        self.clients.clear();
    }

    /// The first ones of each failed backend.
    pub(super) fn first(&self) -> Vec<Client> {
        let mut first = Vec::new();
        let mut from = self.clients.keys().next().copied();
        while let Some((failed, number)) = from {
            let its = self.clients.range((failed, number)..=(failed, u64::MAX)).take(LOOK);
            first.extend(its.map(|(_, client)| *client));
            let behind = (std::ops::Bound::Excluded((failed, u64::MAX)), std::ops::Bound::Unbounded);
            from = self.clients.range(behind).next().map(|(place, _)| *place);
        }
        first
    }
}
