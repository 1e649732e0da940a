//! What must hold of routes, pools and backends: every name defined, every condition one that a request can meet.

use std::collections::BTreeMap;

use super::report::{Report, suggest};
use super::routing::{host_fits, path_fits};
use super::rules::is_token;
use super::{Balance, Cluster, CookieMatch, HeaderMatch, Pool, PoolState, ProtocolName, Route};

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    for (name, pool) in &cluster.pools {
        members(report, cluster, name, pool);
        if report.is_given(&format!("pool.{name}.balance")) {
            balance(report, &format!("pool.{name}.balance_on"), pool);
        }
        if report.is_given(&format!("pool.{name}.state")) {
            state(report, cluster, name, pool);
        }
    }
    for (index, route) in cluster.routes.iter().enumerate() {
        check_route(report, cluster, &format!("route[{index}]"), route);
        let earlier = cluster.routes.iter().take(index).position(|earlier| covers(earlier, route));
        if let Some(earlier) = earlier {
            let what = format!("is never reached: route[{earlier}] takes all its requests");
            report.problem(&format!("route[{index}]"), what, "move it before that one, or remove it");
        }
    }
}

fn members(report: &mut Report<'_>, cluster: &Cluster, name: &str, pool: &Pool) {
    let key = format!("pool.{name}.backends");
    if pool.backends.is_empty() {
        let remedy = "name at least one backend, two for recovery, or remove the pool";
        report.problem(&key, "is empty", remedy);
    }
    let mut first = BTreeMap::new();
    for (index, member) in pool.backends.iter().enumerate() {
        let key = format!("{key}[{index}]");
        if first.insert(member, index).is_some() {
            let what = format!("backend `{member}` is twice in pool `{name}`");
            report.problem(&key, what, "remove one of them");
        } else if !cluster.backends.contains_key(member) {
            let what = format!("backend `{member}` of pool `{name}` is not defined");
            report.problem(&key, what, undefined("backend", member, cluster.backends.keys()));
        }
    }
}

fn balance(report: &mut Report<'_>, key: &str, pool: &Pool) {
    let named = matches!(pool.balance, Balance::Header | Balance::Cookie);
    match pool.balance_on.as_deref() {
        None if named => {
            report.problem(key, "is missing", "name the header or cookie that decides, like \"X-User\"");
        }
        Some(_) if !named => {
            let remedy = "remove it, or write balance = \"header\" or \"cookie\"";
            report.problem(key, "only headers and cookies have a name", remedy);
        }
        Some(name) if !is_token(name) => {
            let remedy = "write the name of a header or cookie, like \"X-User\"";
            report.problem(key, format!("{name:?} is not a name"), remedy);
        }
        _ => {}
    }
}

/// Replayed responses are told apart by their framing, which the proxy knows of HTTP only.
fn state(report: &mut Report<'_>, cluster: &Cluster, name: &str, pool: &Pool) {
    let key = format!("pool.{name}.state");
    if pool.state == PoolState::Separate && cluster.service.protocol != ProtocolName::Http {
        let what = "separate state is made up for by replaying updates, which is possible with HTTP only";
        report.problem(
            &key,
            what,
            "write state = \"shared\", if a backend can continue another one's connections",
        );
    }
    let earlier = cluster.pools.iter().take_while(|(other, _)| *other != name);
    for (other, earlier) in earlier.filter(|(_, other)| other.state != pool.state) {
        if let Some(both) = pool.backends.iter().find(|member| earlier.backends.contains(member)) {
            let what = format!("backend `{both}` is in pool `{other}`, too, which says otherwise");
            report.problem(&key, what, "write the same state for both pools, or give each its own backends");
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

fn check_route(report: &mut Report<'_>, cluster: &Cluster, key: &str, route: &Route) {
    if !cluster.pools.contains_key(&route.pool) {
        let remedy = undefined("pool", &route.pool, cluster.pools.keys());
        report.problem(&format!("{key}.pool"), format!("pool `{}` is not defined", route.pool), remedy);
    }
    let name = route.host.as_deref().map(|host| host.strip_prefix("*.").unwrap_or(host));
    host(report, &format!("{key}.host"), name);
    if route.path_prefix.as_deref().is_some_and(|prefix| !valid_prefix(prefix)) {
        let remedy = "write a path without query, like \"/shop\"; leave the key out for any path";
        report.problem(&format!("{key}.path_prefix"), "is not a path", remedy);
    }
    methods(report, key, route.method.as_deref());
    for (index, header) in route.headers.iter().enumerate() {
        check_header(report, &format!("{key}.header[{index}]"), header);
    }
    for (index, cookie) in route.cookies.iter().enumerate() {
        check_cookie(report, &format!("{key}.cookie[{index}]"), cookie);
    }
}

pub(super) fn host(report: &mut Report<'_>, key: &str, host: Option<&str>) {
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

pub(super) fn check_header(report: &mut Report<'_>, key: &str, header: &HeaderMatch) {
    if !is_token(&header.name) {
        let remedy = "write a field's name without colon, like \"X-Canary\"";
        report.problem(&format!("{key}.name"), format!("{:?} is not a field name", header.name), remedy);
    }
    if header.value.is_some() && header.prefix.is_some() {
        report.problem(key, "has both value and prefix", "keep one of them");
    }
    let sent = |text: &str| text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
    let value_sent = |text: &str| sent(text) && text == text.trim_matches([' ', '\t']);
    if header.value.as_deref().is_some_and(|value| !value_sent(value)) {
        let remedy = "write it without control characters, and without spaces around it";
        report.problem(&format!("{key}.value"), "no field has this value", remedy);
    }
    match header.prefix.as_deref() {
        Some("") => report.problem(&format!("{key}.prefix"), "is empty", "leave it out for any value"),
        Some(prefix) if !sent(prefix) || prefix.starts_with([' ', '\t']) => {
            let remedy = "write it without control characters, and without spaces before it";
            report.problem(&format!("{key}.prefix"), "no field's value begins so", remedy);
        }
        _ => {}
    }
}

pub(super) fn check_cookie(report: &mut Report<'_>, key: &str, cookie: &CookieMatch) {
    if !is_token(&cookie.name) {
        let remedy = "write a cookie's name, like \"session\"";
        report.problem(&format!("{key}.name"), format!("{:?} is not a cookie's name", cookie.name), remedy);
    }
    let sent = |value: &str| value.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b';');
    if cookie.value.as_deref().is_some_and(|value| !sent(value)) {
        let remedy = "write it as it is sent: without spaces, semicolons and control characters";
        report.problem(&format!("{key}.value"), "no cookie has this value", remedy);
    }
}

pub(super) fn methods(report: &mut Report<'_>, key: &str, methods: Option<&[String]>) {
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

/// Every request that `later` matches is matched by `earlier`. It may be so without being noticed, not the other way round.
fn covers(earlier: &Route, later: &Route) -> bool {
    let same_host = |wider: &str| later.host.as_deref().is_some_and(|host| host_fits(wider, host));
    let path = later.path_prefix.as_deref().unwrap_or("/");
    let methods = |wider: &Vec<String>| {
        later.method.as_ref().is_some_and(|methods| methods.iter().all(|method| wider.contains(method)))
    };
    earlier.host.as_deref().is_none_or(same_host)
        && earlier.path_prefix.as_deref().is_none_or(|shorter| path_fits(shorter, path))
        && earlier.method.as_ref().is_none_or(methods)
        && earlier.headers.iter().all(|wider| later.headers.iter().any(|header| implies(header, wider)))
        && earlier
            .cookies
            .iter()
            .all(|wider| later.cookies.iter().any(|cookie| cookie_implies(cookie, wider)))
}

/// A field that fulfils `header` fulfils `wider`.
fn implies(header: &HeaderMatch, wider: &HeaderMatch) -> bool {
    let begins = |prefix: &str| {
        let beginning = header.value.as_deref().or(header.prefix.as_deref());
        beginning.is_some_and(|beginning| beginning.starts_with(prefix))
    };
    header.name.eq_ignore_ascii_case(&wider.name)
        && (wider.value.is_none() || wider.value == header.value)
        && wider.prefix.as_deref().is_none_or(begins)
}

fn cookie_implies(cookie: &CookieMatch, wider: &CookieMatch) -> bool {
    cookie.name == wider.name && (wider.value.is_none() || wider.value == cookie.value)
}
