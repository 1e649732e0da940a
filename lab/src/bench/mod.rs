//! `lab bench`: figures with their spread, all contenders interleaved on the same machine.

pub mod detection;
pub mod log;
mod output;
pub mod recovery;
mod rows;
pub mod soak;
pub mod splice;
mod taken;
mod usage;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
pub use rows::Row;
use serde::Serialize;

use crate::daemons::{Daemon, binary};
use crate::lab::Lab;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Throughput, latency and memory of the splice, beside plain forwarding and other proxies.
    Splice,
    /// The logger beside plain forwarding and other ways to record.
    Log,
    /// The logger at full speed for long: does the log have every byte?
    Soak,
    /// Thousands of failing servers under a mixed load: what clients notice, beside other proxies.
    Recovery,
    /// The time from a failure to its declaration, and failures declared that were none.
    Detection,
}

/// How to measure, and where the outcome goes.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub bench: Bench,
    /// How `splice` is measured.
    pub plan: splice::Plan,
    /// How `log` is measured.
    pub log: log::Plan,
    /// How `soak` is done.
    pub soak: soak::Plan,
    /// How `detection` is measured.
    pub detection: detection::Plan,
    /// How `recovery` is measured.
    pub recovery: recovery::Plan,
    /// Go on with an interrupted run.
    pub resume: bool,
    /// `.txt` and `.json` are appended.
    pub output: PathBuf,
}

/// All that a benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The figures.
    pub rows: Vec<Row>,
    /// Where they were measured.
    pub machine: Machine,
    /// Of which version.
    pub commit: String,
}

/// Where something was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Processors.
    pub processors: usize,
    /// Their name.
    pub processor: String,
}

/// Measures, telling `progress` each step, and writes the outcome to files.
pub fn bench(lab: &Lab, order: &Order, progress: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let (commit, machine) = (commit(), machine()?);
    if let Some(dir) = order.output.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let log = order.output.with_extension("unfinished");
    let rows = match order.bench {
        Bench::Detection => {
            let version = version(&commit, Daemon::Transactionalizer)?;
            detection::measure(lab, &order.detection, &version, (&log, order.resume), progress)?
        }
        Bench::Splice => {
            let version = version(&commit, Daemon::NfqSplice)?;
            splice::measure(lab, &order.plan, &version, (&log, order.resume), progress)?
        }
        Bench::Soak => soak::measure(lab, &order.soak, progress)?,
        Bench::Log => {
            let version = version(&commit, Daemon::NfqLogger)?;
            log::measure(lab, &order.log, &version, (&log, order.resume), progress)?
        }
        Bench::Recovery => {
            let version = version(&commit, Daemon::NfqSplice)?;
            recovery::measure(lab, &order.recovery, &version, (&order.output, order.resume), progress)?
        }
    };
    let outcome = Outcome { rows, machine, commit };
    for (extension, text) in [("txt", outcome.text()), ("json", outcome.json()?)] {
        let file = order.output.with_extension(extension);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(outcome)
}

/// Two builds of uncommitted changes have the same commit.
fn version(commit: &str, daemon: Daemon) -> Result<String> {
    let built = fs::metadata(binary(daemon.name())?)?.modified()?;
    Ok(format!("{commit} {built:?}"))
}

/// With a mark if the files differ from it.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn machine() -> Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        processor: name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
    })
}
