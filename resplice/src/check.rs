//! `resplice config check`.

use std::path::Path;

use cluster::config::{Cluster, Route};

use crate::Outcome;

pub(crate) fn check(file: &Path) -> Outcome {
    let cluster = Cluster::load(file)?;
    Ok((summary(&cluster, file), true))
}

fn summary(cluster: &Cluster, file: &Path) -> String {
    let routes = cluster.routes.iter().map(|route| route_line(cluster, route));
    let proxies = cluster.proxies.iter().map(|(name, proxy)| format!("{name} ({})", proxy.address));
    let loggers = cluster.loggers.iter().map(|(name, logger)| format!("{name} ({})", logger.control));
    let mut lines = vec![
        format!("{} is right.", file.display()),
        format!("cluster {}, service {}", cluster.cluster.name, cluster.service.address),
    ];
    lines.extend(routes);
    lines.push(format!("proxies: {}", list(proxies)));
    lines.push(format!("loggers: {}", list(loggers)));
    lines.push(format!("tag rules: {}", cluster.tags.len()));
    lines.extend(notes(cluster));
    lines.join("\n")
}

fn route_line(cluster: &Cluster, route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or("any host");
    let path = route.path_prefix.as_deref().unwrap_or("any path");
    let members = cluster.pools.get(&route.pool).map(|pool| pool.backends.as_slice()).unwrap_or_default();
    let member = |name: &String| match cluster.backends.get(name) {
        Some(backend) => format!("{name} ({})", backend.address),
        None => name.clone(),
    };
    format!("{host}, {path} -> pool {}: {}", route.pool, list(members.iter().map(member)))
}

/// What is allowed but probably not meant.
fn notes(cluster: &Cluster) -> Vec<String> {
    let alone = cluster.pools.iter().filter(|(_, pool)| pool.backends.len() == 1);
    let alone = alone
        .map(|(name, _)| format!("note: pool {name} has one backend: its connections cannot be recovered"));
    let routed = |name: &String| cluster.routes.iter().any(|route| route.pool == *name);
    let unrouted = cluster.pools.keys().filter(|name| !routed(name));
    let unrouted = unrouted.map(|name| format!("note: no route leads to pool {name}"));
    let pooled = |name: &String| cluster.pools.values().any(|pool| pool.backends.contains(name));
    let unpooled = cluster.backends.keys().filter(|name| !pooled(name));
    alone.chain(unrouted).chain(unpooled.map(|name| format!("note: no pool has backend {name}"))).collect()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
