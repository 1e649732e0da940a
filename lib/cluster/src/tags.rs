//! What the rules of `[[tag]]` say of a transaction (paper §3.1): the first that matches decides, without one the
//! conservative default does.
//!
//! * [`sets`]: rules shipped by name.
//! * [`Rule`]: one rule, ready to be matched.
//! * [`resolved`]: a path as its server may read it.

use std::borrow::Cow;
use std::sync::Arc;

use http1::RequestHead;

use crate::config::TagRule;
use crate::control::Tags;

mod resolved;
mod rule;
pub mod sets;

pub use rule::{Matched, Origin, Rule};
pub(crate) use rule::{media, regex, status};

use resolved::resolved;

/// A request as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method, or another protocol's command.
    pub method: &'a str,
    /// Host without port.
    pub host: Option<&'a str>,
    /// The path without query, as received; another protocol's whole request line.
    pub path: &'a str,
    /// The query as received, without the question mark.
    pub query: Option<&'a str>,
    /// Where header fields and cookies are, if there are any.
    pub head: Option<&'a RequestHead>,
}

impl<'a> From<&'a RequestHead> for Asked<'a> {
    fn from(head: &'a RequestHead) -> Self {
        Self {
            method: head.method(),
            host: head.host.as_deref(),
            path: head.path(),
            query: head.query(),
            head: Some(head),
        }
    }
}

/// A response as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Status code.
    pub status: u16,
    /// `Content-Type`, as received.
    pub content_type: Option<&'a str>,
}

/// What is known of a transaction.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// Its tags. While rules depend on a response that has not come: what holds whether or not they match.
    pub tags: Tags,
    /// The first rule that certainly matches.
    pub rule: Option<Arc<Rule>>,
    /// Rules before that one, or all, that depend on the response.
    pub open: Vec<Arc<Rule>>,
    /// The path can be read in two ways that different rules decide: it got the default.
    pub ambiguous: bool,
}

/// All rules of a configuration, ready to be matched.
#[derive(Debug, Clone, Default)]
pub struct TagRules {
    rules: Vec<Arc<Rule>>,
}

impl TagRules {
    /// The rules of a checked configuration, included sets among them.
    pub fn new(rules: &[TagRule]) -> Self {
        let mut ready = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            match rule.include.as_deref() {
                None => ready.push(Arc::new(Rule::new(rule, Origin { index, set: None }))),
                Some(name) => {
                    let set = sets::rules(name);
                    ready.extend(set.iter().enumerate().map(|(inside, rule)| {
                        Arc::new(Rule::new(rule, Origin { index, set: Some((name.to_owned(), inside)) }))
                    }));
                }
            }
        }
        Self { rules: ready }
    }

    /// Rules in all, those of sets included.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules say of a transaction, whose response may not have come yet.
    ///
    /// A path that the server may read differently than it is written (percent-encoding, `//`, dot segments) must be decided
    /// by the same rules both ways, or gets the default: `/static/../order` is not static.
    pub fn decide(&self, asked: &Asked<'_>, answered: Option<&Answered<'_>>) -> Decision {
        let written = self.decide_path(asked, asked.path.as_bytes(), answered);
        match resolved(asked.path.as_bytes()) {
            Cow::Borrowed(_) => written,
            Cow::Owned(read) => {
                let read = self.decide_path(asked, &read, answered);
                let open = written.open.len() == read.open.len()
                    && written.open.iter().zip(&read.open).all(|(a, b)| Arc::ptr_eq(a, b));
                if open && same(written.rule.as_ref(), read.rule.as_ref()) {
                    written
                } else {
                    Decision { ambiguous: true, ..Decision::default() }
                }
            }
        }
    }

    fn decide_path(&self, asked: &Asked<'_>, path: &[u8], answered: Option<&Answered<'_>>) -> Decision {
        let mut decision = Decision { tags: ALL, ..Decision::default() };
        for rule in &self.rules {
            match rule.matches(asked, path, answered) {
                Matched::No => continue,
                Matched::Open => decision.open.push(Arc::clone(rule)),
                Matched::Yes => decision.rule = Some(Arc::clone(rule)),
            }
            decision.tags = both(decision.tags, rule.tags);
            if decision.rule.is_some() {
                return decision;
            }
        }
        Decision { tags: Tags::default(), ..decision }
    }
}

const ALL: Tags = Tags { deterministic: true, read_only: true, idempotent: true, large_file: true };

fn both(a: Tags, b: Tags) -> Tags {
    Tags {
        deterministic: a.deterministic && b.deterministic,
        read_only: a.read_only && b.read_only,
        idempotent: a.idempotent && b.idempotent,
        large_file: a.large_file && b.large_file,
    }
}

fn same(a: Option<&Arc<Rule>>, b: Option<&Arc<Rule>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
