//! `scripts/bench recovery` in small: some failures with every kind of load, each byte and each update checked.

#![allow(clippy::disallowed_methods, reason = "a test of real systems reads files")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::bench::splice::Plan;
use lab::bench::{Bench, Order, bench, detection, log, recovery, soak};

#[test]
fn no_kind_of_load_notices_more_than_a_pause() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("lab-recovery-{}", std::process::id()));
    let order = Order {
        bench: Bench::Recovery,
        plan: Plan::new(1, Duration::from_secs(1)),
        recovery: recovery::Plan::short(),
        log: log::Plan::new(1, Duration::from_secs(1)),
        soak: soak::Plan::new(Duration::ZERO),
        detection: detection::Plan::new(0, Duration::ZERO),
        resume: false,
        output: dir.join("recovery"),
    };
    let lab = Lab::new(&format!("t{}-r", std::process::id()))?;
    let mut told = String::new();
    let outcome = bench(&lab, &order, &mut |line| told = format!("{told}{line}\n"));
    let plot = fs::read_to_string(dir.join("recovery.svg"));
    fs::remove_dir_all(&dir)?;
    let outcome = outcome.context(told.clone())?;

    for what in ["wrong bytes", "updates lost or applied twice", "hangs", "recoverable transfers reset"] {
        let row = outcome.rows.iter().find(|row| row.what == what).with_context(|| what.to_owned())?;
        ensure!(row.ok && row.value == Some(0.0), "{row:?}\n{told}");
    }
    for what in ["failures, kill", "failures, silent", "transfers that were re-spliced"] {
        let row = outcome.rows.iter().find(|row| row.what == what).with_context(|| what.to_owned())?;
        ensure!(row.value.is_some_and(|value| value > 0.0), "{row:?}\n{told}");
    }
    ensure!(plot?.contains("<polyline"), "nothing is plotted");
    Ok(())
}
