//! `resplice tag --explain`: which rule decides on a request, what it says, and why none before it does.

use anyhow::Context;
use cluster::config::{Cluster, CookieMatch, HeaderMatch, TagRule};
use cluster::control::Tags;
use cluster::tags::{Answered, Asked, Decision, Rule, TagRules};
use serde_json::{Value, json};

use crate::{Outcome, TagArgs};

const MAX_HEAD: usize = 64 << 10;

pub(crate) fn explain(args: &TagArgs) -> Outcome {
    let cluster = Cluster::load(&args.config)?;
    // The daemons' own parser, so that host and path are what they see.
    let request = &args.explain;
    let host = format!("Host: {}", args.host);
    let lines = [vec![format!("{request} HTTP/1.1"), host], args.header.clone()].concat();
    let head = lines.join("\r\n") + "\r\n\r\n";
    let head = http1::parse_request(head.as_bytes(), MAX_HEAD)
        .with_context(|| format!("{request:?} is not a request: write it like 'GET /path'"))?
        .with_context(|| format!("{request:?} is not one request"))?;
    let asked = Asked::from(&head);
    let content_type = args.content_type.as_deref();
    let answered = args.status.map(|status| Answered { status, content_type });
    let rules = TagRules::new(&cluster.tags);
    let decision = rules.decide(&asked, answered.as_ref());
    let output = if args.json {
        serde_json::to_string_pretty(&object(&asked, &decision))?
    } else {
        text(&asked, &rules, &decision)
    };
    Ok((output, true))
}

fn text(asked: &Asked<'_>, rules: &TagRules, decision: &Decision) -> String {
    let decided = match &decision.rule {
        Some(rule) => format!("decided by {}: {}", rule.origin, describe(&rule.written)),
        None => reason(rules, decision),
    };
    let open = decision.open.iter().map(|rule| {
        format!(
            "\ndepends on the response: {}: {} ({})",
            rule.origin,
            describe(&rule.written),
            words(rule.tags)
        )
    });
    let more = decision.rule.iter().flat_map(|rule| settings(rule)).map(|setting| format!("\n{setting}"));
    let lines: String = open.chain(more).collect();
    let host = asked.host.unwrap_or("not given");
    format!("{} {} (host {host})\n{decided}\n{}{lines}", asked.method, asked.path, words(decision.tags))
}

fn reason(rules: &TagRules, decision: &Decision) -> String {
    if decision.ambiguous {
        "servers may read this path in two ways, which different rules decide: the conservative default"
            .to_owned()
    } else if rules.is_empty() {
        "no tag rules are defined: the conservative default".to_owned()
    } else {
        format!("none of the {} tag rules decides: the conservative default", rules.len())
    }
}

fn words(tags: Tags) -> String {
    let large = if tags.large_file { ", large file" } else { "" };
    format!(
        "{}, {}, {}{large}",
        if tags.deterministic { "deterministic" } else { "non-deterministic" },
        if tags.read_only { "read-only" } else { "update" },
        if tags.idempotent { "idempotent" } else { "non-idempotent" },
    )
}

/// What a rule says besides its tags.
fn settings(rule: &Rule) -> Vec<String> {
    let rule = &rule.written;
    let volatile = rule.volatile_headers.as_ref().map(|names| match names.as_slice() {
        [] => "no response field may differ".to_owned(),
        names => format!("response fields that may differ: {}", names.join(", ")),
    });
    let floor = rule.timeout_floor_ms.map(|floor| format!("application timeout at least {floor} ms"));
    let ceiling = rule.timeout_ceiling_ms.map(|ceiling| format!("application timeout at most {ceiling} ms"));
    [volatile, floor, ceiling].into_iter().flatten().collect()
}

fn object(asked: &Asked<'_>, decision: &Decision) -> Value {
    json!({
        "method": asked.method,
        "host": asked.host,
        "path": asked.path,
        "query": asked.query,
        "rule": decision.rule.as_deref().map(of_rule),
        "depends_on_response": decision.open.iter().map(|rule| of_rule(rule)).collect::<Vec<_>>(),
        "ambiguous_path": decision.ambiguous,
        "tags": of_tags(decision.tags),
    })
}

fn of_rule(rule: &Rule) -> Value {
    let set = rule.origin.set.as_ref();
    json!({
        "index": rule.origin.index,
        "include": set.map(|(name, _)| name),
        "index_in_set": set.map(|(_, index)| index),
        "matches": describe(&rule.written),
        "tags": of_tags(rule.tags),
        "volatile_headers": rule.written.volatile_headers,
        "timeout_floor_ms": rule.written.timeout_floor_ms,
        "timeout_ceiling_ms": rule.written.timeout_ceiling_ms,
    })
}

fn of_tags(tags: Tags) -> Value {
    json!({
        "deterministic": tags.deterministic,
        "read_only": tags.read_only,
        "idempotent": tags.idempotent,
        "large_file": tags.large_file,
    })
}

/// What a rule matches.
fn describe(rule: &TagRule) -> String {
    let any = |what: &str, texts: &Option<Vec<String>>| {
        texts.as_ref().map(|texts| format!("{what} {}", texts.join(" or ")))
    };
    let one = |what: &str, text: &Option<String>| text.as_ref().map(|text| format!("{what} {text}"));
    let conditions = [
        any("method", &rule.method),
        one("host", &rule.host),
        one("path", &rule.path),
        one("path matching", &rule.path_regex),
    ];
    let query = rule.query.iter().map(|condition| value("parameter", condition));
    let headers = rule.headers.iter().map(|condition| value("field", condition));
    let cookies = rule.cookies.iter().map(cookie);
    let response = [any("status", &rule.status), any("content type", &rule.content_type)];
    let all: Vec<_> = conditions
        .into_iter()
        .flatten()
        .chain(query)
        .chain(headers)
        .chain(cookies)
        .chain(response.into_iter().flatten())
        .collect();
    if all.is_empty() { "any request".to_owned() } else { all.join(", ") }
}

fn value(what: &str, condition: &HeaderMatch) -> String {
    let HeaderMatch { name, value, prefix } = condition;
    match (value, prefix) {
        (Some(value), _) => format!("{what} {name} = {value:?}"),
        (None, Some(prefix)) => format!("{what} {name} beginning with {prefix:?}"),
        (None, None) => format!("{what} {name}"),
    }
}

fn cookie(condition: &CookieMatch) -> String {
    let value = condition.value.as_ref().map(|value| format!(" = {value:?}")).unwrap_or_default();
    format!("cookie {}{value}", condition.name)
}
