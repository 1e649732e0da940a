//! The proxy: packets of connections that the kernel does not translate go to `nfq-splice`.
//!
//! A spliced connection's packets carry [`SPLICED_MARK`] on their conntrack entry and pass. Everything else between
//! clients, service and backends is queued, without a test of conntrack's opinion: a packet that conntrack finds
//! invalid, or that is untracked, has no entry, and would match neither a mark nor its negation.
//!
//! Flows in the set [`QUEUED_SET`] (suspended, or spliced in user space) are queued *before* conntrack and stay
//! untracked. What the daemon sends on has other addresses: client → server the backend as its destination,
//! server → client the service as its source, so it is not queued a second time after conntrack. A packet that
//! is accepted there unchanged would be.

use std::net::SocketAddr;

use cluster::config::Cluster;
use netfilter::Family;

use crate::text::{self, Chain, elements, to};
use crate::{
    BEFORE_CONNTRACK_MARK, Error, HAND_OVER_CHAIN, PROXY_QUEUE, PROXY_TABLE, QUEUED_SET, QueueForm, RAW_MARK,
    Ruleset, SPLICED_MARK,
};

/// What the proxy's rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRules {
    service: SocketAddr,
    backends: Vec<SocketAddr>,
    queue: u16,
    flow_limit: u32,
}

impl ProxyRules {
    /// `flow_limit` bounds the set of flows queued before conntrack.
    pub fn new(
        service: SocketAddr,
        backends: Vec<SocketAddr>,
        queue: u16,
        flow_limit: u32,
    ) -> Result<Self, Error> {
        let backends = crate::one_family(text::family(service), backends)?;
        Ok(Self { service, backends, queue, flow_limit })
    }

    /// All backends, and as many flows as the proxy has connections.
    pub fn from_cluster(cluster: &Cluster) -> Result<Self, Error> {
        let backends = cluster.backends.values().map(|backend| backend.address).collect();
        let flow_limit = u32::try_from(cluster.splice.connections).unwrap_or(u32::MAX);
        Self::new(cluster.service.address, backends, PROXY_QUEUE, flow_limit)
    }

    /// Before conntrack: packets to be held while a splice is changed, and those translated in user space.
    fn before_conntrack(&self) -> Vec<String> {
        let (ip, service, backends) = (self.family().name(), to(self.service), elements(&self.backends));
        vec![
            format!(
                "{service} {ip} saddr . tcp sport @{QUEUED_SET} notrack meta mark set {BEFORE_CONNTRACK_MARK:#x} goto {HAND_OVER_CHAIN}"
            ),
            format!(
                "{ip} saddr . tcp sport {backends} {ip} daddr . tcp dport @{QUEUED_SET} \
                 notrack meta mark set {BEFORE_CONNTRACK_MARK:#x} goto {HAND_OVER_CHAIN}"
            ),
        ]
    }

    /// After conntrack: new connections (also on a port whose old entry is still there), then the spliced pass,
    /// then all the rest of ours.
    ///
    /// A backend's RST and SYN-ACK are the daemon's even when spliced: conntrack's SYNPROXY hook would take them for
    /// the answers to a SYN of its own and set the sequence offset anew, so that the client would reject the RST.
    fn after_conntrack(&self) -> Vec<String> {
        let (ip, service, backends) = (self.family().name(), to(self.service), elements(&self.backends));
        let from_backend = format!("{ip} saddr . tcp sport {backends} fib daddr type != local");
        vec![
            format!("{service} tcp flags & (syn | ack) == syn goto {HAND_OVER_CHAIN}"),
            format!("{from_backend} tcp flags & (syn | rst) != 0 goto {HAND_OVER_CHAIN}"),
            format!("ct mark {SPLICED_MARK:#x} accept"),
            format!("{service} goto {HAND_OVER_CHAIN}"),
            format!("{from_backend} goto {HAND_OVER_CHAIN}"),
        ]
    }

    fn chains(&self) -> Vec<Chain> {
        vec![
            Chain::hooked(
                "raw_prerouting",
                "type filter hook prerouting priority raw",
                self.before_conntrack(),
            ),
            Chain::hooked(
                "prerouting",
                "type filter hook prerouting priority mangle",
                self.after_conntrack(),
            ),
            // Behind NAT nothing is addressed to the service any more: what is, was not translated.
            Chain::hooked(
                "untranslated",
                "type filter hook forward priority filter",
                vec![format!("{} counter drop", to(self.service))],
            ),
            Chain::hooked(
                "raw_output",
                "type filter hook output priority raw",
                vec![format!("meta mark {RAW_MARK:#x} notrack")],
            ),
            // The hooks that translate exist only where such a chain and such a rule do.
            Chain::hooked("nat_hooks", "type nat hook prerouting priority dstnat", Vec::new()),
            Chain::hooked(
                "timestamp_hook",
                "type filter hook input priority filter",
                vec![NEVER_SYNPROXY.to_owned()],
            ),
        ]
    }
}

/// No packet has two marks.
const NEVER_SYNPROXY: &str = "meta mark 1 meta mark 2 tcp dport 1 ct state invalid,untracked \
                              synproxy mss 1460 wscale 7 timestamp sack-perm";

impl Ruleset for ProxyRules {
    fn family(&self) -> Family {
        text::family(self.service)
    }

    fn table(&self) -> &'static str {
        PROXY_TABLE
    }

    fn queue(&self) -> u16 {
        self.queue
    }

    fn set(&self) -> Option<(&'static str, u32)> {
        Some((QUEUED_SET, self.flow_limit.max(1)))
    }

    fn render(&self, form: QueueForm) -> String {
        let address = text::address_type(self.family());
        let size = self.flow_limit.max(1);
        let set = format!("{QUEUED_SET} {{ type {address} . inet_service; size {size}; }}");
        let mut chains = Vec::from(text::queue_chains(form, self.queue));
        chains.extend(self.chains());
        text::transaction(self.family(), PROXY_TABLE, &[set], &chains)
    }
}
