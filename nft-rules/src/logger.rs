//! The logger: everything that it forwards between clients (or proxies) and backends goes to `nfq-logger`, which logs
//! it before it lets it pass. Fragments are put together first, and are fragments again behind the logger: a proxy's kernel
//! sends on as fragments what came as such. ICMP is not queued.

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

    /// Also for backends that the configuration does not name: earlier ones, which still have connections.
    pub fn with_backends(self, more: impl IntoIterator<Item = SocketAddr>) -> Result<Self, Error> {
        let backends = self.backends.iter().copied().chain(more).collect();
        Ok(Self { backends: crate::one_family(self.family, backends)?, ..self })
    }

    fn forward(&self) -> Vec<String> {
        let (ip, backends) = (self.family.name(), elements(&self.backends));
        vec![
            format!("{ip} daddr . tcp dport {backends} goto {HAND_OVER_CHAIN}"),
            format!("{ip} saddr . tcp sport {backends} goto {HAND_OVER_CHAIN}"),
        ]
    }
}

/// No packet has two marks. The kernel puts fragments together where such a rule is, without tracking connections.
const NEVER_TPROXY: &str = "meta mark 1 meta mark 2 meta l4proto tcp tproxy to :1";

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
        let whole = vec![NEVER_TPROXY.to_owned()];
        chains.push(Chain::hooked("whole_packets", "type filter hook prerouting priority mangle", whole));
        chains.push(Chain::hooked("forward", "type filter hook forward priority filter", self.forward()));
        text::transaction(self.family, LOGGER_TABLE, &[], &chains)
    }
}
