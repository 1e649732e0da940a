//! Overload without a failure: no failure may be declared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::declared::failures;
use super::load::{Load, Work};
use crate::bench::rows::{Bound, Row, Samples};
use crate::lab::Lab;

/// Time between two lines of progress.
const STEP: Duration = Duration::from_secs(10);
const COUNTERS: [&str; 3] = ["failed", "backend_downs", "unreported"];

/// Keeps two cores busy, with requests of all kinds and with mere computation, and counts declared failures.
pub(super) fn measure(lab: &Lab, length: Duration, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    lab.await_backends()?;
    let burners = Burners::start(2)?;
    let work =
        [vec![Work::Flood; 8], vec![Work::Wait; 8], vec![Work::Download; 8], vec![Work::Idle; 4]].concat();
    let load = Load::start(lab, &work)?;
    let started = Instant::now();
    let (mut wrong, mut unanswered) = (0, 0_u32);
    while started.elapsed() < length {
        thread::sleep(STEP.min(length.saturating_sub(started.elapsed())));
        let (complete, broken) = load.counts();
        // A transactionalizer that gets no processor is part of what an overload is.
        match counters(lab) {
            Ok(counters) => wrong = declared(&counters)?,
            Err(error) => {
                unanswered += 1;
                progress(&format!("{error:#}"));
            }
        }
        let elapsed = started.elapsed().as_secs();
        let of = length.as_secs();
        progress(&format!(
            "{elapsed} of {of} s of overload: {complete} responses, {broken} connections broken, {wrong} failures declared"
        ));
    }
    let (complete, broken) = load.counts();
    load.stop()?;
    drop(burners);
    let counters = counters(lab)?;
    wrong = wrong.max(declared(&counters)?);
    if wrong > 0 {
        failures(lab)?.iter().for_each(|line| progress(line));
    }
    let none = Some(Bound { must: 0.0, aim: 0.0, least: false });
    let what = format!("wrong failovers in {} s of healthy overload", length.as_secs());
    let mut rows = vec![single(&what, "", wrong as f64, none)];
    if broken > 0 {
        progress(&format!("{broken} connections of {complete} responses broke"));
    }
    rows.push(single("responses a second meanwhile", "/s", complete as f64 / length.as_secs_f64(), None));
    let pause = counter(&counters, "longest_pause_us")? as f64 / 1e3;
    rows.push(single("longest time without a processor, transactionalizer", "ms", pause, None));
    rows.push(single("its status asked for in vain meanwhile", "", f64::from(unanswered), None));
    Ok(rows)
}

fn counters(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    Ok(lab.log_status().context("asking the transactionalizer")?.counters)
}

fn declared(counters: &BTreeMap<String, u64>) -> Result<u64> {
    COUNTERS.iter().map(|name| counter(counters, name)).sum()
}

fn counter(counters: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    counters.get(name).copied().with_context(|| format!("the transactionalizer has no counter {name}"))
}

fn single(what: &str, unit: &'static str, value: f64, bound: Option<Bound>) -> Row {
    let mut samples = Samples::default();
    samples.push(Ok(value));
    samples.row(what, unit, bound)
}

/// Threads that compute until dropped.
struct Burners(Arc<AtomicBool>);

impl Burners {
    fn start(count: usize) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        for _ in 0..count {
            let stop = Arc::clone(&stop);
            let burn = move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            thread::Builder::new().name("burner".to_owned()).spawn(burn)?;
        }
        Ok(Self(stop))
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
