//! `[[tag]]`: its keys, and what must hold of them.

use serde::{Deserialize, Serialize};

use super::report::{Report, suggest};
use super::routes::{check_cookie, check_header, host, methods};
use super::rules::is_token;
use super::{Cluster, CookieMatch, HeaderMatch, ProtocolName};
use crate::control::Tags;
use crate::pattern;
use crate::tags::{self, media, regex, status};

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

/// `[[tag]]`: which transactions, and what is known of them (paper §3.1). An absent matcher matches all;
/// an absent tag keeps the conservative default: non-deterministic, update, non-idempotent, not a large file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TagRule {
    /// The rules of this shipped set stand here instead; no other key may be given.
    pub include: Option<String>,
    /// Methods, as sent; one of them. Of other protocols, commands: in upper case where the protocol does not tell cases apart.
    pub method: Option<Vec<String>>,
    /// Host without port, compared without case.
    pub host: Option<String>,
    /// Path pattern: `*` matches within a segment, `**` across segments. Of other protocols, the whole request line.
    pub path: Option<String>,
    /// Regular expression that is found in the path; `^` and `$` anchor it.
    pub path_regex: Option<String>,
    /// Status of the response, like `200` or `4xx`; one of them.
    pub status: Option<Vec<String>>,
    /// Media type of the response, like `text/html` or `image/*`; one of them.
    pub content_type: Option<Vec<String>>,
    /// The same request and state always give the same response.
    #[serde(default)]
    pub deterministic: bool,
    /// Does not change the application's state.
    #[serde(default)]
    pub read_only: bool,
    /// Running it twice has the effect of running it once.
    #[serde(default)]
    pub idempotent: bool,
    /// The response need not be logged whole: it can be had again from where it was broken off (paper §3.1).
    #[serde(default)]
    pub large_file: bool,
    /// Instead of `recovery.volatile_headers`.
    pub volatile_headers: Option<Vec<String>>,
    /// Instead of `detector.timeout_floor_ms`.
    pub timeout_floor_ms: Option<u64>,
    /// Instead of `detector.timeout_ceiling_ms`.
    pub timeout_ceiling_ms: Option<u64>,
    /// Conditions on parameters of the query, decoded; all of them.
    #[serde(default)]
    pub query: Vec<HeaderMatch>,
    /// Conditions on header fields, all of them.
    #[serde(default, rename = "header")]
    pub headers: Vec<HeaderMatch>,
    /// Conditions on cookies, all of them.
    #[serde(default, rename = "cookie")]
    pub cookies: Vec<CookieMatch>,
}

impl TagRule {
    /// What this rule says.
    pub fn tags(&self) -> Tags {
        Tags {
            deterministic: self.deterministic,
            read_only: self.read_only,
            idempotent: self.idempotent,
            large_file: self.large_file,
        }
    }

    /// This rule with all that is no matcher as by default.
    fn matchers(&self) -> Self {
        Self {
            deterministic: false,
            read_only: false,
            idempotent: false,
            large_file: false,
            volatile_headers: None,
            timeout_floor_ms: None,
            timeout_ceiling_ms: None,
            ..self.clone()
        }
    }
}

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    let rules = &cluster.tags;
    let takes_all = |rule: &TagRule| rule.matchers() == TagRule::default();
    let last = rules.iter().position(takes_all).unwrap_or(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let key = format!("tag[{index}]");
        if index > last {
            let what = format!("is never reached: tag[{last}] matches every request");
            report.problem(&key, what, "move it before that one, or remove it");
        }
        match &rule.include {
            Some(name) => include(report, &key, rule, name),
            None => check_rule(report, &key, rule),
        }
        if cluster.service.protocol == ProtocolName::Http {
            methods(report, &key, rule.method.as_deref());
        }
    }
}

fn include(report: &mut Report<'_>, key: &str, rule: &TagRule, name: &str) {
    let names = || tags::sets::names();
    if !names().any(|known| known == name) {
        let remedy = match suggest(name, names()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
        };
        report.problem(&format!("{key}.include"), format!("no rules are called {name:?}"), remedy);
    }
    let alone = TagRule { include: rule.include.clone(), ..TagRule::default() };
    if *rule != alone {
        report.problem(key, "include stands beside other keys", "give them a [[tag]] of their own");
    }
}

fn check_rule(report: &mut Report<'_>, key: &str, rule: &TagRule) {
    host(report, &format!("{key}.host"), rule.host.as_deref());
    if let Some((path, Err(remedy))) = rule.path.as_deref().map(|path| (path, pattern::check(path))) {
        report.problem(&format!("{key}.path"), format!("{path:?} is not a path pattern"), remedy);
    }
    if let Some((text, Err(error))) = rule.path_regex.as_deref().map(|text| (text, regex(text))) {
        let what = format!("{text:?} is not a regular expression: {error}");
        report.problem(&format!("{key}.path_regex"), what, "correct it");
    }
    let texts = |texts: &Option<Vec<String>>| texts.clone().unwrap_or_default().into_iter().enumerate();
    for (index, text) in texts(&rule.status).filter(|(_, text)| status(text).is_none()) {
        let what = format!("{text:?} is not a status");
        report.problem(&format!("{key}.status[{index}]"), what, "write it like \"404\" or \"4xx\"");
    }
    for (index, text) in texts(&rule.content_type).filter(|(_, text)| media(text).is_none()) {
        let what = format!("{text:?} is not a media type");
        let remedy = "write it without parameters, like \"text/html\" or \"image/*\"";
        report.problem(&format!("{key}.content_type[{index}]"), what, remedy);
    }
    conditions(report, key, rule);
    volatile(
        report,
        &format!("{key}.volatile_headers"),
        rule.volatile_headers.as_deref().unwrap_or_default(),
    );
    if let (Some(floor), Some(ceiling)) = (rule.timeout_floor_ms, rule.timeout_ceiling_ms)
        && floor > ceiling
    {
        let what = format!("{floor} is more than the rule's timeout_ceiling_ms ({ceiling})");
        report.problem(&format!("{key}.timeout_floor_ms"), what, "lower it, or raise the ceiling");
    }
}

fn conditions(report: &mut Report<'_>, key: &str, rule: &TagRule) {
    for (index, parameter) in rule.query.iter().enumerate() {
        if parameter.value.is_some() && parameter.prefix.is_some() {
            report.problem(&format!("{key}.query[{index}]"), "has both value and prefix", "keep one of them");
        }
    }
    for (index, header) in rule.headers.iter().enumerate() {
        check_header(report, &format!("{key}.header[{index}]"), header);
    }
    for (index, cookie) in rule.cookies.iter().enumerate() {
        check_cookie(report, &format!("{key}.cookie[{index}]"), cookie);
    }
}

pub(super) fn volatile(report: &mut Report<'_>, key: &str, names: &[String]) {
    for (index, name) in names.iter().enumerate() {
        let key = format!("{key}[{index}]");
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
