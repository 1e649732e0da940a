//! The fast path of all threads: there, or why not.

use std::sync::Arc;

use cluster::config::Cluster;
use netfilter::fast_path::FastPath;
use nfq_splice::KernelSplice;

use super::kernel::Kernel;

/// Opens it for this proxy's connections. Where it is not wanted or cannot be, conntrack translates all, and an earlier daemon's
/// program, which would not hear of what is spliced otherwise now, is taken away.
pub(super) fn open(cluster: &Cluster) -> Option<Arc<FastPath>> {
    let wanted = cluster.splice.fast_path && cluster.service.address.is_ipv4() && !logs_here(cluster);
    let connections = u32::try_from(cluster.splice.connections).unwrap_or(u32::MAX);
    let opened = wanted.then(|| FastPath::open(connections));
    if let Some(Ok(fast)) = opened {
        return Some(Arc::new(fast));
    }
    if let Some(Err(error)) = opened {
        tracing::info!(%error, "no fast path; conntrack translates all");
    }
    if let Err(error) = FastPath::detach_any() {
        tracing::debug!(%error, "no earlier fast path was looked for");
    }
    None
}

/// A logger on a proxy's host must see what is forwarded there.
fn logs_here(cluster: &Cluster) -> bool {
    let mut loggers = cluster.loggers.values().map(|logger| logger.control.ip());
    loggers
        .any(|logger| logger.is_loopback() || cluster.proxies.values().any(|proxy| proxy.address == logger))
}

/// Once all that is spliced already is in it, it replaces an earlier daemon's. Gives the number of interfaces where it is.
pub(super) fn attach(fast: &FastPath, kernel: &mut Kernel, entries: &[KernelSplice]) -> usize {
    for splice in entries {
        kernel.speed_up_splice(splice);
    }
    let attached = fast.attach().inspect_err(|error| {
        tracing::warn!(%error, "no fast path at some interfaces; conntrack translates there");
    });
    attached.unwrap_or(0)
}
