//! What the daemons of this node say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use cluster::control::{
    BackendHealth, BackendStatus, FromLog, FromProxy, LogStatus, LoggerStatus, ManagerStatus, ProxyStatus,
    ToLog, ToLogger, ToManager, ToProxy,
};
use cluster::runtime::Runtime;

use crate::ask::{Answer, PATIENCE, ask};

/// One answer of each daemon.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) run_dir: String,
    pub(crate) proxy: Answer<ProxyStatus>,
    pub(crate) manager: Answer<ManagerStatus>,
    pub(crate) log: Answer<LogStatus>,
    pub(crate) logger: Answer<LoggerStatus>,
}

/// One backend as each daemon sees it; `None` if it says nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendView {
    pub(crate) address: SocketAddr,
    /// The proxy's view, and what the operator wants.
    pub(crate) proxy: Option<BackendStatus>,
    /// The transactionalizer believes it to be up.
    pub(crate) log: Option<bool>,
    /// The same in detail.
    pub(crate) health: Option<BackendHealth>,
    /// The recovery manager does.
    pub(crate) manager: Option<bool>,
}

impl Status {
    /// Asks the daemons of `run_dir`, one after the other.
    pub(crate) fn ask(run_dir: &Path) -> Self {
        let runtime = Runtime::new(run_dir);
        let socket = |daemon| runtime.socket(daemon);
        Self {
            run_dir: run_dir.display().to_string(),
            proxy: ask(&socket("nfq-splice"), &ToProxy::Status, PATIENCE, |message| match message {
                FromProxy::Status(status) => Some(status),
                _ => None,
            }),
            manager: ask(&socket("recovery-manager"), &ToManager::Status, PATIENCE, Some),
            log: ask(&socket("transactionalizer"), &ToLog::Status, PATIENCE, |message| match message {
                FromLog::Status(status) => Some(status),
                _ => None,
            }),
            logger: ask(&socket("nfq-logger"), &ToLogger::Status, PATIENCE, Some),
        }
    }

    /// At least one daemon runs, and each that runs answers.
    pub(crate) fn good(&self) -> bool {
        let states = self.daemons().map(|(_, state, _)| state);
        states.contains(&"running") && !states.contains(&"no answer")
    }

    /// Each daemon, its state, and what went wrong.
    pub(crate) fn daemons(&self) -> [(&'static str, &'static str, Option<&str>); 4] {
        [
            describe("nfq-splice", &self.proxy),
            describe("recovery-manager", &self.manager),
            describe("nfq-logger", &self.logger),
            describe("transactionalizer", &self.log),
        ]
    }

    /// Counters by daemon.
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, &BTreeMap<String, u64>> {
        let proxy = self.proxy.got().map(|status| ("nfq-splice", &status.counters));
        let manager = self.manager.got().map(|status| ("recovery-manager", &status.counters));
        let logger = self.logger.got().map(|status| ("nfq-logger", &status.counters));
        let log = self.log.got().map(|status| ("transactionalizer", &status.counters));
        [proxy, manager, logger, log].into_iter().flatten().collect()
    }

    /// All backends that any daemon speaks of.
    pub(crate) fn backends(&self) -> Vec<BackendView> {
        let proxy: BTreeMap<_, _> =
            self.proxy.got().map(|s| s.backends.iter().map(|b| (b.address, b)).collect()).unwrap_or_default();
        let log: BTreeMap<_, _> =
            self.log.got().map(|s| s.backends.iter().copied().collect()).unwrap_or_default();
        let down: Option<&[SocketAddr]> = self.manager.got().map(|status| status.down.as_slice());
        let spoken_of = proxy.keys().chain(log.keys()).chain(down.into_iter().flatten());
        let addresses: BTreeSet<SocketAddr> = spoken_of.copied().collect();
        let view = |address| BackendView {
            address,
            proxy: proxy.get(&address).map(|backend| (*backend).clone()),
            log: log.get(&address).copied(),
            health: self.log.got().and_then(|s| s.health.iter().find(|h| h.address == address).copied()),
            manager: down.map(|down| !down.contains(&address)),
        };
        addresses.into_iter().map(view).collect()
    }
}

fn describe<'a, T>(
    name: &'static str,
    answer: &'a Answer<T>,
) -> (&'static str, &'static str, Option<&'a str>) {
    match answer {
        Answer::Got(_) => (name, "running", None),
        Answer::NotRunning => (name, "not running", None),
        Answer::Failed(reason) => (name, "no answer", Some(reason)),
    }
}
