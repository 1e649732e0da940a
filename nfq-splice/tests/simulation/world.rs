//! Everything together, on one virtual clock: packets travel, daemons work, things fail.

mod crash;
mod fast;
mod forger;
mod handshake;
mod judge;
mod links;
mod logger;
mod proxy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{
    Client as ClientAddress, Evidence, FromLog, FromProxy, Outcome, RecoveryOrder, ToProxy,
};
use netfilter::fast_path::Answered;
use nfq_splice::{Action, Engine, KernelSplice, Parked, Promise, Secret, Settings, Stage, Verdict};
use packet::{Seq, TcpSegment, Time};
use recovery_manager::{LoggerId, Manager, Now};

use crate::addresses::{
    BACKENDS, backend, backend_number, client_address, client_host, service, set_family, stranger,
};
use crate::apps::{Client, Phase, Server};
use crate::checks::Checks;
use crate::hosts::{HOSTS, Host, set_clocks};
use crate::kernel::{Entry, Kernel, Path};
use crate::log::FlowLog;
use crate::rng::Rng;
use crate::scenario::{CrashAt, FAULTS_PER_LINK, Faults, Kill, Kind, Scenario, Spoil, When};
use crate::windows::Windows;
use sim::net::{AGE_UNKNOWN, Node, Packet, show};

/// Virtual time after which a client that is not done is stalled.
const PATIENCE: Duration = Duration::from_secs(300);
/// Virtual time after which everything must be forgotten: the default `idle_timeout_s` in each life of the daemon, which may die as it
/// forgets.
const FORGETFUL: Duration = Duration::from_secs(3 * 7440 + 3600);

/// Events of one run at most.
const STEPS: u64 = 300_000;

enum Event {
    Arrive(Node, Packet),
    Kill(usize),
    Notice(usize),
    /// On the connection of one life of the daemon.
    ToProxy(u64, ToProxy),
    FromProxy(FromProxy),
    Crash(Duration),
    Forge,
    /// The daemon has gone through a batch of packets, in one of its lives.
    Act(u64),
    Restart,
    Disconnected,
    Connected(u64),
    /// One life of the daemon lets its program answer so; then its engine hears of it.
    Answer(u64, Promise),
    Promised(u64, Promise),
    Destroyed(ClientAddress),
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) scenario: Scenario,
    rng: Rng,
    events: BinaryHeap<Reverse<(Time, u64)>>,
    bodies: BTreeMap<u64, Event>,
    serial: u64,
    engine: Engine,
    manager: Manager,
    manager_numbers: u64,
    kernel: Kernel,
    fast: sim::fast_path::FastPath,
    hosts: Vec<Host>,
    host_due: [Option<Time>; HOSTS],
    app_due: [Option<Time>; HOSTS],
    servers: Vec<Server>,
    pub(crate) clients: Vec<Client>,
    logs: BTreeMap<(ClientAddress, usize), FlowLog>,
    t_l: BTreeMap<ClientAddress, u32>,
    fenced: BTreeSet<(ClientAddress, usize)>,
    dead: [bool; BACKENDS],
    killed: [bool; BACKENDS],
    triggered: Vec<bool>,
    faults: [u32; 3],
    /// Packets that each link has carried.
    carried: [u32; 3],
    orders: BTreeMap<u64, ClientAddress>,
    checks: Checks,
    windows: Windows,
    /// Why a client may be cut off.
    pub(crate) excuses: BTreeMap<ClientAddress, String>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) resplices: u32,
    /// Packets that went past the daemon, and connections that began so.
    pub(crate) fast_packets: u64,
    pub(crate) young: u32,
    /// SYNs that the program answered and acknowledgements that it took, of earlier daemons.
    answered_before: Answered,
    /// What the engine wants clients to be told, as the shell knows it.
    promise: Option<Promise>,
    /// When the last message is in the mailbox of the control thread, and of the engine's.
    posted: [Time; 2],
    key: [u8; 16],
    /// Daemons before this one that had this key.
    life: u32,
    steps: u64,
    /// Actions of the daemon wait for the end of a batch of packets.
    deferred: bool,
    pub(crate) daemon_steps: u64,
    /// There is no daemon.
    down: bool,
    /// Lives of the daemon that are over.
    session: u64,
    pub(crate) crashes: u32,
    /// Orders with bytes behind a hole, and those of them that carry a date there.
    pub(crate) bridged: u32,
    dated: BTreeSet<u64>,
    /// Clients of orders with such bytes.
    holed: BTreeSet<ClientAddress>,
}

const KEY: [u8; 16] = *b"simulation key 1";

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = Scenario::new(&mut rng);
        Self::of(scenario, rng, trace)
    }

    pub(crate) fn of(scenario: Scenario, mut rng: Rng, trace: bool) -> Self {
        set_family(scenario.v6);
        set_clocks([(); HOSTS].map(|()| rng.draw() as u32));
        let mut hosts =
            vec![Host::new(0, client_host(), rng.draw(), scenario.client_timestamps, scenario.client_mtu)];
        let mut servers = Vec::new();
        for number in 0..BACKENDS {
            let address = backend(number).ip();
            let mut host =
                Host::new(number + 1, address, rng.draw(), scenario.backend_timestamps[number], 1600);
            let mut server = Server::new(
                &mut host,
                8,
                scenario.receive_buffers[number],
                scenario.send_buffer,
                scenario.variants[number],
            );
            server.service_time = scenario.service_time;
            server.stalls =
                scenario.stalls.filter(|(stalling, _)| *stalling == number).map(|(_, bytes)| bytes);
            servers.push(server);
            hosts.push(host);
        }
        for host in &mut hosts {
            host.spares_closed_windows = true;
        }
        let clients = scenario.clients.iter().enumerate();
        let clients: Vec<Client> = clients
            .map(|(n, habits)| {
                Client::new(&mut hosts[0], 40_000 + n as u16, habits.clone(), &scenario.variants)
            })
            .collect();
        let mut manager = Manager::new(&scenario.cluster, recovery_manager::Limits::default(), 1);
        manager.handle_proxy_connected(Time::from_millis(1000));
        manager.handle_log_connected(LoggerId(0));
        let mut world = Self {
            now: Time::from_millis(1000),
            engine: Engine::new(Settings::new(&scenario.cluster), Secret::new(KEY)),
            manager,
            manager_numbers: 0,
            kernel: Kernel::default(),
            fast: sim::fast_path::FastPath::default(),
            hosts,
            host_due: [Some(Time::default()); HOSTS],
            app_due: [Some(Time::default()); HOSTS],
            servers,
            clients,
            logs: BTreeMap::new(),
            t_l: BTreeMap::new(),
            fenced: BTreeSet::new(),
            dead: [false; BACKENDS],
            killed: [false; BACKENDS],
            triggered: vec![false; scenario.kills.len()],
            faults: [0; 3],
            carried: [0; 3],
            orders: BTreeMap::new(),
            checks: Checks::new(scenario.cluster.splice.hold_bytes as u32),
            windows: Windows::default(),
            excuses: BTreeMap::new(),
            trace: trace.then(Vec::new),
            resplices: 0,
            fast_packets: 0,
            young: 0,
            answered_before: Answered::default(),
            promise: None,
            posted: [Time::default(); 2],
            key: KEY,
            life: 0,
            steps: 0,
            deferred: false,
            daemon_steps: 0,
            down: false,
            session: 0,
            crashes: 0,
            bridged: 0,
            dated: BTreeSet::new(),
            holed: BTreeSet::new(),
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            serial: 0,
            rng,
            scenario,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        self.engine = self.start_engine();
        self.tell_promise();
        for (index, kill) in self.scenario.kills.clone().iter().enumerate() {
            if let When::At(at) = kill.when {
                self.schedule(at + Duration::from_secs(1), Event::Kill(index));
            }
        }
        for crash in self.scenario.crashes.clone() {
            if let CrashAt::Time(at) = crash.at {
                self.schedule(at + Duration::from_secs(1), Event::Crash(crash.down));
            }
        }
        for _ in 0..self.scenario.forged {
            let at = Time::from_millis(1000 + self.rng.below(2500));
            self.schedule(at, Event::Forge);
        }
        for client in &mut self.clients {
            client.habits.start = client.habits.start + Duration::from_secs(1);
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} {}", self.now.as_nanos() as f64 / 1e9, text()));
        }
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial)));
        self.bodies.insert(self.serial, event);
    }

    fn next_time(&self) -> Option<Time> {
        let event = self.events.peek().map(|Reverse((at, _))| *at);
        let hosts = self.host_due.iter().chain(&self.app_due).flatten().copied();
        event
            .into_iter()
            .chain(hosts)
            .chain(self.engine_due())
            .chain(self.manager.poll_timeout())
            .chain(self.kernel.next_expiry())
            .min()
    }

    /// The present daemon's.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        self.engine.status().counters
    }

    fn engine_due(&self) -> Option<Time> {
        self.engine.poll_timeout().filter(|_| !self.down)
    }

    /// Runs until all clients are done and all has been forgotten. `Err`: what went wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let end = self.now + PATIENCE;
        while self.now < end
            && !self.clients.iter().all(|client| matches!(client.phase, Phase::Done | Phase::Cut(_)))
        {
            if !self.step(end)? {
                break;
            }
        }
        self.judge()?;
        for client in &mut self.clients {
            if client.phase == Phase::Running || matches!(client.phase, Phase::Cut(_)) {
                client.abandon(&mut self.hosts[0]);
            }
        }
        self.host_due[0] = Some(self.now);
        let forgotten = self.now + FORGETFUL;
        while self.step(forgotten)? {}
        self.judge_end()
    }

    fn step(&mut self, until: Time) -> Result<bool, String> {
        self.steps += 1;
        if self.steps > STEPS {
            return Err("it goes on for ever".to_owned());
        }
        let Some(next) = self.next_time().filter(|next| *next <= until) else {
            self.now = until;
            return Ok(false);
        };
        self.now = self.now.max(next);
        while let Some(Reverse((at, serial))) = self.events.peek().copied() {
            if at > self.now {
                break;
            }
            self.events.pop();
            let event = self.bodies.remove(&serial).unwrap();
            self.handle(event);
        }
        if self.engine_due().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
            self.act(false);
        }
        if self.manager.poll_timeout().is_some_and(|at| at <= self.now) {
            self.manager.handle_timeout(self.now);
            self.manage();
        }
        for client in self.kernel.expire(self.now) {
            self.note(|| format!("entry of {client} expired"));
            self.destroyed(client);
        }
        self.tell_promise();
        self.run_hosts();
        self.excuse_no_backend();
        match self
            .checks
            .failure
            .take()
            .or_else(|| self.clients.iter_mut().find_map(|client| client.violation.take()))
        {
            Some(failure) => Err(failure),
            None => Ok(true),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(node, packet) => self.arrive(node, packet),
            Event::Kill(index) => self.kill(index),
            Event::Notice(index) => self.notice(index),
            Event::ToProxy(session, message) if session == self.session && !self.down => self.order(message),
            Event::FromProxy(message) => {
                self.manager.handle_proxy(Now { monotonic: self.now, unix_ms: 0 }, message);
                self.manage();
            }
            Event::Crash(down) => self.crash(down),
            Event::Forge => self.forge(),
            Event::Act(session) if session == self.session && !self.down => {
                self.act(false);
            }
            Event::Restart => self.restart(),
            Event::Disconnected => {
                self.manager.handle_proxy_disconnected(self.now);
                self.manage();
            }
            Event::Connected(session) if session == self.session => {
                self.manager.handle_proxy_connected(self.now);
                self.manage();
            }
            Event::Answer(session, promise) if session == self.session && !self.down => self.answer(promise),
            Event::Promised(session, promise) if session == self.session && !self.down => {
                self.engine.handle_promised(self.now, promise);
            }
            Event::ToProxy(..)
            | Event::Connected(_)
            | Event::Act(_)
            | Event::Answer(..)
            | Event::Promised(..) => {}
            Event::Destroyed(client) => {
                // As the shell does: the kernel must know all that it is asked for by then.
                if !self.down {
                    self.act(false);
                }
                if !self.kernel.entries.contains_key(&client) {
                    self.destroyed(client);
                }
            }
        }
    }

    /// Nobody hears of it while there is no daemon.
    fn destroyed(&mut self, client: ClientAddress) {
        if !self.down {
            // Another connection of this client may have begun there.
            let in_kernel = self.engine.kernel_clients().any(|known| known == client);
            if in_kernel || !self.engine.is_spliced(client) {
                self.fast.remove(client);
            }
            self.engine.handle_entry_destroyed(self.now, client);
            self.act(false);
        }
    }
}

/// Corruption may have made it another connection's, with a checksum that fits by accident.
fn known(segment: &TcpSegment<'_>) -> bool {
    let ours = |address: SocketAddr| {
        address.ip() == client_host() || address == service() || backend_number(address).is_some()
    };
    ours(segment.source()) && ours(segment.destination())
}

fn short(take_in: &cluster::control::TakeIn) -> String {
    use cluster::control::{Prefix, TakeIn};
    match take_in {
        TakeIn::Nothing => "nothing".to_owned(),
        TakeIn::Prefix(Prefix { head, body_bytes, .. }) => format!("prefix {}+{body_bytes}", head.len()),
        TakeIn::Range { first, overlap, .. } => format!("range {first} overlap {}", overlap.len()),
    }
}
