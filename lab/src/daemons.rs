//! resplice's daemons in the lab: which, where, starting, stopping, waiting until they answer.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use cluster::runtime::Runtime;
use rustix::process::Signal;

use crate::lab::Lab;
use crate::process::Process;
use crate::topology::Node;

/// Time in which a daemon must answer after its start.
const START: Duration = Duration::from_secs(10);

/// A daemon of resplice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Daemon {
    /// Logs every segment, on the logger.
    NfqLogger,
    /// Streams to transactions, on the logger.
    Transactionalizer,
    /// The splice, on the proxy.
    NfqSplice,
    /// Coordinates recoveries, on the proxy.
    RecoveryManager,
}

impl Daemon {
    /// All daemons, in the order in which they are started.
    pub const ALL: [Self; 4] =
        [Self::NfqLogger, Self::Transactionalizer, Self::NfqSplice, Self::RecoveryManager];

    /// The program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NfqLogger => "nfq-logger",
            Self::Transactionalizer => "transactionalizer",
            Self::NfqSplice => "nfq-splice",
            Self::RecoveryManager => "recovery-manager",
        }
    }

    /// Where it runs.
    pub const fn node(self) -> Node {
        match self {
            Self::NfqLogger | Self::Transactionalizer => Node::Logger,
            Self::NfqSplice | Self::RecoveryManager => Node::Proxy,
        }
    }

    /// Arguments before the common ones.
    const fn verb(self) -> &'static [&'static str] {
        match self {
            Self::NfqLogger => &["run"],
            _ => &[],
        }
    }
}

impl Lab {
    /// A daemon's process, if it runs.
    pub fn daemon(&self, daemon: Daemon) -> Option<Process> {
        let process: Process = serde_json::from_slice(&fs::read(self.pid_file(daemon)).ok()?).ok()?;
        process.alive().then_some(process)
    }

    /// Starts a daemon unless it runs; true if it had to. It answers when this returns.
    pub fn start_daemon(&self, daemon: Daemon) -> Result<bool> {
        if self.daemon(daemon).is_some() {
            return Ok(false);
        }
        let process = self.spawn_daemon(daemon)?;
        self.await_daemon(daemon, process)?;
        Ok(true)
    }

    /// Ends a daemon with a signal and waits until it is gone.
    pub fn stop_daemon(&self, daemon: Daemon, signal: Signal) -> Result<()> {
        let Some(process) = self.daemon(daemon) else { return Ok(()) };
        process.signal(signal);
        ensure!(process.wait_dead(START), "{} does not end on {signal:?}", daemon.name());
        Ok(())
    }

    /// A program of resplice with the arguments that all of them take, not started.
    pub fn program(&self, name: &str, verb: &[&str], node: Node) -> Result<Command> {
        let mut command = Command::new(binary(name)?);
        command.args(verb).arg("--config").arg(self.cluster_file());
        command.args(["--node", node.name()]).arg("--run-dir").arg(self.run_dir(node));
        Ok(command)
    }

    /// The last lines of a daemon's log.
    pub fn log_tail(&self, daemon: Daemon, lines: usize) -> String {
        let text = fs::read(self.log(daemon.name())).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Installs the rules of resplice on a node.
    pub fn install_rules(&self, node: Node) -> Result<()> {
        let verb = ["install", "--role", node.name()];
        let mut command = self.program("nft-rules", &verb, node)?;
        self.netns(node).run(&mut command).map(drop)
    }

    fn pid_file(&self, daemon: Daemon) -> PathBuf {
        self.dir().join("pid").join(daemon.name())
    }

    fn spawn_daemon(&self, daemon: Daemon) -> Result<Process> {
        let node = daemon.node();
        for dir in [self.run_dir(node), self.dir().join("pid"), self.dir().join("log")] {
            fs::create_dir_all(dir)?;
        }
        let log = File::options().create(true).append(true).open(self.log(daemon.name()))?;
        let mut command = self.program(daemon.name(), daemon.verb(), node)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C at the terminal is for the lab, not for its daemons.
        command.process_group(0);
        let child = self.netns(node).spawn(&mut command)?;
        let Some(process) = Process::running(child.id()) else {
            bail!("{} ended at once:\n{}", daemon.name(), self.log_tail(daemon, 20));
        };
        fs::write(self.pid_file(daemon), serde_json::to_vec(&process)?)?;
        Ok(process)
    }

    fn await_daemon(&self, daemon: Daemon, process: Process) -> Result<()> {
        let socket = Runtime::new(self.run_dir(daemon.node())).socket(daemon.name());
        let end = Instant::now() + START;
        while UnixStream::connect(&socket).is_err() {
            let tail = || self.log_tail(daemon, 20);
            ensure!(process.alive(), "{} ended right after its start:\n{}", daemon.name(), tail());
            ensure!(
                Instant::now() < end,
                "{} does not answer on {}:\n{}",
                daemon.name(),
                socket.display(),
                tail()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// A program beside this one: all of the workspace are built into one directory.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    // A test's executable is one directory further down.
    let beside = me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("{name} is not beside {}: cargo build --workspace --bins", me.display()))
}
