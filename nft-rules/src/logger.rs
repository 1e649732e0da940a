//! The logger: everything that it forwards between clients (or proxies) and backends goes to `nfq-logger`, which logs
//! it before it lets it pass. Later fragments and ICMP carry no TCP header and are not queued.

use std::net::SocketAddr;
use std::ops::Range;

use cluster::config::Cluster;
use netfilter::Family;

use crate::text::{self, Chain, elements};
use crate::{Error, HAND_OVER_CHAIN, LOGGER_QUEUE, LOGGER_TABLE, QueueForm, Ruleset};

/// What the logger's rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggerRules {
    family: Family,
    backends: Vec<SocketAddr>,
    queue: u16,
}

impl LoggerRules {
    /// All backends must be of one family.
    pub fn new(backends: Vec<SocketAddr>, queue: u16) -> Result<Self, Error> {
        let family = backends.first().copied().map(text::family).ok_or(Error::NoBackends)?;
        Ok(Self { family, backends: crate::one_family(family, backends)?, queue })
    }

    /// All backends.
    pub fn from_cluster(cluster: &Cluster) -> Result<Self, Error> {
        Self::new(cluster.backends.values().map(|backend| backend.address).collect(), LOGGER_QUEUE)
    }

    fn forward(&self) -> Vec<String> {
        let (ip, backends) = (self.family.name(), elements(&self.backends));
        vec![
            format!("{ip} daddr . tcp dport {backends} goto {HAND_OVER_CHAIN}"),
            format!("{ip} saddr . tcp sport {backends} goto {HAND_OVER_CHAIN}"),
        ]
    }
}

impl Ruleset for LoggerRules {
    fn family(&self) -> Family {
        self.family
    }

    fn table(&self) -> &'static str {
        LOGGER_TABLE
    }

    fn queues(&self) -> Range<u16> {
        self.queue..self.queue.saturating_add(1)
    }

    fn render(&self, form: QueueForm) -> String {
        let mut chains = text::queue_chains(form, self.queues());
        chains.push(Chain::hooked("forward", "type filter hook forward priority filter", self.forward()));
        text::transaction(self.family, LOGGER_TABLE, &[], &chains)
    }
}
