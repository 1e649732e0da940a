//! What the operator asks for at run time: another configuration, another state of a backend.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use cluster::config::{BackendState, Cluster};
use cluster::control::{Done, FromProxy, ToProxy};
use nfq_splice::Settings;
use nft_rules::{ProxyRules, QueueForm, install};

use super::restored::Restored;
use super::shard::ToShard;
use super::{Shell, orders_file};

impl Shell {
    /// Rules first: a new backend's answers must find them. What is not named any more stays in them until a later reload
    /// finds it without connections.
    pub(super) fn reload(&mut self) -> Done {
        let Self { configuration, shards, routing, former, kernel, .. } = self;
        let done = configuration.reload(|old, new| {
            let earlier: BTreeSet<_> = former.iter().copied().chain(addresses(old)).collect();
            install_rules(new, &earlier)?;
            kernel.know_backends(addresses(new).chain(earlier));
            let settings = Settings::new(new);
            routing.replace(settings.routing.clone(), &BTreeSet::new());
            let settings = settings.share(shards.len() as u16);
            former.clear();
            for shard in shards.iter() {
                shard.send(ToShard::Reload(Box::new(settings.clone())));
            }
            Ok(())
        });
        if done.is_ok() {
            self.tell_wanted();
        }
        done
    }

    /// Written down before it holds: it must outlive the daemon.
    pub(super) fn want(&mut self, name: &str, state: BackendState) -> Done {
        let mut routing = self.routing.clone();
        if !routing.order(name, state) {
            let names: Vec<_> = self.configuration.cluster().backends.keys().map(String::as_str).collect();
            return Err(format!("there is no backend {name:?}; there are {}", names.join(", ")));
        }
        orders_file::write(&self.orders_file, routing.orders()).map_err(|error| format!("{error:#}"))?;
        self.routing = routing;
        tracing::info!(backend = name, state = state.name(), "the operator changed a backend's state");
        for shard in &self.shards {
            shard.send(ToShard::Control(ToProxy::Want { backend: name.to_owned(), state }));
        }
        self.tell_wanted();
        Ok(format!("{name}: {}", state.name()))
    }

    fn tell_wanted(&mut self) {
        let wanted = FromProxy::Wanted(self.routing.wanted());
        for peer in &self.subscribers {
            self.server.send(*peer, &wanted);
        }
    }
}

/// Backends of restored connections that the configuration does not name.
pub(super) fn former(restored: &[Restored], cluster: &Cluster) -> BTreeSet<SocketAddr> {
    let backends = restored.iter().flat_map(|part| &part.entries).map(|entry| entry.backend);
    backends.filter(|backend| cluster.backend_name(*backend).is_none()).collect()
}

/// In one transaction, which drops no packet.
pub(super) fn install_rules(cluster: &Cluster, earlier: &BTreeSet<SocketAddr>) -> Result<()> {
    let rules = ProxyRules::from_cluster(cluster)?.with_backends(earlier.iter().copied())?;
    install::install(&rules, QueueForm::probe()?).context("installing the rules of the proxy")
}

/// Of backends that the configuration names.
pub(super) fn addresses(cluster: &Cluster) -> impl Iterator<Item = SocketAddr> + '_ {
    cluster.backends.values().map(|backend| backend.address)
}
