//! What must hold between the values of a configuration whose keys and types are right.

use super::report::Report;
use super::{Cluster, protocol, routes, tagging};

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    names(report, cluster);
    presence(report, cluster);
    protocol::check(report, cluster);
    routes::check(report, cluster);
    limits(report, cluster);
    tagging::volatile(report, "recovery.volatile_headers", &cluster.recovery.volatile_headers);
    tagging::check(report, cluster);
}

fn names(report: &mut Report<'_>, cluster: &Cluster) {
    let name = &cluster.cluster.name;
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || !(1..=32).contains(&name.len()) {
        report.problem("cluster.name", format!("is {name:?}"), "use 1 to 32 characters of a-z, 0-9 and -");
    }
    let certificates = &cluster.cluster.certificates;
    if !certificates.is_absolute() {
        let what = format!("{} depends on where a program is started", certificates.display());
        report.problem("cluster.certificates", what, "write a path that begins with /");
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

pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
