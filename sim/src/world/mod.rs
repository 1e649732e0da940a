//! Everything together, on one virtual clock: packets travel, daemons work, things fail.
//!
//! What must hold: each answer is byte for byte that of one execution, and complete, unless the transfer was not recoverable
//! (`judge` says what that means), and then its client is cut off, never left hanging; no update is run more often than it
//! was asked for; what is fenced passes neither the logger nor the proxy; no byte passes the logger unlogged; nothing
//! untranslated and no bad checksum leaves the proxy; nobody is sent more than its window, or an older timestamp; every table
//! is empty in the end; nothing panics.

#![allow(clippy::wildcard_imports, reason = "one subject in several files")]
#![allow(clippy::similar_names, reason = "lines and lives")]

mod control;
mod crash;
mod failures;
mod hosts;
mod judge;
mod links;
mod logger;
mod manager;
mod probes;
mod proxy;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::control::Client as ClientAddress;
use packet::Time;
use transactionalizer::detector::probing::{Answer, ProbeId};

use crate::addresses::{BACKENDS, backend, client_address, client_host, set_family};
use crate::apps::{Client, Phase, Server};
use crate::checks::Checks;
use crate::control::{Channel, End, Line, Message};
use crate::events::Queue;
use crate::hosts::{HOSTS, Host, set_clocks};
use crate::net::{Node, Packet};
use crate::rng::Rng;
use crate::scenario::{CrashAt, Daemon, Scenario, When};
use crate::windows::Windows;

use logger::Logger;
use manager::ManagerDaemon;
use proxy::Proxy;
use reader::Reader;

/// Virtual time after which a client that is not done is stalled.
const PATIENCE: Duration = Duration::from_secs(300);
/// The transactionalizer goes on looking after its backends for so long after the last client.
const AFTERMATH: Duration = Duration::from_secs(15);
/// Virtual time after which everything must be forgotten.
const FORGETFUL: Duration = Duration::from_secs(4 * 3600);
/// Events of one run at most.
const STEPS: u64 = 400_000;

enum Event {
    Arrive(Node, Packet),
    Fail(usize),
    Return(usize),
    Crash(usize),
    Start(Daemon),
    Break(usize),
    /// Somebody wants to connect, in this life of its daemon.
    Connect(Channel, u64),
    Deliver(Channel, End, u64, Message),
    Hangup(Channel, End, u64),
    /// The transactionalizer of this life is woken.
    Read(u64),
    Probed(u64, std::net::SocketAddr, ProbeId, Answer),
    Destroyed(ClientAddress),
}

/// One run.
pub struct World {
    pub now: Time,
    pub scenario: Scenario,
    rng: Rng,
    events: Queue<Event>,
    /// Packets are numbered as they come into being.
    serial: u64,
    proxy: Proxy,
    manager: ManagerDaemon,
    logger: Logger,
    reader: Reader,
    lines: BTreeMap<Channel, Line>,
    hosts: Vec<Host>,
    host_due: [Option<Time>; HOSTS],
    app_due: [Option<Time>; HOSTS],
    servers: Vec<Server>,
    pub clients: Vec<Client>,
    backends: [failures::State; BACKENDS],
    triggered: Vec<bool>,
    /// All clients are over.
    ended: bool,
    faults: [u32; 3],
    doubled: u32,
    checks: Checks,
    windows: Windows,
    /// Clients that were recovered at least once.
    recovered: BTreeSet<ClientAddress>,
    /// Why a client may be cut off.
    pub excuses: BTreeMap<ClientAddress, String>,
    pub trace: Option<Vec<String>>,
    pub tally: Tally,
    steps: u64,
    /// Steps that each daemon has made.
    pub daemon_steps: BTreeMap<Daemon, u64>,
}

/// What happened in a run, or in many.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub events: u64,
    pub clients: u32,
    pub resplices: u32,
    /// Segments that a fence swallowed, and the proxy got from the log.
    pub swallowed: u32,
    pub crashes: BTreeMap<String, u32>,
    pub failures: BTreeMap<String, u32>,
    /// Reports, by evidence.
    pub noticed: BTreeMap<String, u32>,
    /// Clients that were cut off and could be, by reason.
    pub cut: BTreeMap<String, u32>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.clients += other.clients;
        self.resplices += other.resplices;
        self.swallowed += other.swallowed;
        let pairs = [
            (&mut self.crashes, other.crashes),
            (&mut self.failures, other.failures),
            (&mut self.noticed, other.noticed),
            (&mut self.cut, other.cut),
        ];
        for (to, from) in pairs {
            for (what, times) in from {
                *to.entry(what).or_default() += times;
            }
        }
    }
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = Scenario::new(&mut rng);
        Self::of(scenario, rng, trace)
    }

    pub fn of(scenario: Scenario, mut rng: Rng, trace: bool) -> Self {
        set_family(scenario.v6);
        set_clocks([(); HOSTS].map(|()| rng.draw() as u32));
        let now = Time::from_millis(1000);
        let mut hosts = hosts::make(&scenario, &mut rng);
        let servers = hosts::servers(&scenario, &mut hosts);
        let clients = scenario.clients.iter().enumerate();
        let clients: Vec<Client> = clients
            .map(|(n, habits)| {
                Client::new(&mut hosts[0], 40_000 + n as u16, habits.clone(), &scenario.variants)
            })
            .collect();
        let mut world = Self {
            now,
            proxy: Proxy::new(&scenario),
            manager: ManagerDaemon::new(&scenario, now),
            logger: Logger::new(&scenario),
            reader: Reader::new(&scenario, now),
            lines: crate::control::CHANNELS.map(|channel| (channel, Line::default())).into(),
            hosts,
            host_due: [Some(Time::default()); HOSTS],
            app_due: [Some(Time::default()); HOSTS],
            servers,
            clients,
            backends: [failures::State::default(); BACKENDS],
            triggered: vec![false; scenario.failures.len()],
            ended: false,
            faults: [0; 3],
            doubled: 0,
            checks: Checks::new(scenario.cluster.splice.hold_bytes as u32),
            windows: Windows::default(),
            recovered: BTreeSet::new(),
            excuses: BTreeMap::new(),
            trace: trace.then(Vec::new),
            tally: Tally::default(),
            steps: 0,
            daemon_steps: BTreeMap::new(),
            events: Queue::default(),
            serial: 0,
            rng,
            scenario,
        };
        world.prepare();
        world
    }

    /// The daemons run for a second before anything happens.
    fn prepare(&mut self) {
        let start = Duration::from_secs(1);
        for (index, failure) in self.scenario.failures.clone().iter().enumerate() {
            if let When::At(at) = failure.when {
                self.events.push(at + start, Event::Fail(index));
            }
        }
        for (index, crash) in self.scenario.crashes.clone().iter().enumerate() {
            if let CrashAt::Time(at) = crash.at {
                self.events.push(at + start, Event::Crash(index));
            }
        }
        for (index, broken) in self.scenario.breaks.clone().iter().enumerate() {
            self.events.push(broken.at + start, Event::Break(index));
        }
        for client in &mut self.clients {
            client.habits.start = client.habits.start + start;
        }
        self.tally.clients = self.clients.len() as u32;
        let begin = Time::from_millis(900);
        self.now = begin;
        self.events.push(begin, Event::Read(0));
        self.events.push(begin, Event::Connect(Channel::Reports, 0));
        self.events.push(begin, Event::Connect(Channel::Orders, 0));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} {}", self.now.as_nanos() as f64 / 1e9, text()));
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.events.push(self.now + delay, event);
    }

    fn next_time(&self) -> Option<Time> {
        let hosts = self.host_due.iter().chain(&self.app_due).flatten().copied();
        let daemons =
            [self.proxy.due(), self.manager.due(), self.logger.due(), self.reader.due].into_iter().flatten();
        self.events.next_time().into_iter().chain(hosts).chain(daemons).min()
    }

    /// Runs until all clients are done and all has been forgotten. `Err`: what went wrong.
    pub fn run(&mut self) -> Result<(), String> {
        let end = self.now + PATIENCE;
        while self.now < end && !self.clients.iter().all(is_over) {
            if !self.step(end)? {
                break;
            }
        }
        self.judge()?;
        for client in &mut self.clients {
            if !matches!(client.phase, Phase::Done) {
                client.abandon(&mut self.hosts[0]);
            }
        }
        self.host_due[0] = Some(self.now);
        self.thaw();
        let aftermath = self.now + AFTERMATH;
        while self.step(aftermath)? {}
        self.reader.due = None;
        self.reader.asleep = true;
        let forgotten = self.now + FORGETFUL;
        while self.step(forgotten)? {}
        self.judge_end()
    }

    fn step(&mut self, until: Time) -> Result<bool, String> {
        self.steps += 1;
        self.tally.events += 1;
        if self.steps > STEPS {
            return Err("it goes on for ever".to_owned());
        }
        let Some(next) = self.next_time().filter(|next| *next <= until) else {
            self.now = until;
            return Ok(false);
        };
        self.now = self.now.max(next);
        while let Some(event) = self.events.pop(self.now) {
            self.handle(event);
        }
        self.handle_timeouts();
        self.run_hosts();
        self.excuse_no_backend();
        let violation = || self.clients.iter_mut().find_map(|client| client.violation.take());
        match self.checks.failure.take().or_else(violation) {
            Some(failure) => Err(failure),
            None => Ok(true),
        }
    }

    fn handle_timeouts(&mut self) {
        let now = self.now;
        let is_due = move |due: Option<Time>| due.is_some_and(|at| at <= now);
        if is_due(self.proxy.due()) {
            self.proxy_timeouts();
        }
        if is_due(self.manager.due()) {
            self.manager_timeout();
        }
        if is_due(self.logger.due()) {
            self.logger_timeout();
        }
        if is_due(self.reader.due) {
            self.read();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(node, packet) => self.arrive(node, packet),
            Event::Fail(index) => self.fail(index),
            Event::Return(index) => self.come_back(index),
            Event::Crash(index) => self.crash(self.scenario.crashes[index]),
            Event::Start(daemon) => self.start(daemon),
            Event::Break(index) => self.break_line(self.scenario.breaks[index]),
            Event::Connect(channel, life) => self.connect(channel, life),
            Event::Deliver(channel, to, session, message) => self.deliver(channel, to, session, message),
            Event::Hangup(channel, end, session) => self.hang_up(channel, end, session),
            Event::Read(life) if life == self.reader.life => self.read(),
            Event::Read(_) => {}
            Event::Probed(life, backend, id, answer) => self.probed(life, backend, id, answer),
            Event::Destroyed(client) => self.destroyed(client),
        }
    }

    /// How far everybody came, for people.
    pub fn ending(&self) -> Vec<String> {
        let clients =
            self.clients.iter().map(|client| format!("client {}: {}", client.port, client.progress()));
        let excuses = self.excuses.iter().map(|(client, why)| format!("excuse of {client}: {why}"));
        let proxy = self.proxy.engine.status().counters;
        clients
            .chain(excuses)
            .chain([
                format!("proxy: {proxy:?}"),
                format!("manager: {:?}", self.manager.engine.status().counters),
                format!("transactionalizer: {:?}", self.reader.engine.status()),
                format!("logger: {:?} {:?}", self.logger.engine.counters(), self.logger.engine.gauges()),
            ])
            .collect()
    }
}

fn is_over(client: &Client) -> bool {
    matches!(client.phase, Phase::Done | Phase::Cut(_))
}
