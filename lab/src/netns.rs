//! Network namespaces: being in one, starting programs in one, what runs in one.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A named network namespace, which may or may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns(String);

impl Netns {
    /// The namespace that `ip netns` knows by `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    /// Whether it exists and is mounted.
    pub fn exists(&self) -> bool {
        self.inode().is_some()
    }

    /// Its identity; a leftover file that is not a namespace has none.
    fn inode(&self) -> Option<u64> {
        let file = fs::metadata(self.path()).ok()?;
        let ours = fs::metadata("/proc/self/ns/net").ok()?;
        (file.dev() == ours.dev()).then(|| file.ino())
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(self.path())
            .with_context(|| format!("there is no namespace {}: is the lab up?", self.0))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering namespace {}: are you root?", self.0))
    }

    /// Runs `job` in a thread of its own inside the namespace.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                job()
            });
            worker.join().map_err(|_| anyhow!("a job inside {} panicked", self.0))?
        })
    }

    /// Starts a program inside it.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.within(|| command.spawn().with_context(|| format!("starting {command:?} in {}", self.0)))
    }

    /// Runs a program inside it and returns what it printed, whatever its exit status.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command)?.wait_with_output().with_context(|| format!("waiting for {command:?}"))
    }

    /// Runs a program inside it; its failure is an error that quotes what it said.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        checked(&self.output(command)?, command)
    }

    /// Replaces this process by a program inside the namespace: streams and exit status are the program's.
    pub fn exec(&self, command: &mut Command) -> Result<()> {
        self.enter()?;
        Err(command.exec()).with_context(|| format!("starting {command:?} in {}", self.0))
    }

    /// Processes with a thread inside it.
    pub fn pids(&self) -> Vec<u32> {
        let Some(inode) = self.inode() else { return Vec::new() };
        all_pids().into_iter().filter(|pid| net_inode(*pid) == Some(inode)).collect()
    }

    /// Names of the interfaces inside it.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let text =
            self.within(|| fs::read_to_string("/proc/thread-self/net/dev").context("/proc/net/dev"))?;
        let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
        Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
    }

    /// A kernel parameter of the namespace, like `net/ipv4/tcp_congestion_control`.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        self.within(|| {
            fs::read_to_string(format!("/proc/sys/{key}")).with_context(|| format!("sysctl {key}"))
        })
    }

    /// Sets a kernel parameter of the namespace, like `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("sysctl {key}")))
    }
}

/// Runs a program; its failure is an error that quotes what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    checked(&output, command)
}

fn checked(output: &Output, command: &Command) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn net_inode(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|meta| meta.ino())
}
