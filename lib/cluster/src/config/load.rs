//! From text to a [`Cluster`]: everything that is wrong is found in one pass.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it reads the file")]

use std::path::Path;

use toml::Value;
use toml::de::DeTable;

use super::report::Report;
use super::{Cluster, ConfigError, addresses, rules, schema, shape};

impl Cluster {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file),
            Err(error) => Err(unreadable(&file, &error)),
        }
    }

    /// Checks the text of a configuration file; `file` is its name in messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let mut report = Report::new(text);
        let cluster = check(&mut report, text);
        report.finish(file)?;
        cluster.ok_or_else(|| ConfigError { file: file.to_owned(), problems: Vec::new() })
    }
}

/// `None` only if something was reported.
fn check(report: &mut Report<'_>, text: &str) -> Option<Cluster> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map(|span| span.start);
        report.problem_at(at, format!("not TOML: {}", error.message()), "correct the line");
    }
    if !errors.is_empty() {
        return None;
    }
    let checked = shape::check(report, table.get_ref(), schema::FILE, "");
    match Value::Table(checked).try_into::<Cluster>() {
        Ok(cluster) => {
            rules::check(report, &cluster);
            addresses::check(report, &cluster);
            Some(cluster)
        }
        Err(error) => {
            report.problem_at(None, error.message(), "correct the value");
            None
        }
    }
}

fn unreadable(file: &str, error: &std::io::Error) -> ConfigError {
    let mut report = Report::new("");
    report.problem_at(
        None,
        format!("cannot be read ({error})"),
        "name the cluster's configuration with --config FILE",
    );
    match report.finish(file) {
        Err(error) => error,
        Ok(()) => ConfigError { file: file.to_owned(), problems: Vec::new() },
    }
}
