//! What running daemons can be told by a new configuration, and what they cannot.

use std::collections::BTreeSet;

use toml::Value;

use super::{Cluster, ConfigError, Problem};

/// Keys, with all below them, that sockets, rules, tables or the log were made by when the daemons started.
const FIXED: &[&str] = &[
    "cluster",
    "service",
    "proxy",
    "logger",
    "splice.fast_path",
    "splice.queues",
    "splice.connections",
    "splice.idle_timeout_s",
];

impl Cluster {
    /// Whether `new`, read from `file`, may replace this configuration while the daemons run. Routes, pools, backends,
    /// tags, detector, recovery and most of the splice's limits may change.
    ///
    /// # Errors
    /// Each key that differs and may not.
    pub fn check_reload(&self, new: &Self, file: &str) -> Result<(), ConfigError> {
        let (old, new) = (Value::try_from(self).ok(), Value::try_from(new).ok());
        let mut problems = Vec::new();
        for key in FIXED {
            compare(key, at(old.as_ref(), key), at(new.as_ref(), key), &mut problems);
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { file: file.to_owned(), problems }) }
    }
}

fn at<'v>(root: Option<&'v Value>, key: &str) -> Option<&'v Value> {
    key.split('.').fold(root, |value, part| value?.get(part))
}

fn compare(key: &str, old: Option<&Value>, new: Option<&Value>, problems: &mut Vec<Problem>) {
    if let (Some(Value::Table(old)), Some(Value::Table(new))) = (old, new) {
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            compare(&format!("{key}.{name}"), old.get(name), new.get(name), problems);
        }
    } else if old != new {
        let back = match old {
            Some(Value::Table(_)) => "put it back".to_owned(),
            Some(old) => format!("put it back to {old}"),
            None => "remove it".to_owned(),
        };
        problems.push(Problem {
            key: key.to_owned(),
            place: None,
            what: "cannot change while the daemons run".to_owned(),
            remedy: format!("{back}, or restart the daemons of all hosts"),
        });
    }
}
