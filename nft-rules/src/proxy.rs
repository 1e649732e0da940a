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
use std::ops::Range;

use cluster::config::Cluster;
use netfilter::Family;

use crate::network;
use crate::text::{self, Chain, elements, to};
use crate::{
    BACKEND_CHAIN, BEFORE_CONNTRACK_MARK, CLIENT_CHAIN, Error, FRESH_MARK, INJECTION_DEVICE, PROXY_QUEUE,
    PROXY_TABLE, QUEUED_SET, QueueForm, RAW_MARK, Ruleset, SPLICED_MARK, placement, queue_chain,
};

/// What the proxy's rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRules {
    service: SocketAddr,
    backends: Vec<SocketAddr>,
    queues: Range<u16>,
    flow_limit: u32,
}

impl ProxyRules {
    /// `queues`: 1 to [`placement::MAX_QUEUES`] of them. `flow_limit` bounds the set of flows queued before conntrack.
    pub fn new(
        service: SocketAddr,
        backends: Vec<SocketAddr>,
        queues: Range<u16>,
        flow_limit: u32,
    ) -> Result<Self, Error> {
        let backends = crate::one_family(text::family(service), backends)?;
        let count = (queues.len() as u16).clamp(1, placement::MAX_QUEUES);
        let queues = queues.start..queues.start.saturating_add(count);
        Ok(Self { service, backends, queues, flow_limit })
    }

    /// All backends, and as many flows as the proxy has connections: those of a queue, rounded up, times the queues.
    pub fn from_cluster(cluster: &Cluster) -> Result<Self, Error> {
        let backends = cluster.backends.values().map(|backend| backend.address).collect();
        let count = proxy_queues(cluster);
        let flows = cluster.splice.connections.next_multiple_of(usize::from(count));
        let flow_limit = u32::try_from(flows).unwrap_or(u32::MAX);
        let queues = PROXY_QUEUE..PROXY_QUEUE + count;
        Self::new(cluster.service.address, backends, queues, flow_limit)
    }

    /// Also for backends that the configuration does not name: earlier ones, which still have connections.
    pub fn with_backends(self, more: impl IntoIterator<Item = SocketAddr>) -> Result<Self, Error> {
        let backends = self.backends.iter().copied().chain(more).collect();
        Ok(Self { backends: crate::one_family(self.family(), backends)?, ..self })
    }

    /// Before conntrack: packets to be held while a splice is changed, those translated in user space, ICMP errors.
    fn before_conntrack(&self) -> Vec<String> {
        let (ip, service, backends) = (self.family().name(), to(self.service), elements(&self.backends));
        let mut rules = vec![
            format!(
                "{service} {ip} saddr . tcp sport @{QUEUED_SET} notrack meta mark set {BEFORE_CONNTRACK_MARK:#x} goto {CLIENT_CHAIN}"
            ),
            format!(
                "{ip} saddr . tcp sport {backends} {ip} daddr . tcp dport @{QUEUED_SET} \
                 notrack meta mark set {BEFORE_CONNTRACK_MARK:#x} goto {BACKEND_CHAIN}"
            ),
        ];
        rules.extend(network::error_rules(self.service, &self.backends));
        rules.push(format!("iifname {INJECTION_DEVICE} notrack"));
        rules
    }

    /// After conntrack: nearly all segments of spliced connections meet the first rule only. Then new connections (also on a
    /// port whose old entry is still there; the daemon need not ask for one where conntrack found none, or has itself removed
    /// one in TIME-WAIT), then the rest of what is spliced passes, then all the rest of ours is queued.
    ///
    /// A backend's RST and SYN-ACK are the daemon's even when spliced: conntrack's SYNPROXY hook would take them for
    /// the answers to a SYN of its own and set the sequence offset anew, so that the client would reject the RST.
    /// So is urgent data: only the daemon can take back its urgency.
    fn after_conntrack(&self) -> Vec<String> {
        let (ip, service, backends) = (self.family().name(), to(self.service), elements(&self.backends));
        let from_backend = format!("{ip} saddr . tcp sport {backends} fib daddr type != local");
        vec![
            format!("ct mark {SPLICED_MARK:#x} {ORDINARY} accept"),
            format!("{service} {SYN} ct state new meta mark set {FRESH_MARK:#x} goto {CLIENT_CHAIN}"),
            format!("{service} tcp flags & (syn | urg) != 0 goto {CLIENT_CHAIN}"),
            format!("tcp flags & (syn | rst | urg) != 0 {from_backend} goto {BACKEND_CHAIN}"),
            format!("ct mark {SPLICED_MARK:#x} accept"),
            format!("{service} goto {CLIENT_CHAIN}"),
            format!("{from_backend} goto {BACKEND_CHAIN}"),
        ]
    }

    /// Both directions of a connection go to the queue that the client's address and port say.
    fn placement(&self) -> [Chain; 4] {
        let count = self.queues.len();
        let calls: Vec<String> =
            (0..count).map(|index| format!("{index} : jump {}", queue_chain(index))).collect();
        let call = |hash: &str| format!("{hash} vmap {{ {} }}", calls.join(", "));
        let of_segment =
            |client_is_source| call(&placement::expression(self.family(), client_is_source, count as u16));
        let [about_client, about_backend] = network::error_chains(self.family(), count as u16, call);
        [
            text::hand_over(CLIENT_CHAIN, of_segment(true)),
            text::hand_over(BACKEND_CHAIN, of_segment(false)),
            about_client,
            about_backend,
        ]
    }

    /// What the daemon sends passes untracked; what the proxy itself has to say about a segment is the daemon's.
    fn output(&self) -> Vec<String> {
        let own = format!("meta mark {RAW_MARK:#x} notrack accept");
        std::iter::once(own).chain(network::error_rules(self.service, &self.backends)).collect()
    }

    fn chains(&self) -> Vec<Chain> {
        let hooked = vec![
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
                vec![
                    format!("{} counter drop", to(self.service)),
                    network::untranslated_fragment(self.service),
                ],
            ),
            Chain::hooked("raw_output", "type filter hook output priority raw", self.output()),
            // The hooks that translate exist only where such a chain and such a rule do.
            Chain::hooked("nat_hooks", "type nat hook prerouting priority dstnat", Vec::new()),
            Chain::hooked(
                "timestamp_hook",
                "type filter hook input priority filter",
                vec![NEVER_SYNPROXY.to_owned()],
            ),
        ];
        network::fragment_chain(self.service).into_iter().chain(hooked).collect()
    }
}

/// The number of queues of a proxy: as configured, or one for each core of this host.
pub fn proxy_queues(cluster: &Cluster) -> u16 {
    let configured = cluster.splice.queues;
    let wanted = if configured == 0 { netfilter::queue::online_cores() } else { configured };
    wanted.clamp(1, placement::MAX_QUEUES)
}

/// What the daemon need not see of a spliced connection, from either side.
const ORDINARY: &str = "tcp flags & (syn | rst | urg) == 0";

const SYN: &str = "tcp flags & (syn | ack) == syn";

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

    fn queues(&self) -> Range<u16> {
        self.queues.clone()
    }

    fn set(&self) -> Option<(&'static str, u32)> {
        Some((QUEUED_SET, self.flow_limit.max(1)))
    }

    fn render(&self, form: QueueForm) -> String {
        let address = text::address_type(self.family());
        let size = self.flow_limit.max(1);
        let set = format!("{QUEUED_SET} {{ type {address} . inet_service; size {size}; }}");
        let mut chains = text::queue_chains(form, self.queues());
        chains.extend(self.placement());
        chains.extend(self.chains());
        text::transaction(self.family(), PROXY_TABLE, &[set], &chains)
    }
}
