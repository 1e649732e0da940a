//! What was found so far: a line of JSON for each case, kept in a file so that an interrupted run can go on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use cluster::control::Evidence;
use serde::{Deserialize, Serialize};

use super::case::Condition;
use super::transfer::Kind;
use crate::faults::Fault;
use crate::settings::Front;

/// How a client's transfer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fate {
    /// Every byte came, on the one connection.
    Right,
    /// A wrong byte, a wrong length, nonsense.
    Wrong(String),
    /// The connection was cut. It had to be only if what was sent may not be repeated.
    Reset { recoverable: bool, after: String },
    /// It was cut because the two servers chose different chunks, where the log had a hole.
    OtherChunks,
    /// Nothing came for too long.
    Hung(String),
    /// No connection, or an answer that says so.
    Refused(String),
}

/// One client's transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Transferred {
    pub(super) kind: Kind,
    pub(super) client: String,
    pub(super) fate: Fate,
    pub(super) bytes: u64,
    pub(super) took_ms: f64,
    /// The longest wait for a byte that ended after the failure.
    pub(super) stall_ms: f64,
    /// What is left of the waits after the failure when that is taken off which the same answers make a client wait where nothing
    /// fails: an application's own time. The longest.
    pub(super) added_ms: f64,
    /// Updates applied more than once, or answered and not applied.
    pub(super) miscounted: Vec<String>,
    /// What the recovery manager did for it.
    pub(super) recoveries: Vec<Recovered>,
}

/// One recovery, as its manager recorded it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Recovered {
    pub(super) evidence: Evidence,
    /// The backend that failed was not the one that was made to fail.
    pub(super) unprovoked: bool,
    pub(super) noticed_us: u64,
    pub(super) steps: Vec<(String, u64)>,
    pub(super) ok: bool,
    pub(super) outcome: String,
}

/// One case with one contender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) front: Front,
    pub(super) condition: Condition,
    pub(super) fault: Fault,
    pub(super) seconds: f64,
    /// What its clients met; or why the case could not be run.
    pub(super) outcome: Result<Vec<Transferred>, String>,
}

impl Transferred {
    /// Nothing to complain of.
    pub(super) fn fine(&self) -> bool {
        self.miscounted.is_empty()
            && matches!(self.fate, Fate::Right | Fate::OtherChunks | Fate::Reset { recoverable: false, .. })
    }
}

impl Record {
    /// Its transfers, none if it could not be run.
    pub(super) fn transfers(&self) -> &[Transferred] {
        self.outcome.as_deref().unwrap_or_default()
    }

    /// Nothing to look into.
    pub(super) fn fine(&self) -> bool {
        self.outcome.is_ok() && self.transfers().iter().all(Transferred::fine)
    }
}

/// All records of a run and their file.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    records: Vec<Record>,
}

impl Log {
    /// Goes on with what the file has, if `resume` and if it is of the same `run`; otherwise begins anew.
    pub(super) fn open(path: &Path, run: &str, resume: bool) -> Result<Self> {
        let kept = fs::read_to_string(path).unwrap_or_default();
        let mut lines = kept.lines();
        let goes_on = resume && lines.next() == Some(run);
        let of = |line: &str| serde_json::from_str(line).ok();
        let records = if goes_on { lines.filter_map(of).collect() } else { Vec::new() };
        let mut log = Self {
            file: File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening {}", path.display()))?,
            records,
        };
        if !goes_on {
            log.file.set_len(0)?;
            writeln!(log.file, "{run}")?;
        } else if !kept.ends_with('\n') {
            // Interrupted in the middle of a line.
            writeln!(log.file)?;
        }
        Ok(log)
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The cases that a contender has behind it.
    pub(super) fn done(&self, front: Front) -> BTreeSet<u64> {
        self.records.iter().filter(|record| record.front == front).map(|record| record.number).collect()
    }

    /// Adds a record and saves it.
    pub(super) fn add(&mut self, record: Record) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&record)?)?;
        self.records.push(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        Record {
            number,
            front: Front::Resplice,
            condition: Condition::Lan,
            fault: Fault::Kill,
            seconds: 1.0,
            outcome: Err("none".to_owned()),
        }
    }

    #[test]
    fn an_interrupted_run_goes_on_and_another_one_does_not() {
        let path = std::env::temp_dir().join(format!("lab-recovery-{}", std::process::id()));
        Log::open(&path, "run", false).unwrap().add(record(3)).unwrap();
        // Cut in the middle of a line.
        write!(File::options().append(true).open(&path).unwrap(), "{{\"number\":").unwrap();
        let log = Log::open(&path, "run", true).unwrap();
        assert_eq!(log.done(Front::Resplice), BTreeSet::from([3]));
        assert!(log.done(Front::Nginx).is_empty());
        assert!(Log::open(&path, "another", true).unwrap().records().is_empty());
        fs::remove_file(path).unwrap();
    }
}
