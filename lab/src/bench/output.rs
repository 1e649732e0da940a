//! An outcome as text and as JSON.

#![deny(clippy::disallowed_methods)]

use std::fmt::Write;

use anyhow::Result;

use super::rows::Row;
use super::{Machine, Outcome};

impl Outcome {
    /// A table for people.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        let mut text = format!("{:<width$}  {:>10} {:<5}  spread\n", "", "median", "");
        for row in &self.rows {
            text += line(row, width).trim_end();
            text += "\n";
        }
        let Machine { kernel, processors, processor } = &self.machine;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{processors} x {processor}, Linux {kernel}, version {}", self.commit);
        text
    }

    /// One object for programs.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn line(row: &Row, width: usize) -> String {
    let (value, low, high) = (number(row.value), number(row.low), number(row.high));
    let spread = format!("{low} – {high}");
    let bound = row.must.zip(row.aim).map(|(must, aim)| {
        let kept = if row.ok { "kept" } else { "NOT KEPT" };
        format!("  must {}, aim {}: {kept}", number(Some(must)), number(Some(aim)))
    });
    let reason = row.reason.as_ref().map(|reason| format!("  ({})", reason.replace('\n', " ")));
    let (bound, reason) = (bound.unwrap_or_default(), reason.unwrap_or_default());
    format!("{:<width$}  {value:>10} {:<5}  {spread:<19}{bound}{reason}", row.what, row.unit)
}

/// About four digits.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Option<f64>, must: Option<f64>, ok: bool, reason: Option<&str>) -> Row {
        Row {
            what: "bulk".to_owned(),
            value,
            unit: "MB/s",
            low: value,
            high: value,
            must,
            aim: must,
            ok,
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn a_bound_says_whether_it_is_kept_and_a_missing_figure_why() {
        assert!(line(&row(Some(1234.5), None, true, None), 10).contains("1234 MB/s"));
        assert!(
            line(&row(Some(0.5), Some(0.9), false, None), 10).ends_with("must 0.900, aim 0.900: NOT KEPT")
        );
        let missing = line(&row(None, None, false, Some("it does\nnot run")), 10);
        assert!(missing.contains(" - ") && missing.ends_with("(it does not run)"));
    }
}
