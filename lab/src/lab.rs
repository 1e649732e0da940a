//! One lab: its name, and where everything of it is.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;
use crate::process::Process;
use crate::settings::Settings;
use crate::topology::Node;

/// Where the labs keep their state, one directory each.
pub const STATE: &str = "/run/resplice-lab";

/// A lab, up or not. All its namespaces, files and the cluster are named after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    name: String,
}

/// What is remembered of a lab that is up, or was when its maker died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What `up` was asked for.
    pub settings: Settings,
    /// A lab whose owner is gone may be swept away. Without owner it stays until `down`.
    pub owner: Option<Process>,
}

impl Lab {
    /// The lab of that name: 1–24 characters of `a-z 0-9 -`, not beginning with `-`.
    pub fn new(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = (1..=24).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-');
        ensure!(fits, "LAB_NAME={name}: use 1 to 24 characters of a-z 0-9 -, not beginning with -");
        Ok(Self { name: name.to_owned() })
    }

    /// All labs that left any state.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir(STATE) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Self::new(&name).ok()).collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of a node.
    pub fn netns(&self, node: Node) -> Netns {
        Netns::new(format!("{}-{node}", self.name))
    }

    /// Its state directory.
    pub fn dir(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// The `--run-dir` of a node's daemons.
    pub fn run_dir(&self, node: Node) -> PathBuf {
        self.dir().join("run").join(node.name())
    }

    /// Where a daemon's standard error goes.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.dir().join("log").join(format!("{daemon}.log"))
    }

    /// Its `cluster.toml`.
    pub fn cluster_file(&self) -> PathBuf {
        self.dir().join("cluster.toml")
    }

    fn record_file(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// What is remembered of it; `None` if it is not up, or if the memory is unreadable.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_file()).ok()?).ok()
    }

    /// Remembers, replacing the file in one step.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let file = self.record_file();
        let new = file.with_extension("new");
        fs::create_dir_all(self.dir())?;
        fs::write(&new, serde_json::to_vec_pretty(record)?)?;
        fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// What it was brought up with.
    pub fn settings(&self) -> Result<Settings> {
        let record = self.record();
        record.map(|record| record.settings).with_context(|| format!("lab {} is not up: lab up", self.name))
    }

    /// Keeps other processes from bringing this lab up or down while the result lives.
    pub fn lock(&self) -> Result<File> {
        let path = self.lock_file();
        fs::create_dir_all(STATE).with_context(|| format!("{STATE}: are you root?"))?;
        loop {
            let file = File::create(&path).with_context(|| format!("{}: are you root?", path.display()))?;
            flock(&file, FlockOperation::LockExclusive)?;
            // `down` removes the file that it holds: whoever waited for it must take the new one.
            if fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| now.ino() == ours.ino()))
            {
                return Ok(file);
            }
        }
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        Path::new(STATE).join(format!(".{}.lock", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_are_refused() {
        assert!(Lab::new("resplice").is_ok());
        for name in ["", "-x", "../x", "a b", "UPPER", "a234567890123456789012345"] {
            assert!(Lab::new(name).is_err(), "{name}");
        }
    }
}
