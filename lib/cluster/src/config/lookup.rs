//! Questions that the programs ask of a configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Cluster, ConfigError, Logger, Pool, PoolState, Problem, Proxy};

impl Cluster {
    /// `[proxy.NODE]`, or what to do about its absence.
    pub fn find_proxy(&self, node: &str) -> Result<&Proxy, ConfigError> {
        self.proxies.get(node).ok_or_else(|| unknown_node("proxy", node, self.proxies.keys()))
    }

    /// `[logger.NODE]`, or what to do about its absence.
    pub fn find_logger(&self, node: &str) -> Result<&Logger, ConfigError> {
        self.loggers.get(node).ok_or_else(|| unknown_node("logger", node, self.loggers.keys()))
    }

    /// The name of the backend with this address.
    pub fn backend_name(&self, address: SocketAddr) -> Option<&str> {
        self.backends.iter().find(|(_, backend)| backend.address == address).map(|(name, _)| name.as_str())
    }

    /// Where this backend keeps the application's state; [`Shared`](PoolState::Shared) if no pool has it.
    pub fn state_of(&self, backend: SocketAddr) -> PoolState {
        let named =
            |pool: &&Pool| pool.backends.iter().any(|member| self.backend_name(backend) == Some(member));
        self.pools.values().find(named).map_or(PoolState::Shared, |pool| pool.state)
    }

    /// The other members of the pools of `backend`, in the pools' order, each once: where its connections may continue.
    pub fn alternates(&self, backend: SocketAddr) -> Vec<SocketAddr> {
        let Some(name) = self.backend_name(backend) else { return Vec::new() };
        let its_pools = self.pools.values().filter(|pool| pool.backends.iter().any(|member| member == name));
        let mut seen = BTreeSet::from([backend]);
        its_pools
            .flat_map(|pool| &pool.backends)
            .filter_map(|member| self.backends.get(member))
            .map(|member| member.address)
            .filter(|address| seen.insert(*address))
            .collect()
    }
}

fn unknown_node<'a>(role: &str, node: &str, defined: impl Iterator<Item = &'a String>) -> ConfigError {
    let defined: Vec<_> = defined.map(String::as_str).collect();
    let known = if defined.is_empty() {
        "none is defined".to_owned()
    } else {
        format!("defined are {}", defined.join(", "))
    };
    let problem = Problem {
        key: format!("{role}.{node}"),
        place: None,
        what: format!("this node is not defined as a {role} ({known})"),
        remedy: format!("add [{role}.{node}], or say with --node NAME which one this is"),
    };
    ConfigError { file: "the configuration".to_owned(), problems: vec![problem] }
}
