//! `scripts/bench splice` and `log` in small: every row that was asked for has a figure. What the figures are is not judged here.

#![allow(clippy::disallowed_methods, reason = "a test of real systems reads files")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::bench::splice::{Contender, Measure, Plan};
use lab::bench::{Bench, Order, Outcome, bench, detection, log, recovery, soak};

const LENGTH: Duration = Duration::from_millis(100);

#[test]
fn a_short_run_fills_all_its_rows() -> Result<()> {
    let mut plan = Plan::new(1, LENGTH);
    plan.contenders = vec![Contender::Plain, Contender::Kernel];
    plan.measures =
        vec![Measure::Bulk, Measure::BulkMany, Measure::Requests, Measure::HalfLoad, Measure::Idle];
    plan.idle = 100;
    run(
        "splice",
        Order { plan, ..order(Bench::Splice) },
        &[
            "bulk, one stream, plain forwarding",
            "processor time, whole machine, resplice kernel path",
            "memory a connection, 100 idle, resplice kernel path",
            "bulk, resplice kernel path / plain forwarding",
            "p99 latency added at half load, resplice kernel path",
        ],
    )
}

#[test]
fn a_short_run_of_the_log_fills_all_its_rows() -> Result<()> {
    use log::{Contender, Plan};
    let mut plan = Plan::new(1, LENGTH);
    plan.contenders =
        vec![Contender::Plain, Contender::Accept, Contender::Logger, Contender::Tcpdump, Contender::Whole];
    run(
        "log",
        Order { log: plan, ..order(Bench::Log) },
        &[
            "bulk, nfq-logger / plain forwarding",
            "bulk, 16 streams, nfq-logger / NFQUEUE accept alone",
            "keep-alive requests, nfq-logger / plain forwarding",
            "small packets, nfq-logger",
            "packets dropped or not recorded, 16 streams, tcpdump -w",
            "time added to a page, proxy and logger / neither",
        ],
    )
}

/// One failure of each kind and a second of overload: also here, no healthy backend must be called failed.
#[test]
fn a_short_run_of_detection_fills_all_its_rows() -> Result<()> {
    let plan = detection::Plan::new(1, Duration::from_secs(1));
    run(
        "detection",
        Order { detection: plan, ..order(Bench::Detection) },
        &[
            "SIGKILL of the server to declared, p99",
            "silent host, response in progress to declared, p50",
            "silent host, request pending to declared, max",
            "silent host, idle to declared, p99",
            "wrong failovers in 1 s of healthy overload",
            "parser, small requests, one core",
            "transactionalizer, small requests, one core",
        ],
    )
}

fn order(bench: Bench) -> Order {
    let (plan, log) = (Plan::new(1, LENGTH), log::Plan::new(1, LENGTH));
    let recovery = recovery::Plan::new(0);
    let detection = detection::Plan::new(0, Duration::ZERO);
    let soak = soak::Plan::new(Duration::ZERO);
    Order { bench, plan, log, soak, detection, recovery, resume: false, output: std::path::PathBuf::new() }
}

fn run(name: &str, order: Order, expected: &[&str]) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("lab-benchmark-{}-{name}", std::process::id()));
    let lab = Lab::new(&format!("t{}-{}", std::process::id(), &name[..1]))?;
    let outcome = bench(&lab, &Order { output: dir.join(name), ..order }, &mut |_| ());
    let text = fs::read_to_string(dir.join(format!("{name}.txt")));
    let json = fs::read_to_string(dir.join(format!("{name}.json")));
    let files = fs::read_dir(&dir)?.count();
    fs::remove_dir_all(&dir)?;
    check(&outcome?, (&text?, &json?), expected)?;
    ensure!(files == 2, "an unfinished run is left behind");
    Ok(())
}

fn check(outcome: &Outcome, (text, json): (&str, &str), expected: &[&str]) -> Result<()> {
    for row in &outcome.rows {
        ensure!(row.value.is_some_and(f64::is_finite) && row.reason.is_none(), "{row:?}");
    }
    for what in expected {
        ensure!(outcome.rows.iter().any(|row| row.what == *what), "no row {what:?}: {:?}", outcome.rows);
        ensure!(text.contains(what), "{what:?} is not in the table");
    }
    let json: serde_json::Value = serde_json::from_str(json)?;
    let rows = json["rows"].as_array().context("no rows")?;
    ensure!(rows.len() == outcome.rows.len() && rows[0]["value"].is_f64(), "{json}");
    Ok(())
}
