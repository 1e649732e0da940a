//! `scripts/bench recovery`: thousands of failures at random bytes under a mixed load, and what the clients notice of them.
//!
//! A [case](case::Case) is one failure: some clients start, the server of the first one is killed or falls silent when that client
//! has moved so many bytes, all clients end, the server comes back. Labs for each [`Condition`] work side by side. Some of the
//! cases are repeated with nginx and `HAProxy` in resplice's place.

mod case;
mod client;
mod crowd;
mod downloads;
mod evidence;
mod plot;
mod progress;
mod record;
mod run;
mod table;
mod transfer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use case::Case;
use clap::Args;
use progress::Progress;
use record::{Log, Record};
use run::Documents;
use transfer::Transfer;

pub use case::Condition;
pub use transfer::Kind;

use super::rows::Row;
use crate::faults::Fault;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::Front;

/// Cases that could not be run, one after the other in one lab, after which the run ends.
const MOST_BROKEN: usize = 5;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Of recovery: failures; every sixth is a silent host, the others are kills.
    #[arg(long, default_value_t = 12_000)]
    pub failures: u64,
    /// Of recovery: what all cases follow from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Of recovery: only these links between clients and proxy.
    #[arg(long, value_delimiter = ',')]
    pub conditions: Vec<Condition>,
    /// Of recovery: every so many cases are repeated with nginx and `HAProxy`; 0: none.
    #[arg(long, default_value_t = 25)]
    pub compare_every: u64,
    /// Of recovery: only one lab at a time, for undisturbed stalls.
    #[arg(long)]
    pub alone: bool,
    /// Of recovery: only this case, with captures of its packets.
    #[arg(long, value_name = "NUMBER")]
    pub case: Option<u64>,
    /// Of recovery: captures the packets of every case, and keeps those in which a client waited longer than this.
    #[arg(long, value_name = "MS")]
    pub keep_above: Option<f64>,
    /// Of recovery: only cases in which a client does one of these.
    #[arg(long, value_delimiter = ',')]
    pub loads: Vec<Kind>,
    /// Of recovery: only how long it takes until so many connections of one killed server run again.
    #[arg(long, value_name = "CONNECTIONS")]
    pub crowd: Option<usize>,
    /// How often that is done.
    #[arg(skip = 3_usize)]
    pub rounds: usize,
}

impl Plan {
    /// So many failures, nothing compared.
    pub fn new(failures: u64) -> Self {
        Self {
            failures,
            seed: 1,
            conditions: Vec::new(),
            compare_every: 0,
            alone: false,
            case: None,
            keep_above: None,
            loads: Vec::new(),
            crowd: None,
            rounds: 1,
        }
    }

    /// Some failures on a LAN that meet every kind of load.
    pub fn short() -> Self {
        let plan = |seed| Self { seed, conditions: vec![Condition::Lan], ..Self::new(20) };
        (1..10_000)
            .map(plan)
            .find(Self::meets_every_kind)
            .unwrap_or_else(|| unreachable!("there are many seeds"))
    }

    fn meets_every_kind(&self) -> bool {
        let cases = self.numbers().map(|number| Case::new(self.seed, number));
        let cases: Vec<Case> = cases.filter(|case| self.includes(case.condition)).collect();
        let transfers = cases.iter().flat_map(|case| &case.transfers);
        let silent = cases.iter().any(|case| case.fault == Fault::Silent);
        silent && Kind::ALL.into_iter().all(|kind| transfers.clone().any(|transfer| transfer.kind == kind))
    }

    fn includes(&self, condition: Condition) -> bool {
        self.conditions.is_empty() || self.conditions.contains(&condition)
    }

    fn includes_loads(&self, case: &Case) -> bool {
        let wanted = |transfer: &Transfer| self.loads.contains(&transfer.kind);
        self.loads.is_empty() || case.transfers.iter().any(wanted)
    }

    fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        (1..=self.failures).filter(|number| self.case.is_none_or(|only| only == *number))
    }
}

/// Cases that labs of one kind work on.
struct Lane {
    front: Front,
    condition: Condition,
    cases: Vec<Case>,
    next: AtomicUsize,
}

/// What all workers share.
struct Shared<'a> {
    base: &'a str,
    documents: &'a Documents,
    plan: &'a Plan,
    /// Where failures are explained.
    output: &'a Path,
    /// Labs are brought up one at a time.
    bringing_up: Mutex<()>,
    /// Cases run one at a time, if so planned.
    alone: Mutex<()>,
}

/// Runs all cases and makes the rows; beside `output` it leaves a plot, and what explains the failures.
pub(super) fn measure(
    lab: &Lab,
    plan: &Plan,
    version: &str,
    (output, resume): (&Path, bool),
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Row>> {
    if let Some(connections) = plan.crowd {
        return crowd::measure(lab, connections, plan.rounds, tell);
    }
    let run = format!("{version} seed {} case {:?}", plan.seed, plan.case);
    let mut log = Log::open(&output.with_extension("records"), &run, resume)?;
    let lanes = lanes(plan, &log);
    let left: usize = lanes.iter().map(|lane| lane.cases.len()).sum();
    ensure!(
        left + log.records().len() > 0,
        "no case is left: fewer than {} failures?",
        plan.case.unwrap_or(1)
    );
    let documents = Documents::load()?;
    let shared = Shared {
        base: lab.name(),
        documents: &documents,
        plan,
        output,
        bringing_up: Mutex::default(),
        alone: Mutex::default(),
    };
    let mut progress = Progress::new(log.records(), left, tell);
    thread::scope(|scope| {
        let (tell, told) = channel();
        for (place, lane) in lanes.iter().enumerate() {
            for copy in 0..lane.labs() {
                let (shared, tell) = (&shared, tell.clone());
                scope.spawn(move || work(shared, lane, &format!("{place}{copy}"), &tell));
            }
        }
        drop(tell);
        for told in told {
            let record = told?;
            progress.add(&record);
            if record.front == Front::Resplice && !record.fine() {
                progress.say(&evidence::in_words(&record, plan.seed));
            }
            log.add(record)?;
        }
        anyhow::Ok(())
    })?;
    plot::write(&output.with_extension("svg"), log.records())?;
    Ok(table::rows(log.records()))
}

/// A worker's findings; an error ends the run.
type Found = Sender<Result<Record>>;

impl Lane {
    fn labs(&self) -> usize {
        let most = if self.front == Front::Resplice { self.condition.labs() } else { 1 };
        most.min(self.cases.len())
    }
}

fn lanes(plan: &Plan, log: &Log) -> Vec<Lane> {
    let mut lanes: BTreeMap<(usize, Condition), Vec<Case>> = BTreeMap::new();
    let fronts = [Front::Resplice, Front::Nginx, Front::Haproxy];
    for (place, front) in fronts.into_iter().enumerate() {
        let done = log.done(front);
        for number in plan.numbers().filter(|number| !done.contains(number)) {
            let case = Case::new(plan.seed, number);
            let compared = plan.compare_every > 0
                && case.condition == Condition::Lan
                && number.is_multiple_of(plan.compare_every);
            if plan.includes(case.condition)
                && plan.includes_loads(&case)
                && (front == Front::Resplice || compared)
            {
                lanes.entry((place, case.condition)).or_default().push(case);
            }
        }
    }
    let front = |place: usize| fronts.get(place).copied().unwrap_or_default();
    let lane = |((place, condition), cases)| Lane {
        front: front(place),
        condition,
        cases,
        next: AtomicUsize::new(0),
    };
    lanes.into_iter().map(lane).collect()
}

/// Runs a lane's cases in a lab of its own until there is none left.
fn work(shared: &Shared<'_>, lane: &Lane, name: &str, found: &Found) {
    let result = try_to_work(shared, lane, name, found);
    if let Err(error) = result {
        // Nobody listens: the run has ended already.
        let _ = found.send(Err(error));
    }
}

fn try_to_work(shared: &Shared<'_>, lane: &Lane, name: &str, found: &Found) -> Result<()> {
    let mut lab = None;
    let mut broken = 0;
    while let Some(case) = lane.cases.get(lane.next.fetch_add(1, Ordering::Relaxed)) {
        let lab = match &mut lab {
            Some(lab) => lab,
            none => none.insert(shared.bring_up(lane, name)?),
        };
        let record = shared.run(lab, lane.front, case)?;
        broken = if record.outcome.is_ok() { 0 } else { broken + 1 };
        let reason = record.outcome.as_ref().err().cloned();
        if found.send(Ok(record)).is_err() {
            return Ok(());
        }
        ensure!(
            broken < MOST_BROKEN,
            "{MOST_BROKEN} cases failed one after the other: {}",
            reason.unwrap_or_default()
        );
    }
    Ok(())
}

impl Shared<'_> {
    fn bring_up(&self, lane: &Lane, name: &str) -> Result<OwnedLab> {
        let _one = self.bringing_up.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{}-{name}", self.base);
        OwnedLab::up(&name, &lane.condition.settings(lane.front))
            .with_context(|| format!("bringing up {name}"))
    }

    fn run(&self, lab: &Lab, front: Front, case: &Case) -> Result<Record> {
        let _alone = self.plan.alone.then(|| self.alone.lock().unwrap_or_else(PoisonError::into_inner));
        let captures = self.plan.case.is_some() || self.plan.keep_above.is_some();
        let capture = captures.then(|| evidence::Capture::start(lab)).transpose()?;
        let record = run::run(lab, front, case, self.documents);
        if self.is_kept(&record) || (front == Front::Resplice && !record.fine()) {
            evidence::keep(lab, &self.explained(case), &record, capture)?;
        } else if let Some(capture) = capture {
            capture.end()?;
        }
        Ok(record)
    }

    /// Whether its captures are of interest.
    fn is_kept(&self, record: &Record) -> bool {
        let longer = |most: f64| record.transfers().iter().any(|transfer| transfer.added_ms > most);
        self.plan.case.is_some() || self.plan.keep_above.is_some_and(longer)
    }

    /// Where what explains a case goes.
    fn explained(&self, case: &Case) -> PathBuf {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.output.with_file_name(format!("{name}-case-{}", case.number))
    }
}
