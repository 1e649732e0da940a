//! `resplice config check`.

use std::path::Path;

use cluster::config::{BackendState, Balance, Cluster, Pool, PoolState, Route};

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
    let host = route.host.as_deref().unwrap_or("any host").to_owned();
    let path = route.path_prefix.as_deref().unwrap_or("any path").to_owned();
    let methods = route.method.as_ref().map(|methods| methods.join(" or "));
    let headers = route.headers.iter().map(|header| match (&header.value, &header.prefix) {
        (Some(value), _) => format!("{}: {value}", header.name),
        (None, Some(prefix)) => format!("{}: {prefix}…", header.name),
        (None, None) => format!("with {}", header.name),
    });
    let cookies = route.cookies.iter().map(|cookie| match &cookie.value {
        Some(value) => format!("cookie {}={value}", cookie.name),
        None => format!("with cookie {}", cookie.name),
    });
    let conditions: Vec<_> = [host, path].into_iter().chain(methods).chain(headers).chain(cookies).collect();
    let pool = cluster.pools.get(&route.pool).map(|pool| pool_line(cluster, pool)).unwrap_or_default();
    format!("{} -> pool {}: {pool}", conditions.join(", "), route.pool)
}

fn pool_line(cluster: &Cluster, pool: &Pool) -> String {
    let member = |name: &String| {
        let Some(backend) = cluster.backends.get(name) else { return name.clone() };
        let weight = (backend.weight != 1).then(|| format!(", weight {}", backend.weight));
        let state = (backend.state != BackendState::Up).then(|| format!(", {}", backend.state.name()));
        let more: String = weight.into_iter().chain(state).collect();
        format!("{name} ({}{more})", backend.address)
    };
    let on = pool.balance_on.as_deref().unwrap_or_default();
    let how = match pool.balance {
        Balance::RoundRobin => String::new(),
        Balance::Client => "; by client address".to_owned(),
        Balance::Path => "; by path".to_owned(),
        Balance::Header => format!("; by header {on}"),
        Balance::Cookie => format!("; by cookie {on}"),
    };
    let state = if pool.state == PoolState::Separate { "; separate state" } else { "" };
    list(pool.backends.iter().map(member)) + &how + state
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
    let serves = |name: &String| cluster.backends.get(name).is_some_and(|b| b.state == BackendState::Up);
    let resting = cluster.pools.iter().filter(|(_, pool)| !pool.backends.iter().any(serves));
    let resting = resting.map(|(name, _)| format!("note: no backend of pool {name} has state \"up\": 503"));
    alone
        .chain(resting)
        .chain(unrouted)
        .chain(unpooled.map(|name| format!("note: no pool has backend {name}")))
        .collect()
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
