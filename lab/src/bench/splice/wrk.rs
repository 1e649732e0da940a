//! wrk: requests as fast as they are answered. A script of its own language makes it say its figures exactly.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::Lab;

/// Connections of wrk.
pub(in crate::bench) const CONNECTIONS: usize = 32;

const SCRIPT: &str = r#"done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":%d,"timeouts":%d,"bad_statuses":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write, e.timeout, e.status))
end
"#;

/// What wrk counted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::bench) struct Said {
    requests: u64,
    duration_us: u64,
    p50_us: u64,
    p99_us: u64,
    errors: u64,
    timeouts: u64,
    bad_statuses: u64,
}

impl Said {
    /// Requests a second.
    pub(in crate::bench) fn rate(&self) -> f64 {
        self.requests as f64 / (self.duration_us as f64 / 1e6)
    }

    /// Median latency, ms.
    pub(in crate::bench) fn p50_ms(&self) -> f64 {
        self.p50_us as f64 / 1e3
    }

    /// 99th percentile of the latency, ms.
    pub(in crate::bench) fn p99_ms(&self) -> f64 {
        self.p99_us as f64 / 1e3
    }
}

/// Runs wrk on the client's node. With `close`, each request has a connection of its own.
pub(in crate::bench) fn run(lab: &Lab, url: &str, length: Duration, close: bool) -> Result<Said> {
    let script = lab.dir().join("wrk.lua");
    fs::write(&script, SCRIPT)?;
    // wrk counts in whole seconds.
    let (length, connections) =
        (format!("-d{}s", length.as_secs_f64().ceil().max(1.0)), format!("-c{CONNECTIONS}"));
    let script = script.to_str().context("the lab's directory is not UTF-8")?;
    let mut arguments = vec!["-t1", &connections, &length, "--timeout", "5s", "-s", script];
    if close {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(url);
    parse(&lab.on_client("wrk", &arguments)?)
}

fn parse(output: &str) -> Result<Said> {
    let line = output.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("wrk says no figures: {output}"))?;
    let said: Said = serde_json::from_str(line).with_context(|| format!("wrk says {line}"))?;
    ensure!(said.errors + said.timeouts + said.bad_statuses == 0, "wrk saw errors: {said:?}");
    ensure!(said.requests > 0 && said.duration_us > 0, "wrk got no answer: {said:?}");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"Running 2s test @ http://10.77.0.1/files/1k
  1 threads and 32 connections
Requests/sec:   5000.00

{"requests":10000,"duration_us":2000000,"p50_us":900,"p99_us":4100,"errors":0,"timeouts":0,"bad_statuses":0}
"#;

    #[test]
    fn its_figures_are_read() {
        let said = parse(OUTPUT).unwrap();
        assert_eq!((said.rate(), said.p50_ms(), said.p99_ms()), (5000.0, 0.9, 4.1));
    }

    #[test]
    fn errors_and_silence_are_not_figures() {
        assert!(parse(&OUTPUT.replace(r#""timeouts":0"#, r#""timeouts":1"#)).is_err());
        assert!(parse(&OUTPUT.replace(r#""requests":10000"#, r#""requests":0"#)).is_err());
        assert!(parse("Running 2s test\n").is_err());
    }
}
