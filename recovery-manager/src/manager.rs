//! Runs many recoveries at once. Pure: inputs are `handle_*`, then [`Manager::poll_action`] until it is
//! empty, then sleep until [`Manager::poll_timeout`] at most.

mod alternates;
mod batch;
mod finish;
mod inputs;
mod mismatches;
mod pieces;
mod recent;
mod recovery;
mod resets;
mod swallowed;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::{self, BackendState, Cluster, ProtocolName};
use cluster::control::{Client, ManagerStatus, Mismatches, RecoveryOrder, RecoveryRecord, ToLog, ToProxy};
use packet::Time;

use crate::Story;
use alternates::{Alternates, Down};
use batch::Batch;
use recent::Recent;
pub(crate) use recovery::End;
use recovery::Recovery;
use resets::{Resets, Untold};
use waiting::Waiting;

/// The present, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For intervals.
    pub monotonic: Time,
    /// For people: Unix time, milliseconds.
    pub unix_ms: u64,
}

/// A logger's place in the order of `[logger.NODE]` by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoggerId(pub usize);

/// What the shell is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send to the proxy's splice daemon; asked only while it is connected.
    ToProxy(ToProxy),
    /// Send to this logger's transactionalizer; asked only while it is connected.
    ToLog(LoggerId, ToLog),
    /// Write to the log.
    Tell(Story),
}

/// Bounds of the manager's tables.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Recoveries at once; beyond it, clients are reset.
    pub recoveries: usize,
    /// Bytes of their reports; beyond it, clients are reset. Less than what may wait for the proxy to read
    /// it ([`cluster::connection::MAX_OUTGOING`]), so that all orders can wait there.
    pub report_bytes: usize,
    /// Resets that wait for the proxy to come back; beyond it, the oldest is given up.
    pub waiting_resets: usize,
    /// Ended recoveries by which repeated and late messages are recognised; beyond it, the oldest is forgotten.
    pub recent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { recoveries: 16_384, report_bytes: 96 << 20, waiting_resets: 16_384, recent: 4096 }
    }
}

/// One logger, as the manager sees it.
#[derive(Debug)]
struct Logger {
    name: String,
    connected: bool,
    /// Greatest message number of this session.
    last_number: Option<u64>,
}

/// The engine.
#[derive(Debug)]
pub struct Manager {
    config: config::Recovery,
    /// The same without `Range` requests.
    whole: config::Recovery,
    /// The service speaks HTTP: a client that is given up can be answered.
    http: bool,
    limits: Limits,
    loggers: Vec<Logger>,
    proxy_connected: bool,
    /// What the operator wants of backends, as the proxy last said.
    wanted: Vec<(SocketAddr, BackendState)>,
    alternates: Alternates,
    active: BTreeMap<Client, Recovery>,
    /// Orders that the proxy has not ended, also replaced ones.
    orders: BTreeMap<u64, Client>,
    deadlines: BTreeSet<(Time, Client)>,
    waiting: Waiting,
    report_bytes: usize,
    resets: Resets,
    untold: Untold,
    pieces: pieces::Pieces,
    recent: Recent,
    history: VecDeque<RecoveryRecord>,
    mismatches: mismatches::Seen,
    next_order: u64,
    epoch: u64,
    /// The later manager's epoch: this one does nothing any more.
    fenced_by: Option<u64>,
    batch: Batch,
    actions: VecDeque<Action>,
    counters: BTreeMap<&'static str, u64>,
}

impl Manager {
    /// A manager for one proxy of `cluster`. Its `epoch` must be later than those of earlier managers of the same proxy by more than
    /// the orders that they gave: Unix time in microseconds will do. Orders are numbered from there.
    pub fn new(cluster: &Cluster, limits: Limits, epoch: u64) -> Self {
        let logger = |name: &String| Logger { name: name.clone(), connected: false, last_number: None };
        let (config, whole) = recovery_settings(cluster);
        Self {
            config,
            whole,
            http: cluster.service.protocol == ProtocolName::Http,
            limits,
            loggers: cluster.loggers.keys().map(logger).collect(),
            proxy_connected: false,
            wanted: Vec::new(),
            alternates: Alternates::new(cluster),
            active: BTreeMap::new(),
            orders: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            waiting: Waiting::default(),
            report_bytes: 0,
            resets: Resets::new(limits.waiting_resets),
            untold: Untold::default(),
            pieces: pieces::Pieces::default(),
            recent: Recent::new(limits.recent),
            history: VecDeque::new(),
            mismatches: mismatches::Seen::default(),
            next_order: epoch,
            epoch,
            fenced_by: None,
            batch: Batch::default(),
            actions: VecDeque::new(),
            counters: COUNTERS.into_iter().map(|name| (name, 0)).collect(),
        }
    }

    /// The next thing to do, in order. `now` stamps the moment at which an order leaves.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        if self.actions.is_empty() {
            self.send_batch();
        }
        let action = self.actions.pop_front()?;
        if let Action::ToProxy(ToProxy::Recover(orders)) = &action {
            for order in orders {
                self.stamp(order.id, now);
            }
        }
        Some(action)
    }

    /// When [`Manager::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        self.resets.poll_timeout().into_iter().chain(deadline).chain(self.untold.poll_timeout()).min()
    }

    /// For `resplice status`.
    pub fn status(&self) -> ManagerStatus {
        let mut counters: BTreeMap<String, u64> =
            self.counters.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        counters.insert("fenced".to_owned(), u64::from(self.fenced_by.is_some()));
        counters.insert("recoveries_running".to_owned(), self.active.len() as u64);
        counters.insert("recoveries_waiting".to_owned(), self.waiting.len() as u64);
        counters.insert("pieces_awaited".to_owned(), self.pieces.awaited() as u64);
        counters.insert("orders_open".to_owned(), self.orders.len() as u64);
        counters.insert("report_bytes_held".to_owned(), self.report_bytes as u64);
        ManagerStatus {
            recoveries: self.history.iter().cloned().collect(),
            proxy_connected: self.proxy_connected,
            loggers: self.loggers.iter().map(|logger| (logger.name.clone(), logger.connected)).collect(),
            down: self.alternates.down().collect(),
            counters,
        }
    }

    /// For `resplice mismatches`.
    pub fn mismatches(&self) -> Mismatches {
        self.mismatches.list()
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms)
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    fn ask_proxy(&mut self, message: ToProxy) {
        if self.proxy_connected {
            self.send_batch();
            self.actions.push_back(Action::ToProxy(message));
        }
    }

    /// Orders that come together leave together.
    fn ask_to_recover(&mut self, order: RecoveryOrder) {
        if self.proxy_connected && self.batch.push(order) {
            self.send_batch();
        }
    }

    fn send_batch(&mut self) {
        let orders = self.batch.take();
        if !orders.is_empty() {
            self.actions.push_back(Action::ToProxy(ToProxy::Recover(orders)));
        }
    }

    fn ask_log(&mut self, logger: LoggerId, message: ToLog) {
        match self.loggers.get(logger.0) {
            Some(peer) if peer.connected => self.actions.push_back(Action::ToLog(logger, message)),
            _ => self.count("log_messages_dropped"),
        }
    }

    fn tell(&mut self, story: Story) {
        self.actions.push_back(Action::Tell(story));
    }

    fn stamp(&mut self, order: u64, now: Time) {
        let Some(recovery) = self.orders.get(&order).and_then(|client| self.active.get_mut(client)) else {
            return;
        };
        if recovery.stamp(order, now) {
            recovery.step("ordered", now);
        }
    }

    /// Marks a backend for new connections, here and at the proxy.
    fn set_backend(&mut self, backend: SocketAddr, down: Option<Down>) {
        if self.alternates.set(backend, down) {
            self.ask_proxy(ToProxy::Backend { backend, up: down.is_none() });
            self.tell(if down.is_some() { Story::BackendDown(backend) } else { Story::BackendUp(backend) });
        }
    }
}

/// As configured, and the same without `Range` requests.
fn recovery_settings(cluster: &Cluster) -> (config::Recovery, config::Recovery) {
    let config = cluster.recovery.clone();
    (config.clone(), config::Recovery { range_from_bytes: u64::MAX, ..config })
}

const COUNTERS: [&str; 22] = [
    "alternates_failed",
    "answers",
    "clients_elsewhere",
    "clients_gone",
    "log_messages_dropped",
    "log_messages_old",
    "mismatches",
    "pieces_asked",
    "pieces_lost",
    "proxy_messages_unknown",
    "recoveries_refused_at_limit",
    "recoveries_at_alternate_limit",
    "recoveries_superseded",
    "recoveries_timed_out",
    "reports_going_back",
    "reports_repeated",
    "reports_superseding",
    "resets",
    "resplices",
    "resets_given_up",
    "swallowed_passed",
    "swallowed_dropped",
];
