//! `scripts/bench recovery --crowd N`: one server with so many open connections is killed, a tenth of them in transfer. How long
//! until the last one runs again, and whether all of them do.

use std::net::SocketAddrV4;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cluster::control::{ManagerStatus, RecoveryRecord};

use super::downloads::Downloads;
use crate::bench::rows::{Bound, Row, Samples};
use crate::bench::splice::load::hold_and_ask;
use crate::faults::Fault;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::Settings;
use crate::topology::{Node, PORT, VIP};

/// What the connections that are in transfer download.
const DOCUMENT: &str = "1m";
/// What the others have downloaded.
const SMALL: &str = "/files/1k";
/// How long they download before the server is killed.
const BEFORE: Duration = Duration::from_secs(3);
/// By then all must run again.
const AFTER: Duration = Duration::from_secs(20);
/// Between two looks at how many do: each look costs the processor something.
const LOOK: Duration = Duration::from_millis(500);

/// Measures it `rounds` times, each in a lab of its own.
pub(super) fn measure(
    lab: &Lab,
    connections: usize,
    rounds: usize,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Row>> {
    let document = std::fs::read(crate::documents::tree()?.join("files").join(DOCUMENT))?;
    let mut found = [Samples::default(), Samples::default(), Samples::default()];
    for round in 1..=rounds {
        let name = format!("{}-crowd", lab.name());
        let lab = OwnedLab::up(&name, &settings()).with_context(|| format!("bringing up {name}"))?;
        let figures = one_round(&lab, connections, &document);
        tell(&match &figures {
            Ok([half, all, lost]) => {
                format!(
                    "round {round}: half run again after {half:.0} ms, all after {all:.0} ms; {lost} lost"
                )
            }
            Err(error) => format!("round {round}: {error:#}; {}", why_not(&lab)),
        });
        for (place, samples) in found.iter_mut().enumerate() {
            let figure = figures.as_ref().map(|figures| figures.get(place).copied().unwrap_or_default());
            samples.push(figure.map_err(|error| anyhow::anyhow!("{error:#}")));
        }
    }
    let [half, all, lost] = &found;
    let what = |what: &str| format!("{connections} open connections, a tenth in transfer, kill: {what}");
    let most = |must, aim| Some(Bound { must, aim, least: false });
    Ok(vec![
        all.row(&what("last one running again"), "ms", most(2000.0, 500.0)),
        half.row(&what("half of them running again"), "ms", None),
        lost.row(&what("connections lost"), "", most(0.0, 0.0)),
    ])
}

/// All connections go to b1: b2 is drained, and serves only as the alternate.
fn settings() -> Settings {
    let set = ["backend.b2.state='drain'", "recovery.history=10000"];
    Settings { set: set.map(str::to_owned).to_vec(), ..Settings::default() }
}

/// Milliseconds until half and all of the connections ran again, and how many did not.
fn one_round(lab: &Lab, connections: usize, document: &[u8]) -> Result<[f64; 3]> {
    let to = SocketAddrV4::new(VIP, PORT);
    let transfers = connections / 10;
    let idle = connections.saturating_sub(transfers);
    let manager = || lab.manager_status();
    let path = format!("/files/{DOCUMENT}");
    hold_and_ask(lab, to, SMALL, idle, move || {
        let mut downloads = Downloads::start(to, &path, transfers)?;
        downloads.run_for(BEFORE, document)?;
        ensure!(downloads.running() == transfers, "the transfers were over before the server was killed");
        let killed = lab.prepare(Node::B1, Fault::Kill)?.strike()?;
        let status = downloads_until(&mut downloads, document, || {
            let status = manager()?;
            Ok((ended(&status) >= connections as u64).then_some(status))
        })?;
        downloads.finish(document)?;
        let status = status.map_or_else(manager, Ok)?;
        figures(&status, connections, killed)
    })
}

/// What the manager says of the first connection that it could not help.
fn why_not(lab: &Lab) -> String {
    let status = lab.manager_status();
    let first = status.iter().flat_map(|status| &status.recoveries).find(|record| !record.ok);
    first.map_or("the manager knows of none that it could not help".to_owned(), |record| {
        record.outcome.clone()
    })
}

/// Downloads until `done` has something, at most [`AFTER`].
fn downloads_until<T>(
    downloads: &mut Downloads,
    document: &[u8],
    done: impl Fn() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut waited = Duration::ZERO;
    while waited < AFTER {
        downloads.run_for(LOOK, document)?;
        waited += LOOK;
        let done = done()?;
        if done.is_some() {
            return Ok(done);
        }
    }
    Ok(None)
}

fn ended(status: &ManagerStatus) -> u64 {
    ["resplices", "resets", "clients_gone"].iter().filter_map(|name| status.counters.get(*name)).sum()
}

fn figures(status: &ManagerStatus, connections: usize, killed: SystemTime) -> Result<[f64; 3]> {
    let killed_us = killed.duration_since(UNIX_EPOCH)?.as_micros() as f64;
    let mut ends: Vec<f64> = status
        .recoveries
        .iter()
        .filter(|record| record.ok)
        .map(|record| (ended_us(record) - killed_us) / 1e3)
        .collect();
    ends.sort_by(f64::total_cmp);
    let lost = connections.saturating_sub(ends.len()) as f64;
    let half = ends.get(connections.div_ceil(2).saturating_sub(1)).copied();
    let all = ends.last().copied();
    Ok([half.context("not half of them run again")?, all.context("none runs again")?, lost])
}

/// When the manager heard that it runs again, Unix time.
fn ended_us(record: &RecoveryRecord) -> f64 {
    let steps = record.steps.last().map_or(0, |(_, us)| *us);
    record.at_ms as f64 * 1e3 + steps as f64
}
