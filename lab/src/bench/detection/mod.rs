//! `scripts/bench detection`: from a failure to its declaration, and failures declared of backends that only were busy.
//!
//! The moment of a failure is taken right before its last step, that of its declaration from the line in the
//! transactionalizer's log that follows the message to the recovery managers: both on the same clock, and both so that the
//! figure is rather too long than too short.

mod declared;
mod healthy;
mod load;
mod speed;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::rows::{Bound, Row, Samples};
use super::taken::{Figure, Figures, Log};
use crate::chance::Chance;
use crate::faults::Fault;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::Settings;
use crate::topology::Node;
use declared::Watch;
use load::{Load, Work};

/// Heartbeat of the idle lab, ms: its figure counts heartbeats, so that a short one saves time.
const IDLE_HEARTBEAT_MS: u64 = 200;
/// A failure that is not declared for so long never will be.
const PATIENCE: Duration = Duration::from_secs(10);
/// A failure comes at a random moment of this time.
const RANDOM: Duration = Duration::from_millis(200);

/// How a backend fails, and in which situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server is killed; its kernel lives.
    Kill,
    /// The host falls silent while it sends responses.
    InResponse,
    /// The host falls silent while requests wait that take 20 ms on average.
    Pending,
    /// The host falls silent while nobody asks it for anything.
    Idle,
}

impl Kind {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Kill, Self::InResponse, Self::Pending, Self::Idle];

    const fn title(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL of the server",
            Self::InResponse => "silent host, response in progress",
            Self::Pending => "silent host, request pending",
            Self::Idle => "silent host, idle",
        }
    }

    const fn fault(self) -> Fault {
        match self {
            Self::Kill => Fault::Kill,
            _ => Fault::Silent,
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Idle => "beats",
            _ => "ms",
        }
    }

    const fn bound(self) -> Bound {
        let (must, aim) = match self {
            Self::Kill => (5.0, 1.0),
            Self::InResponse => (150.0, 50.0),
            Self::Pending => (200.0, 80.0),
            Self::Idle => (3.0, 3.0),
        };
        Bound { must, aim, least: false }
    }

    fn work(self) -> Vec<Work> {
        match self {
            Self::Kill => {
                [[Work::Download; 2], [Work::Wait; 2], [Work::Request; 2], [Work::Idle; 2]].concat()
            }
            Self::InResponse => vec![Work::Download; 4],
            Self::Pending => vec![Work::Wait; 8],
            Self::Idle => vec![Work::Idle; 4],
        }
    }
}

impl Figure for Kind {
    type Contender = ();
    type Measure = Self;
    fn measure(self) -> Self {
        self
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Failures of each kind.
    pub rounds: usize,
    /// Which kinds.
    pub kinds: Vec<Kind>,
    /// How long two busy cores are kept so; zero: not at all.
    pub healthy: Duration,
    /// `KEY=VALUE` for `cluster.toml`.
    pub set: Vec<String>,
}

impl Plan {
    /// All kinds.
    pub fn new(rounds: usize, healthy: Duration) -> Self {
        Self { rounds, kinds: Kind::ALL.to_vec(), healthy, set: Vec::new() }
    }
}

/// Measures as planned; `log` is where an interrupted run is remembered, and `resume` goes on with it.
pub(super) fn measure(
    lab: &Lab,
    plan: &Plan,
    version: &str,
    (log, resume): (&Path, bool),
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Row>> {
    let mut log = Log::open(log, &format!("{version} {:?}", plan.set), resume);
    let mut rows = Vec::new();
    for kind in plan.kinds.iter().filter(|_| plan.rounds > 0) {
        if (1..=plan.rounds).any(|round| !log.has(round, (), *kind)) {
            let own = OwnedLab::up(&format!("{}-detect", lab.name()), &settings(*kind, plan))?;
            measure_kind(&own, *kind, plan.rounds, &mut log, progress)?;
        }
    }
    if !plan.healthy.is_zero() {
        let own = OwnedLab::up(&format!("{}-healthy", lab.name()), &settings(Kind::Kill, plan))?;
        rows.extend(healthy::measure(&own, plan.healthy, progress)?);
    }
    rows.extend(speed::measure(progress));
    let record = log.finish();
    let samples = plan.kinds.iter().filter_map(|kind| Some((*kind, record.samples((), *kind)?)));
    Ok(samples.flat_map(|(kind, samples)| quantiles(kind, &samples)).chain(rows).collect())
}

fn settings(kind: Kind, plan: &Plan) -> Settings {
    let mut set = Vec::new();
    if kind == Kind::Idle {
        set.push(format!("detector.heartbeat_ms={IDLE_HEARTBEAT_MS}"));
    }
    set.extend(plan.set.iter().cloned());
    Settings { set, ..Settings::default() }
}

fn measure_kind(
    lab: &Lab,
    kind: Kind,
    rounds: usize,
    log: &mut Log<Kind>,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    lab.await_backends()?;
    let load = Load::start(lab, &kind.work())?;
    for number in (1..=rounds).filter(|number| !log.has(*number, (), kind)).collect::<Vec<_>>() {
        let mut chance = Chance::new(1000 * number as u64 + kind as u64);
        let result = round(lab, kind, &load, &mut chance);
        let told = match &result {
            Ok((value, noticed)) => {
                format!(
                    "{value:.2} {}, {:.2} ms of it since the evidence",
                    kind.unit(),
                    noticed.as_secs_f64() * 1e3
                )
            }
            Err(error) => format!("failed: {error:#}"),
        };
        progress(&format!("{} {}: {told}", bar(number, rounds), kind.title()));
        log.add(number, (), kind, result.map(|(value, _)| Figures::<Kind>::from([(kind, value)])))?;
        for node in Node::BACKENDS {
            lab.heal(node)?;
        }
        lab.await_backends()?;
    }
    load.stop()
}

/// Lets the busier backend fail at a random moment; how long until that was declared, and how much of it since the evidence.
fn round(lab: &Lab, kind: Kind, load: &Load, chance: &mut Chance) -> Result<(f64, Duration)> {
    load.await_settled(PATIENCE)?;
    std::thread::sleep(RANDOM.mul_f64(chance.next_unit()));
    let victim = busiest(lab)?;
    let prepared = lab.prepare(victim, kind.fault())?;
    let watch = Watch::start(lab, victim)?;
    let failed = prepared.strike()?;
    let declared = watch.await_declared(failed, PATIENCE)?;
    let took = declared.took.as_secs_f64() * 1e3;
    let took = if kind == Kind::Idle { took / IDLE_HEARTBEAT_MS as f64 } else { took };
    Ok((took, declared.noticed))
}

/// As the proxy sees it: a backend that was silent still has the connections that it has lost.
fn busiest(lab: &Lab) -> Result<Node> {
    let backends = lab.proxy_status()?.backends;
    let busiest = backends.iter().max_by_key(|backend| backend.connections).context("no backend")?;
    ensure!(busiest.connections > 0, "nobody is served");
    let named = |node: &Node| busiest.name.as_deref() == Some(node.name());
    Node::BACKENDS.into_iter().find(named).with_context(|| format!("no node {:?}", busiest.name))
}

fn quantiles(kind: Kind, samples: &Samples) -> Vec<Row> {
    let row = |name: &str, share, bound| {
        samples.quantile_row(&format!("{} to declared, {name}", kind.title()), kind.unit(), share, bound)
    };
    vec![row("p50", 0.5, None), row("p99", 0.99, Some(kind.bound())), row("max", 1.0, None)]
}

fn bar(done: usize, of: usize) -> String {
    let full = (done * 20).checked_div(of).unwrap_or(0).min(20);
    format!("[{}{}] {done}/{of}", "#".repeat(full), ".".repeat(20 - full))
}
