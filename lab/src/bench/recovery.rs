//! `scripts/bench recovery`: how long a download stands still when its server fails.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::rows::{Bound, Row, Samples};
use crate::faults::Fault;
use crate::fetch::{Options, Target, fetch};
use crate::http::End;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::Settings;

/// Measures each kind of failure in each round.
pub(super) fn measure(lab: &Lab, rounds: usize, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let own = OwnedLab::up(&format!("{}-recovery", lab.name()), &Settings::default())?;
    let faults = [("kill", Fault::Kill, 20.0), ("silent", Fault::Silent, 300.0)];
    let mut stalls = faults.map(|_| Samples::default());
    for round in 1..=rounds {
        for ((name, fault, _), samples) in faults.into_iter().zip(&mut stalls) {
            progress(&format!("round {round} of {rounds}: {name}"));
            samples.push(stall(&own, fault));
        }
    }
    let bound = |aim| Some(Bound { must: 940.0, aim, least: false });
    let row = |((name, _, aim), samples): ((&str, _, f64), &Samples)| {
        samples.row(&format!("client's longest stall, {name}"), "ms", bound(aim))
    };
    Ok(faults.into_iter().zip(&stalls).map(row).collect())
}

fn stall(lab: &Lab, fault: Fault) -> Result<f64> {
    lab.await_backends()?;
    let options = Options {
        target: Target::parse("/files/300m")?,
        rate: Some(100_000_000),
        receive_buffer: Some(256 << 10),
        patience: Duration::from_secs(20),
        fail: Some((fault, 50_000_000)),
    };
    let report = fetch(lab, &options, &mut |_| ())?;
    if let Some(node) = report.failed {
        lab.heal(node)?;
    }
    ensure!(
        report.end == End::Complete,
        "the download ended by {:?} after {} bytes",
        report.end,
        report.bytes
    );
    Ok(report.longest_gap_ms)
}
