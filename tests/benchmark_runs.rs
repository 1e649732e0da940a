//! `scripts/bench splice` in small: every row that was asked for has a figure. What the figures are is not judged here.

#![allow(clippy::disallowed_methods, reason = "a test of real systems reads files")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::bench::splice::{Contender, Measure, Plan};
use lab::bench::{Bench, Order, bench, recovery};

#[test]
fn a_short_run_fills_all_its_rows() -> Result<()> {
    let mut plan = Plan::new(1, Duration::from_millis(100));
    plan.contenders = vec![Contender::Plain, Contender::Kernel];
    plan.measures =
        vec![Measure::Bulk, Measure::BulkMany, Measure::Requests, Measure::HalfLoad, Measure::Idle];
    plan.idle = 100;
    let dir = std::env::temp_dir().join(format!("lab-benchmark-{}", std::process::id()));
    let order = Order {
        bench: Bench::Splice,
        plan,
        recovery: recovery::Plan::new(0),
        resume: false,
        output: dir.join("splice"),
    };
    let lab = Lab::new(&format!("t{}-b", std::process::id()))?;
    let outcome = bench(&lab, &order, &mut |_| ());
    let text = fs::read_to_string(dir.join("splice.txt"));
    let json = fs::read_to_string(dir.join("splice.json"));
    let files = fs::read_dir(&dir)?.count();
    fs::remove_dir_all(&dir)?;
    let outcome = outcome?;

    for row in &outcome.rows {
        ensure!(row.value.is_some_and(f64::is_finite) && row.reason.is_none(), "{row:?}");
    }
    for what in [
        "bulk, one stream, plain forwarding",
        "processor time, whole machine, resplice kernel path",
        "memory a connection, 100 idle, resplice kernel path",
        "bulk, resplice kernel path / plain forwarding",
        "p99 latency added at half load, resplice kernel path",
    ] {
        ensure!(outcome.rows.iter().any(|row| row.what == what), "no row {what:?}: {:?}", outcome.rows);
        ensure!(text.as_ref().is_ok_and(|text| text.contains(what)), "{what:?} is not in the table");
    }
    let json: serde_json::Value = serde_json::from_str(&json?)?;
    let rows = json["rows"].as_array().context("no rows")?;
    ensure!(rows.len() == outcome.rows.len() && rows[0]["value"].is_f64(), "{json}");
    ensure!(files == 2, "an unfinished run is left behind");
    Ok(())
}
