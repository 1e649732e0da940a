//! The verbs that concern a whole lab: up, down, status, sweep.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::daemons::Daemon;
use crate::faults::Fault;
use crate::lab::{Lab, Record};
use crate::nginx::{self, Nginx};
use crate::process::Process;
use crate::settings::{Front, Settings};
use crate::topology::{DIRECT_PORT, Node, PORT, VIP};
use crate::{cluster_file, fronts, link, network};

/// What `up` did, one line each; nothing if all was up already.
pub type Done = Vec<String>;

/// Validity of the hosts' certificates: longer than a lab is up.
const CERTIFICATE_DAYS: u64 = 90;

impl Lab {
    /// Makes the lab as `settings` say: all of it, or what is missing, or all of it anew if they changed.
    pub fn up(&self, settings: &Settings, owner: Option<Process>) -> Result<Done> {
        ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces: run it as root");
        nginx::check_installed()?;
        sweep()?;
        let _lock = self.lock()?;
        let mut done = Done::new();
        let before = self.record();
        let owner = owner.or(before.as_ref().and_then(|record| record.owner));
        if before.as_ref().is_some_and(|record| record.settings != *settings) {
            self.remove()?;
            done.push("removed the lab with other settings".to_owned());
        }
        // A lab that was never finished belongs to whoever makes it: after an interrupt it is swept away.
        let maker = if before.is_none() { Process::running(std::process::id()) } else { owner };
        self.write_record(&Record { settings: settings.clone(), owner: maker })?;
        let made = self.make(settings, &mut done);
        self.write_record(&Record { settings: settings.clone(), owner })?;
        made.map(|()| done)
    }

    fn make(&self, settings: &Settings, done: &mut Done) -> Result<()> {
        let mut note = |made: bool, what: &str| {
            if made {
                done.push(what.to_owned());
            }
        };
        note(network::create(self, settings).context("making the network")?, "made the network");
        for node in Node::BACKENDS.into_iter().filter(|node| settings.has(*node)) {
            note(self.heal(node)?, &format!("healed {node}"));
            note(self.start_server(node)?, &format!("started nginx on {node}"));
        }
        if settings.link.active() {
            let started = link::start(self, &settings.link)?;
            if started {
                network::disable_offloads(self, settings)?;
            }
            note(started, "started the link emulator");
        }
        note(self.write_cluster_file(settings)?, "wrote cluster.toml");
        if settings.has(Node::Proxy) {
            note(fronts::start(self, settings)?, "started the front");
        }
        self.start_daemons(settings, &mut note)
    }

    fn write_cluster_file(&self, settings: &Settings) -> Result<bool> {
        let directory = self.dir().join("certificates");
        let text = cluster_file::text(self.name(), directory.clone(), settings)?;
        let file = self.cluster_file();
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        certificates::provide(&directory, &toml::from_str(&text)?, CERTIFICATE_DAYS, false)?;
        fs::write(file, text)?;
        Ok(true)
    }

    fn start_daemons(&self, settings: &Settings, note: &mut dyn FnMut(bool, &str)) -> Result<()> {
        for node in [Node::Logger, Node::Proxy] {
            let runs = |daemon: &Daemon| daemon.node() == node && settings.runs(*daemon);
            let of_node = || Daemon::ALL.into_iter().filter(runs);
            if of_node().all(|daemon| self.daemon(daemon).is_some()) {
                continue;
            }
            fs::create_dir_all(self.run_dir(node))?;
            self.install_rules(node)?;
            for daemon in of_node() {
                note(self.start_daemon(daemon)?, &format!("started {}", daemon.name()));
            }
        }
        Ok(())
    }

    /// Removes everything of this lab, also what a crash left. True if there was anything.
    pub fn down(&self) -> Result<bool> {
        let _lock = self.lock()?;
        let existed = self.dir().exists() || Node::ALL.iter().any(|node| self.netns(*node).exists());
        self.remove()?;
        fs::remove_file(self.lock_file())?;
        Ok(existed)
    }

    fn remove(&self) -> Result<()> {
        network::remove(self)?;
        let segments = cluster::runtime::segment_log(self.name(), Node::Logger.name());
        if segments.exists() {
            fs::remove_file(segments)?;
        }
        if self.dir().exists() {
            fs::remove_dir_all(self.dir())?;
        }
        Ok(())
    }

    /// What there is now.
    pub fn status(&self) -> Result<Status> {
        let settings = self.settings()?;
        let present = |node: &&Node| self.netns(**node).exists();
        let nodes = settings.nodes.iter().filter(present);
        let servers = Node::BACKENDS.into_iter().filter(|node| settings.has(*node));
        Ok(Status {
            name: self.name().to_owned(),
            state_dir: self.dir().display().to_string(),
            vip: settings.address(VIP).to_string(),
            port: PORT,
            direct_port: DIRECT_PORT,
            nodes: nodes.map(|node| (node.name().to_owned(), node.address().to_string())).collect(),
            daemons: self.daemon_states(&settings),
            servers: servers.map(|node| (node.name().to_owned(), self.server_state(node))).collect(),
            front: settings.front,
            path: settings.path,
            rtt_ms: settings.link.rtt.as_secs_f64() * 1e3,
            jitter_ms: settings.link.jitter.as_secs_f64() * 1e3,
            loss: settings.link.loss,
            reorder: settings.link.reorder,
            rate_bits: settings.link.rate,
        })
    }

    fn daemon_states(&self, settings: &Settings) -> BTreeMap<String, State> {
        let mut states: BTreeMap<String, State> = Daemon::ALL
            .into_iter()
            .filter(|daemon| settings.runs(*daemon))
            .map(|daemon| (daemon.name().to_owned(), State::of(self.daemon(daemon))))
            .collect();
        if settings.link.active() {
            states.insert("link-emulator".to_owned(), State::of(link::process(self)));
        }
        if matches!(settings.front, Front::Nginx | Front::Haproxy | Front::HaproxyTcp) {
            let name = settings.front.to_possible_value().map(|value| value.get_name().to_owned());
            states.insert(name.unwrap_or_default(), State::of(fronts::process(self, settings.front)));
        }
        states
    }

    fn server_state(&self, node: Node) -> ServerState {
        ServerState { process: State::of(Nginx::new(self, node).master()), fault: self.fault(node) }
    }
}

/// Takes down every lab whose owner has died without doing so.
pub fn sweep() -> Result<Vec<String>> {
    let orphan = |lab: &Lab| lab.record().and_then(|record| record.owner).is_some_and(|owner| !owner.alive());
    let mut swept = Vec::new();
    for lab in Lab::all().into_iter().filter(orphan) {
        lab.down().with_context(|| format!("taking down {}", lab.name()))?;
        swept.push(lab.name().to_owned());
    }
    Ok(swept)
}

/// `lab status --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// Where its configuration, logs and sockets are.
    pub state_dir: String,
    /// The virtual address.
    pub vip: String,
    /// Its port.
    pub port: u16,
    /// Port of the backends that nothing intercepts.
    pub direct_port: u16,
    /// Nodes that are up, and their addresses.
    pub nodes: BTreeMap<String, String>,
    /// Daemons that should run.
    pub daemons: BTreeMap<String, State>,
    /// Web servers.
    pub servers: BTreeMap<String, ServerState>,
    /// What stands at the virtual address.
    pub front: Front,
    /// Which way resplice was told to translate.
    pub path: crate::settings::Path,
    /// Round-trip time added between client and proxy.
    pub rtt_ms: f64,
    /// Its variation.
    pub jitter_ms: f64,
    /// Share of packets lost there, 0–1.
    pub loss: f64,
    /// Share of packets reordered there, 0–1.
    pub reorder: f64,
    /// Its rate, bits per second.
    pub rate_bits: Option<u64>,
}

/// A program that should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Its process id, if it runs.
    pub pid: Option<u32>,
    /// `running`, `stopped` (by a signal) or `dead`.
    pub state: &'static str,
}

impl State {
    fn of(process: Option<Process>) -> Self {
        let state = match process {
            Some(process) if process.stopped() => "stopped",
            Some(_) => "running",
            None => "dead",
        };
        Self { pid: process.map(|process| process.pid), state }
    }
}

/// A web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerState {
    /// Its master process.
    #[serde(flatten)]
    pub process: State,
    /// How it was made to fail, if it was.
    pub fault: Option<Fault>,
}
