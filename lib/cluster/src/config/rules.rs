//! What must hold between the values of a configuration whose keys and types are right.

use std::collections::BTreeMap;

use super::report::{Report, suggest};
use super::{Cluster, Route, TagRule};
use crate::pattern;

/// Fields that decide where a response ends or what its bytes mean: a difference there is never harmless.
const NEVER_VOLATILE: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "connection",
    "content-range",
    "content-encoding",
    "content-type",
    "etag",
    "last-modified",
    "trailer",
    "upgrade",
];

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    names(report, cluster);
    presence(report, cluster);
    pools(report, cluster);
    routes(report, cluster);
    limits(report, cluster);
    volatile_headers(report, &cluster.recovery.volatile_headers);
    tags(report, &cluster.tags);
}

fn names(report: &mut Report<'_>, cluster: &Cluster) {
    let name = &cluster.cluster.name;
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || !(1..=32).contains(&name.len()) {
        report.problem("cluster.name", format!("is {name:?}"), "use 1 to 32 characters of a-z, 0-9 and -");
    }
    let pools = cluster.pools.keys().map(|name| ("pool", name));
    let backends = cluster.backends.keys().map(|name| ("backend", name));
    let proxies = cluster.proxies.keys().map(|name| ("proxy", name));
    let loggers = cluster.loggers.keys().map(|name| ("logger", name));
    for (table, name) in pools.chain(backends).chain(proxies).chain(loggers) {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain || !(1..=64).contains(&name.len()) || name.starts_with('.') {
            let remedy = "use 1 to 64 letters, digits, -, _ and ., not beginning with a dot";
            report.problem(&format!("{table}.{name}"), "is not a usable name", remedy);
        }
    }
}

fn presence(report: &mut Report<'_>, cluster: &Cluster) {
    if cluster.routes.is_empty() {
        report.problem("route", "no route is defined", "add [[route]] with pool = \"NAME\"");
    }
    if cluster.pools.is_empty() {
        report.problem("pool", "no pool is defined", "add [pool.NAME] with backends = [\"NAME\"]");
    }
    if cluster.backends.is_empty() {
        report.problem(
            "backend",
            "no backend is defined",
            "add [backend.NAME] with address = \"ADDRESS:PORT\"",
        );
    }
}

fn pools(report: &mut Report<'_>, cluster: &Cluster) {
    for (name, pool) in &cluster.pools {
        let key = format!("pool.{name}.backends");
        if pool.backends.is_empty() {
            report.problem(
                &key,
                "is empty",
                "name at least one backend, two for recovery, or remove the pool",
            );
        }
        let mut first = BTreeMap::new();
        for (index, member) in pool.backends.iter().enumerate() {
            let key = format!("{key}[{index}]");
            if first.insert(member, index).is_some() {
                report.problem(
                    &key,
                    format!("backend `{member}` is twice in pool `{name}`"),
                    "remove one of them",
                );
            } else if !cluster.backends.contains_key(member) {
                let what = format!("backend `{member}` of pool `{name}` is not defined");
                report.problem(&key, what, undefined("backend", member, cluster.backends.keys()));
            }
        }
    }
}

fn undefined<'n>(table: &str, name: &str, defined: impl Iterator<Item = &'n String> + Clone) -> String {
    let names: Vec<_> = defined.map(String::as_str).collect();
    let add = match suggest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Otherwise add [{table}.{name}] or remove it"),
        None => format!("add [{table}.{name}] or remove it"),
    };
    if names.is_empty() { add } else { format!("{add}; defined are {}", names.join(", ")) }
}

fn routes(report: &mut Report<'_>, cluster: &Cluster) {
    for (index, route) in cluster.routes.iter().enumerate() {
        let key = |name: &str| format!("route[{index}].{name}");
        if !cluster.pools.contains_key(&route.pool) {
            let remedy = undefined("pool", &route.pool, cluster.pools.keys());
            report.problem(&key("pool"), format!("pool `{}` is not defined", route.pool), remedy);
        }
        host(report, &key("host"), route.host.as_deref());
        if route.path_prefix.as_deref().is_some_and(|prefix| !valid_prefix(prefix)) {
            let remedy = "write a path without query, like \"/shop\"; leave the key out for any path";
            report.problem(&key("path_prefix"), "is not a path", remedy);
        }
        let earlier = cluster.routes.iter().take(index).position(|earlier| covers(earlier, route));
        if let Some(earlier) = earlier {
            let what = format!("is never reached: route[{earlier}] takes all its requests");
            report.problem(&format!("route[{index}]"), what, "move it before that one, or remove it");
        }
    }
}

fn host(report: &mut Report<'_>, key: &str, host: Option<&str>) {
    let Some(host) = host else { return };
    let name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && name(host),
    };
    if !valid {
        let remedy = "write a host without port, like \"www.example.org\"; leave the key out for any host";
        report.problem(key, format!("{host:?} is not a host"), remedy);
    }
}

fn valid_prefix(prefix: &str) -> bool {
    prefix.starts_with('/')
        && prefix.bytes().all(|b| matches!(b, b'!'..=b'~') && !matches!(b, b'?' | b'#' | b'*'))
}

/// Every request that `later` matches is matched by `earlier`.
fn covers(earlier: &Route, later: &Route) -> bool {
    let same_host = |a: &str| later.host.as_deref().is_some_and(|b| a.eq_ignore_ascii_case(b));
    let prefix = later.path_prefix.as_deref().unwrap_or("/");
    earlier.host.as_deref().is_none_or(same_host)
        && earlier.path_prefix.as_deref().is_none_or(|shorter| continues(shorter, prefix))
}

/// `/a` is continued by `/a`, `/a/` and `/a/b`, not by `/ab`.
fn continues(prefix: &str, path: &str) -> bool {
    let at_boundary = |rest: &str| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/');
    path.strip_prefix(prefix).is_some_and(at_boundary)
}

fn limits(report: &mut Report<'_>, cluster: &Cluster) {
    for (name, logger) in &cluster.loggers {
        if !logger.ring_bytes.is_power_of_two() {
            let near = logger.ring_bytes.next_power_of_two();
            let what = format!("{} is not a power of two", logger.ring_bytes);
            report.problem(
                &format!("logger.{name}.ring_bytes"),
                what,
                format!("write {near} or {}", near / 2),
            );
        }
    }
    let (splice, detector) = (&cluster.splice, &cluster.detector);
    if splice.half_open > splice.connections && report.is_given("splice.connections") {
        let what = format!("{} is more than splice.connections ({})", splice.half_open, splice.connections);
        report.problem("splice.half_open", what, "lower it, or raise splice.connections");
    }
    if detector.timeout_floor_ms > detector.timeout_ceiling_ms
        && report.is_given("detector.timeout_ceiling_ms")
    {
        let what = format!(
            "{} is more than detector.timeout_ceiling_ms ({})",
            detector.timeout_floor_ms, detector.timeout_ceiling_ms
        );
        report.problem("detector.timeout_floor_ms", what, "lower it, or raise the ceiling");
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn volatile_headers(report: &mut Report<'_>, names: &[String]) {
    for (index, name) in names.iter().enumerate() {
        let key = format!("recovery.volatile_headers[{index}]");
        if !is_token(name) {
            report.problem(
                &key,
                format!("{name:?} is not a field name"),
                "write it without colon and value, like \"Date\"",
            );
        } else if NEVER_VOLATILE.iter().any(|never| never.eq_ignore_ascii_case(name)) {
            let what = format!("`{name}` decides what the body is, so it must not differ");
            report.problem(&key, what, "remove it");
        }
    }
}

fn tags(report: &mut Report<'_>, rules: &[TagRule]) {
    let takes_all = |rule: &TagRule| rule.method.is_none() && rule.host.is_none() && rule.path.is_none();
    let last = rules.iter().position(takes_all).unwrap_or(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let key = format!("tag[{index}]");
        methods(report, &key, rule.method.as_deref());
        host(report, &format!("{key}.host"), rule.host.as_deref());
        if let Some((path, Err(remedy))) = rule.path.as_deref().map(|path| (path, pattern::check(path))) {
            report.problem(&format!("{key}.path"), format!("{path:?} is not a path pattern"), remedy);
        }
        if index > last {
            let what = format!("is never reached: tag[{last}] matches every request");
            report.problem(&key, what, "move it before that one, or remove it");
        }
    }
}

fn methods(report: &mut Report<'_>, key: &str, methods: Option<&[String]>) {
    let Some(methods) = methods else { return };
    if methods.is_empty() {
        report.problem(
            &format!("{key}.method"),
            "is empty: no request matches",
            "name methods, or leave it out for any",
        );
    }
    for (index, method) in methods.iter().enumerate() {
        if !is_token(method) || method.bytes().any(|b| b.is_ascii_lowercase()) {
            let remedy = format!("methods are upper case: write {:?}", method.to_ascii_uppercase());
            let remedy = if is_token(method) { remedy } else { "write a method, like \"GET\"".to_owned() };
            report.problem(&format!("{key}.method[{index}]"), format!("{method:?} is not a method"), remedy);
        }
    }
}
