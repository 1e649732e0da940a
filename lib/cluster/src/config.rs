//! `cluster.toml` as types. Unknown keys are errors: a misspelt key must not be a silent default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod addresses;
mod error;
mod load;
mod lookup;
mod protocol;
mod reload;
mod report;
mod routes;
mod routing;
mod rules;
mod schema;
mod shape;
mod tagging;

pub use error::{ConfigError, Problem};
pub use protocol::{Lines, ProtocolName, Records};
pub use routing::{
    Backend, BackendState, Balance, CookieMatch, HeaderMatch, Pool, PoolState, Route, host_fits, path_fits,
};
pub use tagging::TagRule;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Names and limits that concern all nodes.
    pub cluster: Identity,
    /// What clients connect to.
    pub service: Service,
    /// Tried in order; the first that matches decides. A request that matches none is answered 404.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    /// Groups of interchangeable backends, by name.
    #[serde(default, rename = "pool")]
    pub pools: BTreeMap<String, Pool>,
    /// Web servers, by name.
    #[serde(default, rename = "backend")]
    pub backends: BTreeMap<String, Backend>,
    /// Proxy hosts (`nfq-splice`, `recovery-manager`), by node name.
    #[serde(default, rename = "proxy")]
    pub proxies: BTreeMap<String, Proxy>,
    /// Logger hosts (`nfq-logger`, `transactionalizer`), by node name.
    #[serde(default, rename = "logger")]
    pub loggers: BTreeMap<String, Logger>,
    /// The splice's path and bounds.
    #[serde(default)]
    pub splice: Splice,
    /// How failures are noticed.
    #[serde(default)]
    pub detector: Detector,
    /// How responses are continued.
    #[serde(default)]
    pub recovery: Recovery,
    /// Tag rules; the first that matches decides, what matches none gets the conservative default.
    #[serde(default, rename = "tag")]
    pub tags: Vec<TagRule>,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// 1–32 characters of `a-z 0-9 -`; part of the segment log's file name.
    pub name: String,
    /// Where each host has its certificate and key for the control connections between hosts ([`crate::identity`]).
    #[serde(default = "default_certificates")]
    pub certificates: PathBuf,
}

fn default_certificates() -> PathBuf {
    "/etc/resplice/certificates".into()
}

/// `[service]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The virtual address V and its port. No interface carries the address; it is routed to the proxies.
    pub address: SocketAddr,
    /// What clients and backends speak. Only HTTP is routed by what is asked: of other protocols, the first route takes all.
    #[serde(default)]
    pub protocol: ProtocolName,
    /// For `protocol = "lines"`.
    #[serde(default)]
    pub lines: Lines,
    /// For `protocol = "records"`.
    #[serde(default)]
    pub records: Records,
}

/// `[proxy.NODE]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The proxy's address on the network that it shares with the loggers; loggers accept its control connections.
    pub address: IpAddr,
}

/// `[logger.NODE]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// Where the transactionalizer accepts recovery managers.
    pub control: SocketAddr,
    /// Size of the segment log in bytes, a power of two.
    #[serde(default = "default_ring_bytes")]
    pub ring_bytes: u64,
}

fn default_ring_bytes() -> u64 {
    256 << 20
}

/// Which way packets of a spliced connection are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SplicePath {
    /// A conntrack entry: the kernel translates, no daemon touches a packet.
    Kernel,
    /// Every packet is rewritten in NFQUEUE.
    Userspace,
}

/// `[splice]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Splice {
    /// The preferred path; a connection that the kernel path cannot express takes the other.
    pub path: SplicePath,
    /// Where the kernel can: plain segments of spliced connections are translated and sent on by a BPF program, past
    /// conntrack, routing and all other rules of the proxy. All others go as `path` says.
    pub fast_path: bool,
    /// MSS announced to clients, bytes. Must be what the backends announce.
    pub mss: u16,
    /// Window scale announced to clients until one is learnt from the backends.
    pub window_scale: u8,
    /// Packet queues of a proxy, each with a thread of its own; 0: one for each core.
    pub queues: u16,
    /// Half-open connections; further SYNs are answered without state (SYN cookies) and counted. Shared evenly by the
    /// queues.
    pub half_open: usize,
    /// All connections of a proxy; further SYNs are dropped and counted. Shared evenly by the queues.
    pub connections: usize,
    /// Longest request head, bytes; longer ones are answered 431.
    pub request_head_bytes: usize,
    /// Time from the first SYN to a complete request head, milliseconds; then 408.
    pub request_head_timeout_ms: u64,
    /// Bytes of requests that are not with a backend yet, of all clients together; who brings more is answered 503.
    pub setup_bytes: usize,
    /// Client bytes held per connection while it is un-spliced; further segments are dropped, the client repeats them.
    pub hold_bytes: usize,
    /// Idle time after which a spliced connection is forgotten, seconds (RFC 5382: at least 2 h 4 min).
    pub idle_timeout_s: u64,
}

impl Default for Splice {
    fn default() -> Self {
        Self {
            path: SplicePath::Kernel,
            fast_path: true,
            mss: 1460,
            window_scale: 10,
            queues: 0,
            half_open: 4096,
            connections: 65_536,
            request_head_bytes: 32 << 10,
            request_head_timeout_ms: 10_000,
            setup_bytes: 64 << 20,
            hold_bytes: 256 << 10,
            idle_timeout_s: 7440,
        }
    }
}

/// `[detector]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detector {
    /// Silence of a backend that owes an answer before its kernel is probed, milliseconds.
    pub probe_after_ms: u64,
    /// Distance between probes, milliseconds.
    pub probe_interval_ms: u64,
    /// Probes without any answer that mean a dead host.
    pub probe_failures: u32,
    /// Idle heartbeat, milliseconds.
    pub heartbeat_ms: u64,
    /// What a heartbeat and a second opinion ask.
    pub check: Check,
    /// The request target of an HTTP check.
    pub check_path: String,
    /// Its `Host`; empty: the service's address.
    pub check_host: String,
    /// The status of a good answer is below this.
    pub check_status_below: u16,
    /// Good heartbeats in a row before a failed backend is used again.
    pub heartbeat_successes: u32,
    /// The most of them that a backend needs that fails again and again.
    pub heartbeat_successes_most: u32,
    /// Least application timeout, milliseconds, however fast the answers were.
    pub timeout_floor_ms: u64,
    /// Application timeout of a request kind that is not known yet, milliseconds.
    pub timeout_ceiling_ms: u64,
    /// Greatest application timeout, milliseconds: what a live application may be late with.
    pub timeout_longest_ms: u64,
    /// Kinds of request that are learnt at most.
    pub kinds: usize,
}

/// What shows that a backend works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// It answers an HTTP request.
    #[default]
    Http,
    /// It accepts a connection and keeps it for a moment.
    Tcp,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            probe_after_ms: 20,
            probe_interval_ms: 20,
            probe_failures: 3,
            heartbeat_ms: 1000,
            check: Check::Http,
            check_path: "/".to_owned(),
            check_host: String::new(),
            check_status_below: 600,
            heartbeat_successes: 3,
            heartbeat_successes_most: 24,
            timeout_floor_ms: 200,
            timeout_ceiling_ms: 5000,
            timeout_longest_ms: 120_000,
            kinds: 1024,
        }
    }
}

/// What becomes of a client that cannot be helped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GiveUp {
    /// Its connection is reset.
    #[default]
    Reset,
    /// If it waits for the first byte of a response it is answered 502 or 503, and the connection closed; otherwise reset.
    Answer,
}

/// `[recovery]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recovery {
    /// Response head fields whose values may differ between two executions, as long as the lengths are equal.
    pub volatile_headers: Vec<String>,
    /// Response body bytes already logged from which a `Range` request replaces a replay from the first byte.
    pub range_from_bytes: u64,
    /// Bytes of outstanding requests kept in memory per connection; what follows is read from the segment log again.
    pub request_bytes: usize,
    /// Bytes of outstanding requests per connection that are replayed from the segment log, as long as it has them; beyond
    /// it the connection is not recoverable.
    pub upload_bytes: u64,
    /// Answered updates of a connection that are kept to be replayed, where backends have each their own state; beyond it the
    /// connection is not recoverable.
    pub replay_transactions: usize,
    /// Bytes of their requests; beyond it the connection is not recoverable.
    pub replay_bytes: usize,
    /// Bytes that the transactionalizer keeps of all connections together; the one that grows beyond it becomes
    /// unrecoverable.
    pub kept_bytes: usize,
    /// Time for one recovery, milliseconds; then the client is reset.
    pub timeout_ms: u64,
    /// What becomes of a client that cannot be helped: its update may have been applied, or there is no alternate.
    pub give_up: GiveUp,
    /// Connections that one alternate takes over at a time; further ones wait for their turn.
    pub alternate_limit: usize,
    /// Recoveries remembered for `resplice status`.
    pub history: usize,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            volatile_headers: vec!["Date".to_owned()],
            range_from_bytes: 64 << 10,
            request_bytes: 1 << 20,
            upload_bytes: 1 << 30,
            replay_transactions: 256,
            replay_bytes: 1 << 20,
            kept_bytes: 256 << 20,
            timeout_ms: 10_000,
            give_up: GiveUp::Reset,
            alternate_limit: 256,
            history: 256,
        }
    }
}
