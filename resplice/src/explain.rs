//! `resplice tag --explain`.

use std::path::Path;

use anyhow::Context;
use cluster::config::{Cluster, TagRule};
use cluster::tags::tags_for;

use crate::Outcome;

const MAX_HEAD: usize = 64 << 10;

pub(crate) fn explain(config: &Path, request: &str, host: &str) -> Outcome {
    let cluster = Cluster::load(config)?;
    // The daemons' own parser, so that host and path are what they see.
    let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let head = http1::parse_request(head.as_bytes(), MAX_HEAD)
        .with_context(|| format!("{request:?} is not a request: write it like 'GET /path'"))?
        .with_context(|| format!("{request:?} is not one request"))?;
    let (tags, index) = tags_for(&cluster.tags, head.method(), head.host.as_deref(), head.path());
    let rule = index.and_then(|index| Some((index, cluster.tags.get(index)?)));
    let decided = match rule {
        Some((index, rule)) => format!("decided by tag[{index}]: {}", describe(rule)),
        None if cluster.tags.is_empty() => "no tag rules are defined: the conservative default".to_owned(),
        None => format!("none of the {} tag rules decides: the conservative default", cluster.tags.len()),
    };
    let output = format!(
        "{} {} (host {})\n{decided}\n{}, {}, {}",
        head.method(),
        head.path(),
        head.host.as_deref().unwrap_or("not given"),
        if tags.deterministic { "deterministic" } else { "non-deterministic" },
        if tags.read_only { "read-only" } else { "update" },
        if tags.idempotent { "idempotent" } else { "non-idempotent" },
    );
    Ok((output, true))
}

fn describe(rule: &TagRule) -> String {
    let method = rule.method.as_ref().map(|methods| format!("method {}", methods.join(" or ")));
    let host = rule.host.as_ref().map(|host| format!("host {host}"));
    let path = rule.path.as_ref().map(|path| format!("path {path}"));
    let matchers: Vec<_> = [method, host, path].into_iter().flatten().collect();
    if matchers.is_empty() { "any request".to_owned() } else { matchers.join(", ") }
}
