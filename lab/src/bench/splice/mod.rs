//! `scripts/bench splice`: resplice as a mere proxy, without its log, beside plain forwarding and other proxies.
//!
//! In each round every contender is measured in turn, so that what slows the machine down meets them all; ratios are
//! formed within a round. wrk counts requests and connections; bulk streams, the constant rate and idle connections
//! have a client of their own. All of it shares [`PROCESSORS`] processors.

mod client;
mod contenders;
pub(super) mod load;
mod measures;
mod table;
pub(super) mod wrk;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub use contenders::Contender;
pub use measures::Measure;
use measures::{Figure, Figures, Subject};

use super::rows::Row;
use super::taken::Log;
use crate::fronts::THREADS as PROCESSORS;
use crate::lab::Lab;
use crate::owned::OwnedLab;

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Measurements of each contender.
    pub rounds: usize,
    /// Length of each; wrk's are of at least a second.
    pub length: Duration,
    /// Connections of [`Measure::Idle`].
    pub idle: usize,
    /// Connections of [`Measure::Busy`].
    pub busy: usize,
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// What is measured.
    pub measures: Vec<Measure>,
    /// The processors that everything runs on; set by [`measure`].
    processors: Vec<usize>,
}

impl Plan {
    /// As the project's bounds are meant: all contenders, everything.
    pub fn new(rounds: usize, length: Duration) -> Self {
        Self {
            rounds,
            length,
            idle: 10_000,
            busy: 1_000,
            contenders: Contender::ALL.to_vec(),
            measures: Measure::ALL.to_vec(),
            processors: Vec::new(),
        }
    }

    /// Everything but the number of rounds, which a resumed run may raise.
    fn identity(&self, version: &str) -> String {
        let Self { rounds: _, length, idle, busy, contenders, measures, processors } = self;
        format!("{version} {length:?} {idle} {busy} {contenders:?} {measures:?} {processors:?}")
    }

    /// Every measurement, in order. Each round begins with another contender: none always follows the same one.
    fn steps(&self) -> impl Iterator<Item = (usize, Measure, Contender)> + '_ {
        let of_round = move |round: usize| {
            let of_measure = move |measure: &Measure| {
                let measure = *measure;
                let mut concerned = self.contenders.clone();
                concerned.retain(|contender| measure.concerns(*contender));
                let first = round.checked_rem(concerned.len()).unwrap_or(0);
                concerned.rotate_left(first);
                concerned.into_iter().map(move |contender| (round, measure, contender))
            };
            self.measures.iter().flat_map(of_measure)
        };
        (1..=self.rounds).flat_map(of_round)
    }
}

/// Measures as planned; `log` is where an interrupted run is remembered, and `resume` goes on with it.
pub fn measure(
    lab: &Lab,
    plan: &Plan,
    version: &str,
    (log, resume): (&Path, bool),
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Row>> {
    let mut plan = plan.clone();
    plan.processors = pin()?;
    allow_many_files()?;
    let mut log = Log::open(log, &plan.identity(version), resume);
    let mut labs = Labs { base: lab.name().to_owned(), up: BTreeMap::new() };
    log.fill(plan.steps(), progress, |log, round, measure, contender| {
        labs.measure(&plan, contender, measure, log.figure(round, contender, Figure::Requests))
    })?;
    Ok(table::rows(&plan, &log.finish()))
}

/// The contenders' labs, brought up when first needed.
struct Labs {
    base: String,
    up: BTreeMap<Contender, OwnedLab>,
}

impl Labs {
    fn measure(
        &mut self,
        plan: &Plan,
        contender: Contender,
        measure: Measure,
        rate: Option<f64>,
    ) -> Result<Figures> {
        if matches!(measure, Measure::Idle | Measure::Busy) {
            // Memory that earlier connections left behind would be used again, and not be seen.
            let fresh = contender.up(&format!("{}-m", self.base))?;
            return Subject { contender, lab: &fresh, plan }.measure(measure, rate);
        }
        if !self.up.contains_key(&contender) {
            self.up.insert(contender, contender.up(&self.base)?);
        }
        let lab = self.up.get(&contender).context("its lab is not up")?;
        Subject { contender, lab, plan }.measure(measure, rate)
    }
}

/// Confines this process and all that it starts to the same few processors; which.
pub(super) fn pin() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    let processors: Vec<usize> =
        (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).take(PROCESSORS).collect();
    ensure!(processors.len() == PROCESSORS, "{PROCESSORS} processors are needed");
    let mut set = CpuSet::new();
    for processor in &processors {
        set.set(*processor);
    }
    sched_setaffinity(None, &set)?;
    Ok(processors)
}

/// Raises the limit of open files as far as allowed, for this process and all that it starts.
pub(super) fn allow_many_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| anyhow!("raising the limit of open files: {error}"))
}
