//! What can stand on the hop between clients and servers.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use netfilter::queue::queue_counters;
use nft_rules::LOGGER_QUEUE;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::accept_all;
use crate::daemons::{Daemon, binary};
use crate::owned::OwnedLab;
use crate::process::Process;
use crate::settings::{Front, LinkSettings, Settings, nodes};
use crate::topology::{DIRECT_PORT, Node, PORT, SERVICE_PORT, VIP};

/// What stands on the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Nothing: the kernel forwards. The limit.
    Plain,
    /// A program that accepts all packets of an NFQUEUE: the limit of what a logger in user space can reach.
    Accept,
    /// `nfq-logger`.
    Logger,
    /// `nfq-logger`, and the transactionalizer that reads its log.
    Transactions,
    /// tcpdump, which writes to memory and drops what it does not keep up with.
    Tcpdump,
    /// Suricata in inline mode, without rules.
    Suricata,
    /// All of resplice, at its virtual address: proxy, logger, transactionalizer, recovery manager.
    Whole,
}

impl Contender {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 7] = [
        Self::Plain,
        Self::Accept,
        Self::Logger,
        Self::Transactions,
        Self::Tcpdump,
        Self::Suricata,
        Self::Whole,
    ];

    /// As the rows call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Accept => "NFQUEUE accept alone",
            Self::Logger => "nfq-logger",
            Self::Transactions => "nfq-logger and transactionalizer",
            Self::Tcpdump => "tcpdump -w",
            Self::Suricata => "Suricata inline",
            Self::Whole => "proxy and logger",
        }
    }

    /// Part of a lab's name, which is short.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Accept => "acc",
            Self::Logger => "log",
            Self::Transactions => "trans",
            Self::Tcpdump => "dump",
            Self::Suricata => "suri",
            Self::Whole => "whole",
        }
    }

    /// What the client connects to.
    pub(super) fn address(self) -> SocketAddrV4 {
        match self {
            Self::Whole => SocketAddrV4::new(VIP, PORT),
            Self::Plain => SocketAddrV4::new(Node::B1.address(), DIRECT_PORT),
            _ => SocketAddrV4::new(Node::B1.address(), SERVICE_PORT),
        }
    }

    const fn queues(self) -> bool {
        !matches!(self, Self::Plain | Self::Tcpdump)
    }
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A contender in its lab.
pub(super) struct Hop {
    pub(super) contender: Contender,
    pub(super) lab: OwnedLab,
    /// What runs beside the lab's own daemons.
    child: Option<Child>,
}

impl Hop {
    /// In a lab of its own, its name made from `base`, with a round-trip time added between client and proxy.
    pub(super) fn up(contender: Contender, base: &str, rtt: Duration) -> Result<Self> {
        let link = LinkSettings { rtt, ..LinkSettings::default() };
        let front = if contender == Contender::Whole { Front::Resplice } else { Front::None };
        let only = [Node::Client, Node::Proxy, Node::Logger, Node::B1];
        let settings = Settings { front, nodes: nodes(&only, link.active()), link, ..Settings::default() };
        let lab = OwnedLab::up(&format!("{base}-{}", contender.suffix()), &settings)?;
        lab.netns(Node::Client).sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let mut hop = Self { contender, lab, child: None };
        hop.start()?;
        Ok(hop)
    }

    fn start(&mut self) -> Result<()> {
        if self.contender.queues() && self.contender != Contender::Whole {
            self.lab.install_rules(Node::Logger)?;
        }
        match self.contender {
            Contender::Plain | Contender::Tcpdump | Contender::Whole => {}
            Contender::Accept => {
                let mut command = Command::new(binary("lab")?);
                command.args(["accept-all", &LOGGER_QUEUE.to_string()]);
                self.spawn(&mut command, accept_all::READY)?;
            }
            Contender::Logger => _ = self.lab.start_daemon(Daemon::NfqLogger)?,
            Contender::Transactions => {
                self.lab.start_daemon(Daemon::NfqLogger)?;
                self.lab.start_daemon(Daemon::Transactionalizer)?;
            }
            Contender::Suricata => {
                let mut command = Command::new("suricata");
                command.args(["-q", &LOGGER_QUEUE.to_string(), "-S", "/dev/null", "-l"]).arg(self.lab.dir());
                self.spawn(&mut command, "started").context("Suricata: apt has no package of it here")?;
            }
        }
        Ok(())
    }

    /// Starts a program on the logger and waits until it has said `ready`.
    fn spawn(&mut self, command: &mut Command, ready: &str) -> Result<()> {
        let log = File::create(self.lab.dir().join("contender.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let child = self.child.insert(self.lab.netns(Node::Logger).spawn(command)?);
        let said = child.stdout.take().context("no output")?;
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        let found = lines.any(|line| line.contains(ready));
        ensure!(found, "{command:?} ended at once");
        Ok(())
    }

    /// Where tcpdump writes: two files of 200 MB in turn.
    fn capture(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm/{}.pcap", self.lab.name()))
    }

    /// Before a measurement.
    pub(super) fn begin(&mut self) -> Result<u64> {
        if self.contender != Contender::Tcpdump {
            return self.dropped();
        }
        let mut command = Command::new("tcpdump");
        command.args(["-i", "to-b1", "-n", "-s", "0", "-B", "65536", "-C", "200", "-W", "2", "-Z", "root"]);
        command.arg("-w").arg(self.capture()).arg(format!("tcp port {SERVICE_PORT}"));
        let file = self.lab.dir().join("tcpdump.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&file)?);
        self.child = Some(self.lab.netns(Node::Logger).spawn(&mut command)?);
        for _ in 0..500 {
            if fs::read_to_string(&file)?.contains("listening") {
                return Ok(0);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("tcpdump does not start: {}", fs::read_to_string(&file)?)
    }

    /// After a measurement that began at `before`: packets dropped (or, by tcpdump, not recorded) in it.
    pub(super) fn end(&mut self, before: u64) -> Result<f64> {
        if self.contender != Contender::Tcpdump {
            return Ok(self.dropped()?.saturating_sub(before) as f64);
        }
        let mut child = self.child.take().context("tcpdump does not run")?;
        if let Some(process) = Process::running(child.id()) {
            process.signal(Signal::INT);
        }
        child.wait()?;
        let said = fs::read_to_string(self.lab.dir().join("tcpdump.log"))?;
        let dropped = said.lines().find_map(|line| line.strip_suffix(" packets dropped by kernel"));
        dropped.context("tcpdump says no count")?.trim().parse().context("tcpdump's count")
    }

    /// By the kernel for want of room in the queue or in its socket's buffer.
    fn dropped(&self) -> Result<u64> {
        if !self.contender.queues() {
            return Ok(0);
        }
        let read = || Ok(queue_counters(LOGGER_QUEUE)?);
        let counters = self.lab.netns(Node::Logger).within(read)?;
        Ok(counters.map_or(0, |counters| counters.queue_dropped + counters.user_dropped))
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for turn in ["0", "1", ""] {
            let _ = fs::remove_file(format!("{}{turn}", self.capture().display()));
        }
    }
}
