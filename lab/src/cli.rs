//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::bench::{Bench, Order, detection, log, recovery, soak, splice};
use lab::settings::{
    Front, LinkSettings, Path, Settings, nodes, parse_bytes, parse_duration, parse_rate, parse_share,
};
use lab::{Daemon, Fault, Node, fetch};

/// A cluster of network namespaces: client, proxy, logger and two web servers.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// Which lab; several can run side by side.
    #[arg(long, env = "LAB_NAME", default_value = "resplice", global = true)]
    pub(crate) name: String,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make the lab, or what of it is missing; with other options than before: make it anew.
    Up(Up),
    /// Remove everything of the lab, also what a crash left.
    Down,
    /// What there is: addresses, daemons, servers, the emulated link.
    Status,
    /// Run a command on a node; streams and exit status are the command's.
    Exec {
        node: Node,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Make a web server fail.
    Fail { node: Node, fault: Fault },
    /// Undo a web server's failure.
    Heal { node: Node },
    /// Everything that helps to understand what is wrong: rules, connections, queues, logs.
    Dump,
    /// Run tcpdump on a node, by default on all its interfaces.
    Tcpdump {
        node: Node,
        /// Arguments of tcpdump.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// End a daemon with a signal.
    Kill {
        daemon: Daemon,
        /// The signal's number.
        #[arg(long, default_value_t = 9)]
        signal: i32,
    },
    /// End a daemon with SIGTERM, if it runs, and start it.
    Restart { daemon: Daemon },
    /// Fetch a document from the client's node over one TCP connection and measure the longest stall.
    Fetch(Fetch),
    /// Show the main job, and what nginx and `HAProxy` make of the same failures.
    Demo,
    /// Measure; see `scripts/bench`.
    Bench(Measure),
    /// Take down labs whose owner (see `up --owner`) has died.
    Sweep,
    /// Accept all packets of a queue, for `bench log`.
    #[command(hide = true)]
    AcceptAll { queue: u16 },
    /// Read a segment log and verify it, for `bench soak`.
    #[command(hide = true)]
    ReadLog {
        log: PathBuf,
        /// Sleep until lapped, again and again.
        #[arg(long)]
        slow: bool,
    },
    /// The emulator of the client's link, started by `up`.
    #[command(hide = true)]
    LinkEmulator { settings: String },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Make only these nodes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Node>,
    /// Round-trip time added between client and proxy, like 79ms.
    #[arg(long, value_parser = parse_duration, default_value = "0ms")]
    rtt: Duration,
    /// Greatest random extra delay there, each way.
    #[arg(long, value_parser = parse_duration, default_value = "0ms")]
    jitter: Duration,
    /// Share of packets lost there, like 1%, each way.
    #[arg(long, value_parser = parse_share, default_value = "0%")]
    loss: f64,
    /// Share of packets overtaken there, like 1%, each way.
    #[arg(long, value_parser = parse_share, default_value = "0%")]
    reorder: f64,
    /// Rate there, like 100mbit, each way.
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,
    /// Seed of the chances there.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Which way resplice translates.
    #[arg(long, value_enum, default_value_t)]
    path: Path,
    /// What stands at the virtual address.
    #[arg(long, value_enum, default_value_t)]
    front: Front,
    /// Start none of resplice's daemons: plain routing.
    #[arg(long, conflicts_with = "front")]
    no_daemons: bool,
    /// Let nothing watch for failures: no logger, no recovery, and proxies that neither check nor retry.
    #[arg(long)]
    no_failover: bool,
    /// The service and the backends have IPv6 addresses
    #[arg(long)]
    ipv6: bool,
    /// Send buffer of the web servers' sockets, bytes: what a kernel still sends after its process was killed.
    #[arg(long, value_parser = parse_bytes)]
    send_buffer: Option<u64>,
    /// Give the web servers an application in PHP, with sessions.
    #[arg(long)]
    php: bool,
    /// Override in `cluster.toml`, like `detector.probe_after_ms=50`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// `lab sweep` removes the lab when this process is gone.
    #[arg(long, value_name = "PID")]
    pub(crate) owner: Option<u32>,
}

impl Up {
    pub(crate) fn settings(&self) -> Settings {
        let link = LinkSettings {
            rtt: self.rtt,
            jitter: self.jitter,
            loss: self.loss,
            reorder: self.reorder,
            rate: self.rate,
            seed: self.seed,
        };
        Settings {
            nodes: nodes(&self.only, link.active()),
            link,
            front: if self.no_daemons { Front::None } else { self.front },
            path: self.path,
            failover: !self.no_failover,
            ipv6: self.ipv6,
            send_buffer: self.send_buffer,
            php: self.php,
            set: self.set.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Measure {
    what: Bench,
    /// Of splice and log: measurements of each contender, by default 5. Of recovery's crowd: by default 3. Of detection: failures of each kind, by default 200.
    #[arg(long)]
    rounds: Option<usize>,
    /// Of detection: only these kinds of failures.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Of detection: seconds of healthy overload.
    #[arg(long, default_value_t = 600)]
    healthy: u64,
    /// Of detection: override in `cluster.toml`, like `detector.probe_after_ms=50`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Of splice and log: length of each measurement, by default 2s. Of soak: of all of it, by default 600s.
    #[arg(long, value_parser = parse_duration)]
    length: Option<Duration>,
    /// Of splice and log: only these contenders.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// Of splice and log: only these measurements.
    #[arg(long, value_delimiter = ',')]
    measures: Vec<String>,
    #[command(flatten)]
    recovery: recovery::Plan,
    /// Go on with an interrupted run of the same version and options; with more rounds or failures, it is extended.
    #[arg(long)]
    resume: bool,
    /// Write to this name with .txt and .json; by default target/bench/WHAT.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Measure {
    pub(crate) fn order(&self) -> Result<Order> {
        let name = self.what.to_possible_value().map(|value| value.get_name().to_owned());
        let output = || PathBuf::from("target/bench").join(name.unwrap_or_default());
        let rounds = self.rounds.unwrap_or(5);
        let length = self.length.unwrap_or(Duration::from_secs(2));
        let mut plan = splice::Plan::new(rounds, length);
        let mut log = log::Plan::new(rounds, length);
        let healthy = Duration::from_secs(self.healthy);
        let mut detection = detection::Plan::new(self.rounds.unwrap_or(200), healthy);
        choose(&mut detection.kinds, &self.kinds)?;
        detection.set.clone_from(&self.set);
        if self.what == Bench::Log {
            choose(&mut log.contenders, &self.contenders)?;
            choose(&mut log.measures, &self.measures)?;
        } else {
            choose(&mut plan.contenders, &self.contenders)?;
            choose(&mut plan.measures, &self.measures)?;
        }
        Ok(Order {
            bench: self.what,
            plan,
            detection,
            recovery: recovery::Plan { rounds: self.rounds.unwrap_or(3), ..self.recovery.clone() },
            log,
            soak: soak::Plan::new(self.length.unwrap_or(Duration::from_secs(600))),
            resume: self.resume,
            output: self.output.clone().unwrap_or_else(output),
        })
    }
}

/// Keeps those that are named; all, if none is.
fn choose<T: ValueEnum + PartialEq>(all: &mut Vec<T>, names: &[String]) -> Result<()> {
    let wanted = names.iter().map(|name| T::from_str(name, true).map_err(anyhow::Error::msg));
    let wanted = wanted.collect::<Result<Vec<T>>>()?;
    all.retain(|one| wanted.is_empty() || wanted.contains(one));
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Path like /files/300m at the virtual address, or a whole http URL with an IPv4 address.
    url: String,
    /// Read at most this many bytes a second.
    #[arg(long, value_parser = parse_bytes)]
    rate: Option<u64>,
    /// Size of the socket's receive buffer, bytes; a small one hides no stall.
    #[arg(long, value_parser = parse_bytes)]
    receive_buffer: Option<u64>,
    /// Give up after so long without a byte.
    #[arg(long, value_parser = parse_duration, default_value = "30s")]
    patience: Duration,
    /// Let the web server that serves this connection fail.
    #[arg(long, requires = "at")]
    fail: Option<Fault>,
    /// When this many bytes of the body have been received.
    #[arg(long, value_parser = parse_bytes, requires = "fail")]
    at: Option<u64>,
}

impl Fetch {
    pub(crate) fn options(&self) -> Result<fetch::Options> {
        Ok(fetch::Options {
            target: fetch::Target::parse(&self.url)?,
            rate: self.rate,
            receive_buffer: self.receive_buffer.map(|bytes| bytes as usize),
            patience: self.patience,
            fail: self.fail.zip(self.at),
        })
    }
}
