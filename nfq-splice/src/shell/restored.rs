//! What a daemon finds of the one before.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use cluster::control::Client;
use daemon::now;
use netfilter::fast_path::Passed;
use nfq_splice::{Engine, KernelSplice, Parked};
use nft_rules::placement::queue_of;

use super::fast;
use super::kernel::Kernel;

/// What an earlier daemon left, of all clients or of one shard's.
pub(super) struct Restored {
    /// Splices that are in the kernel.
    pub(super) entries: Vec<KernelSplice>,
    /// Those that the earlier daemon translated itself.
    pub(super) parked: Vec<Parked>,
    /// Those that it had left to the fast path alone, and what went past of their client and server.
    pub(super) young: Vec<(Parked, [Option<Passed>; 2])>,
    /// Clients whose connections nobody translates any more.
    pub(super) lost: Vec<Client>,
}

impl Restored {
    /// Reads conntrack, the set of queued flows, and the fast path's map.
    pub(super) fn find(kernel: &mut Kernel) -> Result<Self> {
        let parked = kernel.parked()?;
        let entries = kernel.entries()?;
        let mut known: BTreeSet<Client> = parked.iter().map(|parked| parked.splice.client).collect();
        let mut young = if kernel.is_fast() { kernel.young() } else { Vec::new() };
        // Of one that was just becoming conntrack's there is both.
        let in_kernel: BTreeSet<Client> = entries.iter().map(|entry| entry.client).collect();
        young.retain(|(young, _)| !in_kernel.contains(&young.splice.client));
        young.retain(|(young, _)| known.insert(young.splice.client));
        let lost = kernel.resume_lost(&known)?;
        Ok(Self { entries, parked, young, lost })
    }

    /// Connections that go on.
    pub(super) fn count(&self) -> usize {
        self.entries.len() + self.parked.len() + self.young.len()
    }

    /// To each queue its own.
    pub(super) fn by_queue(self, queues: u16) -> Vec<Self> {
        let part = |queue| {
            let own = |client: Client| queue_of(client, queues) == queue;
            Self {
                entries: self.entries.iter().filter(|entry| own(entry.client)).copied().collect(),
                young: self.young.iter().filter(|(young, _)| own(young.splice.client)).copied().collect(),
                parked: self.parked.iter().filter(|parked| own(parked.splice.client)).copied().collect(),
                lost: self.lost.iter().filter(|client| own(**client)).copied().collect(),
            }
        };
        (0..queues).map(part).collect()
    }

    /// To the engine of this queue.
    pub(super) fn give(&self, engine: &mut Engine, service: SocketAddr) {
        for entry in &self.entries {
            engine.handle_restored(now(), entry);
        }
        for parked in &self.parked {
            engine.handle_parked(now(), parked);
        }
        for (young, passed) in &self.young {
            let client = young.splice.client;
            engine.handle_young(now(), young);
            fast::tell(engine, (client, service), *passed, now());
            engine.handle_recalled(now(), client);
        }
        for client in &self.lost {
            engine.handle_lost(*client);
        }
    }
}
