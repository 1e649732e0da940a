//! All connections and backends: log records, probe answers and the time come in, actions come out.
//!
//! * [`entries`]: the table of flows.
//! * [`entry`]: what is known of each.
//! * [`table`]: their beginnings and ends.
//! * [`memories`]: what is remembered of clients whose backend failed.
//! * [`segments`]: what a logged segment does.
//! * [`holds`]: held segments and second opinions.
//! * [`failure`]: from evidence to a report.
//! * [`timers`]: silence, probes, heartbeats.
//! * [`late`]: applications that are later than they ever were.
//! * [`health`]: backends as operators see and want them.
//! * [`swallowed`]: what clients send into a fence.
//! * [`uploads`]: requests of failed connections that are replayed from the log.
//! * [`unended`]: failures that nobody has dealt with yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{Client, ConnectionReport, Evidence, Flow, LargeBody, Swallowed};
use cluster::tags::TagRules;
use packet::Time;
use segment_log::LeftOut;

use crate::detector::Kinds;
use crate::detector::limits::Limits;
use crate::detector::probing::{ProbeId, Question};
use crate::detector::worst::Worst;
use crate::kept::Total;
use crate::spans::Record;

mod backends;
mod counters;
mod entries;
mod entry;
mod failure;
mod health;
mod holds;
mod late;
mod memories;
mod segments;
mod swallowed;
mod table;
mod timers;
mod unended;
mod uploads;

pub use counters::Counters;

use backends::BackendEntry;
use entries::Entries;
use failure::Failing;
use memories::Memory;
use swallowed::Passed;
use unended::Unended;
use uploads::Uploads;

/// One record of the segment log.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// Its name, to find its bytes again.
    pub record: Record,
    /// Which logger wrote it; what an earlier one held is void.
    pub writer: u32,
    /// When it was logged.
    pub time: Time,
    /// The number under which the logger holds it.
    pub hold: Option<u64>,
    /// From a backend to a client.
    pub from_backend: bool,
    /// A client's, dropped by a fence.
    pub swallowed: bool,
    /// The whole IP packet, or its headers.
    pub packet: &'a [u8],
    /// What stands for its payload, if the log has its headers only.
    pub left_out: Option<LeftOut>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To the logger: let it pass.
    Release(u64),
    /// To the logger: the client must never see it.
    Suppress(u64),
    /// To the logger: nothing more from this flow's backend.
    Fence(Flow),
    /// To the logger: headers will do, of this body.
    LeaveOut(LargeBody),
    /// To the logger: say when the fences before it hold. Tell with [`Engine::handle_fenced`] when it did and the log has
    /// been read up to that moment.
    Barrier(u64),
    /// To the managers.
    Failed(Failure),
    /// To the managers.
    Swallowed(Swallowed),
    /// To the managers.
    BackendUp(SocketAddr),
    /// Send this packet to a backend: its kernel has to answer on the connection.
    KeepAlive(Vec<u8>),
    /// Ask a backend's host. Tell with [`Engine::handle_probe`] what came of it.
    Probe(SocketAddr, ProbeId, Question),
    /// A failure that no manager was there to be told of; the client has what the backend sent.
    Unreported(Flow, Evidence),
    /// For the log.
    Note(String),
}

/// Connections whose backend failed them; the logger has been told to fence it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// How it was noticed.
    pub evidence: Evidence,
    /// When the evidence occurred.
    pub since: Time,
    /// Not only these connections.
    pub backend_down: bool,
    /// Whose failure.
    pub backend: SocketAddr,
    /// What recovery needs.
    pub connections: Vec<ConnectionReport>,
}

/// The transactionalizer without its shell.
#[derive(Debug)]
pub struct Engine {
    cluster: Cluster,
    rules: TagRules,
    /// What all connections keep together.
    kept: Total,
    limits: Limits,
    entries: Entries,
    backends: BTreeMap<SocketAddr, BackendEntry>,
    /// Failed clients, until they come back with another backend.
    memories: HashMap<Client, Memory>,
    /// Each flow at most once.
    timers: BTreeSet<(Time, Flow)>,
    /// Ended flows, in order of their end.
    ended: VecDeque<(Time, Flow)>,
    next_sweep: Time,
    kinds: Kinds,
    managers: usize,
    /// Fenced, not reported yet, by barrier.
    failing: BTreeMap<u64, Failing>,
    last_barrier: u64,
    unended: Unended,
    uploads: Uploads,
    /// What clients sent into fences, and was passed on lately.
    passed: Passed,
    writer: Option<u32>,
    /// Since when the log is read as it is written; before, old records are caught up with and nothing is done.
    live: Option<Time>,
    next_probe: u64,
    /// When timers were last looked at.
    latest: Time,
    /// When that was asked to be done next.
    awaited: Option<Time>,
    /// How much later than asked it was done: on a busy machine we are not the only ones who wait for a processor.
    lateness: Worst,
    /// What happened how often.
    pub counters: Counters,
}

impl Engine {
    /// For this cluster, beginning at `now`, not live yet.
    pub fn new(cluster: Cluster, now: Time) -> Self {
        let limits = Limits::new(&cluster.detector);
        let addresses = cluster.backends.values().map(|backend| backend.address);
        let entry = |address| (address, BackendEntry::new(limits, health::pool_of(&cluster, address), now));
        let backends = addresses.map(entry).collect();
        Self {
            rules: TagRules::new(&cluster.tags),
            kept: Total::new(cluster.recovery.kept_bytes),
            limits,
            entries: Entries::default(),
            backends,
            memories: HashMap::new(),
            timers: BTreeSet::new(),
            ended: VecDeque::new(),
            next_sweep: now,
            kinds: Kinds::new(cluster.detector.kinds),
            managers: 0,
            failing: BTreeMap::new(),
            last_barrier: 0,
            unended: Unended::default(),
            uploads: Uploads::default(),
            passed: Passed::default(),
            writer: None,
            live: None,
            next_probe: 0,
            latest: now,
            awaited: None,
            lateness: Worst::new(timers::LATENESS_HALF_LIFE),
            counters: Counters::default(),
            cluster,
        }
    }

    /// Another configuration, which may replace the one before: new backends are watched too. One that it does not name any
    /// more is watched until a later reload finds it without connections: the proxies may not have heard of it yet.
    pub fn handle_reload(&mut self, cluster: Cluster, now: Time) {
        self.rules = TagRules::new(&cluster.tags);
        self.kept.set_max(cluster.recovery.kept_bytes);
        let before = std::mem::replace(&mut self.cluster, cluster);
        let named = |address: &SocketAddr, cluster: &Cluster| cluster.backend_name(*address).is_some();
        self.backends.retain(|address, _| {
            named(address, &before) || named(address, &self.cluster) || self.entries.any_of(*address)
        });
        self.limits = Limits::new(&self.cluster.detector);
        self.kinds.set_max(self.cluster.detector.kinds);
        for backend in self.cluster.backends.values() {
            let pool = health::pool_of(&self.cluster, backend.address);
            let new = || BackendEntry::new(self.limits, pool, now);
            self.backends.entry(backend.address).or_insert_with(new).pool = pool;
        }
        self.backends.values_mut().for_each(|entry| entry.health.set_limits(self.limits, now));
    }

    /// The log has been read to its end: from now on failures are acted on.
    pub fn handle_live(&mut self, now: Time) {
        self.live.get_or_insert(now);
    }

    /// It has been.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// So many recovery managers listen.
    pub fn handle_managers(&mut self, managers: usize) {
        self.managers = managers;
    }

    /// Backends that are down, for a manager that has just come.
    pub fn down(&self) -> Vec<SocketAddr> {
        let down = self.backends.iter().filter(|(_, entry)| !entry.health.is_up());
        down.map(|(address, _)| *address).collect()
    }
}
