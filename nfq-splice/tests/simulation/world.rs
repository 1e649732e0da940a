//! Everything together, on one virtual clock: packets travel, daemons work, things fail.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use cluster::control::{Client as ClientAddress, Evidence, FromLog, FromProxy, Outcome, ToProxy};
use nfq_splice::{Action, Engine, KernelSplice, Secret, Settings, Stage, Verdict};
use packet::{Seq, TcpSegment, Time};
use recovery_manager::{LoggerId, Manager, Now};

use crate::apps::{Client, Phase, Server};
use crate::checks::Checks;
use crate::hosts::{HOSTS, Host, set_clocks};
use crate::kernel::{Kernel, Path};
use crate::log::FlowLog;
use crate::rng::Rng;
use crate::scenario::{BACKENDS, FAULTS_PER_LINK, Faults, Kill, Kind, Scenario, When};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Virtual time after which a client that is not done is stalled.
const PATIENCE: Duration = Duration::from_secs(300);
/// Virtual time after which everything must be forgotten.
const FORGETFUL: Duration = Duration::from_secs(4 * 3600);

/// Events of one run at most.
const STEPS: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Client,
    Proxy,
    Logger,
    Backend(usize),
}

/// A packet on its way, and when it first came into being: a later one must not carry an earlier timestamp.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) born: u64,
    pub(crate) from_backend: Option<usize>,
    /// When it left the proxy towards the client.
    pub(crate) departed: u64,
}

enum Event {
    Arrive(Node, Packet),
    Kill(usize),
    Notice(usize),
    ToProxy(ToProxy),
    FromProxy(FromProxy),
    Crash,
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
    hosts: Vec<Host>,
    host_due: [Option<Time>; HOSTS],
    app_due: [Option<Time>; HOSTS],
    servers: Vec<Server>,
    pub(crate) clients: Vec<Client>,
    logs: BTreeMap<(ClientAddress, usize), FlowLog>,
    t_l: BTreeMap<ClientAddress, u16>,
    fenced: BTreeSet<(ClientAddress, usize)>,
    dead: [bool; BACKENDS],
    killed: [bool; BACKENDS],
    triggered: Vec<bool>,
    faults: [u32; 3],
    orders: BTreeMap<u64, ClientAddress>,
    checks: Checks,
    /// Why a client may be cut off.
    pub(crate) excuses: BTreeMap<ClientAddress, String>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) resplices: u32,
    steps: u64,
    youngest: u64,
}

pub(crate) fn service() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)), 80)
}

pub(crate) fn backend(number: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11 + number as u8)), 80)
}

fn backend_number(address: SocketAddr) -> Option<usize> {
    (0..BACKENDS).find(|number| backend(*number) == address)
}

fn client_address(port: u16) -> ClientAddress {
    SocketAddr::new(IpAddr::V4(CLIENT), port)
}

const KEY: [u8; 16] = *b"simulation key 1";

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = Scenario::new(&mut rng);
        set_clocks([(); HOSTS].map(|()| rng.next() as u32));
        let mut hosts =
            vec![Host::new(0, CLIENT, rng.next(), scenario.client_timestamps, scenario.client_mtu)];
        let mut servers = Vec::new();
        for number in 0..BACKENDS {
            let IpAddr::V4(address) = backend(number).ip() else { unreachable!() };
            let mut host =
                Host::new(number + 1, address, rng.next(), scenario.backend_timestamps[number], 1600);
            let mut server = Server::new(
                &mut host,
                8,
                scenario.receive_buffers[number],
                scenario.send_buffer,
                scenario.variants[number],
            );
            server.service_time = scenario.service_time;
            servers.push(server);
            hosts.push(host);
        }
        let clients = scenario.clients.iter().enumerate();
        let clients: Vec<Client> = clients
            .map(|(n, habits)| {
                Client::new(&mut hosts[0], 40_000 + n as u16, habits.clone(), &scenario.variants)
            })
            .collect();
        let mut manager = Manager::new(&scenario.cluster, recovery_manager::Limits::default(), 1);
        manager.handle_proxy_connected();
        manager.handle_log_connected(LoggerId(0));
        let mut world = Self {
            now: Time::from_millis(1000),
            engine: Engine::new(Settings::new(&scenario.cluster), Secret::new(KEY)),
            manager,
            manager_numbers: 0,
            kernel: Kernel::default(),
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
            orders: BTreeMap::new(),
            checks: Checks::new(scenario.cluster.splice.hold_bytes as u32),
            excuses: BTreeMap::new(),
            trace: trace.then(Vec::new),
            resplices: 0,
            steps: 0,
            youngest: 0,
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
        for (index, kill) in self.scenario.kills.clone().iter().enumerate() {
            if let When::At(at) = kill.when {
                self.schedule(at + Duration::from_secs(1), Event::Kill(index));
            }
        }
        for at in self.scenario.crashes.clone() {
            self.schedule(at + Duration::from_secs(1), Event::Crash);
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
            .chain(self.engine.poll_timeout())
            .chain(self.manager.poll_timeout())
            .chain(self.kernel.next_expiry())
            .min()
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
        if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
            self.act(None);
        }
        if self.manager.poll_timeout().is_some_and(|at| at <= self.now) {
            self.manager.handle_timeout(self.now);
            self.manage();
        }
        for client in self.kernel.expire(self.now) {
            self.note(|| format!("entry of {client} expired"));
            self.engine.handle_entry_destroyed(self.now, client);
            self.act(None);
        }
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
            Event::ToProxy(message) => self.to_proxy(message),
            Event::FromProxy(message) => {
                self.manager.handle_proxy(Now { monotonic: self.now, unix_ms: 0 }, message);
                self.manage();
            }
            Event::Crash => self.crash(),
            Event::Destroyed(client) => {
                if !self.kernel.entries.contains_key(&client) {
                    self.engine.handle_entry_destroyed(self.now, client);
                    self.act(None);
                }
            }
        }
    }

    // ---- Hosts

    fn run_hosts(&mut self) {
        for number in 0..HOSTS {
            let due = |at: Option<Time>| at.is_some_and(|at| at <= self.now);
            if due(self.host_due[number]) || due(self.app_due[number]) {
                self.run_host(number);
            }
        }
    }

    fn run_host(&mut self, number: usize) {
        if number > 0 && self.dead[number - 1] {
            self.host_due[number] = None;
            self.app_due[number] = None;
            return;
        }
        let mut sent = self.hosts[number].poll(self.now);
        let host = &mut self.hosts[number];
        let now = self.now;
        self.app_due[number] = if number == 0 {
            self.clients.iter_mut().filter_map(|client| client.step(host, now, service())).min()
        } else {
            self.servers[number - 1].step(host, now)
        };
        let look = self.hosts[number].unstick(self.now);
        self.app_due[number] = self.app_due[number].into_iter().chain(look).min();
        sent.extend(self.hosts[number].poll(self.now));
        let at = self.hosts[number].poll_at(self.now);
        self.host_due[number] = at.map(|at| at.max(self.now + Duration::from_micros(100)));
        for bytes in sent {
            self.serial += 1;
            let from_backend = number.checked_sub(1);
            let packet = Packet { bytes, born: self.serial, from_backend, departed: 0 };
            let (link, to) = if number == 0 { (0, Node::Proxy) } else { (2, Node::Logger) };
            self.transmit(link, to, packet);
        }
    }

    // ---- Links

    fn transmit(&mut self, link: usize, to: Node, mut packet: Packet) {
        let Faults { loss, duplication, corruption, reordering, delay, extra } = self.scenario.links[link];
        let spoil = self.faults[link] < FAULTS_PER_LINK;
        let mut at = self.now + Duration::from_micros(self.rng.between(delay.0, delay.1));
        // Packets of one link keep their order, unless reordered on purpose.
        let before = self.faults[link];
        if spoil && self.rng.chance(loss) {
            self.faults[link] += 1;
            self.note(|| format!("link {link}: lost {}", show(&packet.bytes)));
            return;
        }
        if spoil && self.rng.chance(corruption) {
            self.faults[link] += 1;
            let bit = self.rng.below(packet.bytes.len() as u64 * 8) as usize;
            packet.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if spoil && self.rng.chance(duplication) {
            self.faults[link] += 1;
            let again = at + Duration::from_micros(self.rng.below(extra));
            self.schedule(again, Event::Arrive(to, packet.clone()));
        }
        if spoil && self.rng.chance(reordering) {
            self.faults[link] += 1;
            at = at + Duration::from_micros(self.rng.below(extra));
        } else {
            at = self.checks.in_order(link, to, at);
        }
        if self.faults[link] != before {
            self.note(|| format!("link {link}: fault on {}", show(&packet.bytes)));
        }
        self.schedule(at, Event::Arrive(to, packet));
    }

    fn arrive(&mut self, node: Node, packet: Packet) {
        match node {
            Node::Client => {
                self.note(|| format!("      -> client   {}", show(&packet.bytes)));
                self.checks.at_client(&packet);
                self.hosts[0].receive(packet.bytes);
                self.host_due[0] = Some(self.now);
            }
            Node::Backend(number) => {
                if self.dead[number] {
                    return;
                }
                self.note(|| format!("      -> backend{number} {}", show(&packet.bytes)));
                self.hosts[number + 1].receive(packet.bytes);
                self.host_due[number + 1] = Some(self.now);
            }
            // A host's network layer has dropped what is corrupt.
            _ if !TcpSegment::parse(&packet.bytes)
                .is_ok_and(|segment| segment.checksums_valid() && known(&segment)) => {}
            Node::Logger => self.arrive_at_logger(packet),
            Node::Proxy => self.arrive_at_proxy(packet),
        }
    }

    // ---- Logger

    fn arrive_at_logger(&mut self, packet: Packet) {
        let segment = TcpSegment::parse(&packet.bytes).unwrap();
        let from_client = backend_number(segment.destination());
        let Some(number) = from_client.or(backend_number(segment.source())) else { return };
        let client = if from_client.is_some() { segment.source() } else { segment.destination() };
        if from_client.is_some() {
            self.log_client(client, number, &segment);
            return self.transmit(2, Node::Backend(number), packet);
        }
        if self.fenced.contains(&(client, number)) {
            return self.note(|| format!("fence drops {}", show(&packet.bytes)));
        }
        let closes = segment.flags().fin() || segment.flags().rst();
        let held = self.killed[number] && closes;
        let Some(log) = self.logs.get_mut(&(client, number)) else {
            return self.transmit(1, Node::Proxy, packet);
        };
        if log.is_beyond_a_hole(&segment) {
            return;
        }
        log.note_server(&segment, held);
        if let Some(edge) = log.granted {
            self.checks.granted(client, edge);
        }
        let logged = log.responses.len();
        let is_handled = held && !log.ended;
        if is_handled {
            let text = show(&packet.bytes);
            self.note(|| format!("hold {text}"));
        } else {
            self.transmit(1, Node::Proxy, packet);
        }
        self.trigger(number, logged);
    }

    fn log_client(&mut self, client: ClientAddress, number: usize, segment: &TcpSegment<'_>) {
        let key = (client, number);
        if segment.flags().syn() {
            self.fenced.remove(&key);
            let same = self.logs.get(&key).is_some_and(|log| !log.ended && log.irs() == segment.seq());
            if !same {
                let t_l = self.t_l.get(&client).copied().unwrap_or(0);
                self.logs.insert(key, FlowLog::new(segment, t_l));
            }
        } else if let Some(log) = self.logs.get_mut(&key) {
            log.note_client(segment);
        }
    }

    fn trigger(&mut self, number: usize, logged: usize) {
        for index in 0..self.scenario.kills.len() {
            let kill = &self.scenario.kills[index];
            if let When::Logged(bytes) = kill.when
                && kill.backend == number
                && logged >= bytes
                && !self.triggered[index]
            {
                self.kill(index);
            }
        }
    }

    fn kill(&mut self, index: usize) {
        if std::mem::replace(&mut self.triggered[index], true) {
            return;
        }
        let Kill { backend: number, kind, noticed, .. } = self.scenario.kills[index].clone();
        self.note(|| format!("KILL backend{number}: {kind:?}"));
        match kind {
            Kind::Silent => self.dead[number] = true,
            Kind::Fin | Kind::Reset => {
                self.killed[number] = true;
                self.servers[number].kill(&mut self.hosts[number + 1], kind == Kind::Reset);
                self.host_due[number + 1] = Some(self.now);
            }
            Kind::Suspected => {}
        }
        self.schedule(self.now + noticed, Event::Notice(index));
    }

    /// The transactionalizer reports all connections of the backend, having fenced it.
    fn notice(&mut self, index: usize) {
        let Kill { backend: number, kind, down, .. } = self.scenario.kills[index].clone();
        let mut connections = Vec::new();
        let keys: Vec<_> = self.logs.keys().filter(|(_, backend)| *backend == number).copied().collect();
        for key in keys {
            let log = self.logs.get_mut(&key).unwrap();
            if log.ended || log.client_reset || log.backend() != backend(number) {
                continue;
            }
            log.ended = true;
            let report = log.report();
            self.t_l.insert(key.0, report.t_l);
            self.fenced.insert(key);
            self.note(|| {
                format!(
                    "REPORT {} on backend{number}: T_L {} pending {} p {}+{} ack_cl {} next {} unacked {} fin {}",
                    key.0,
                    report.t_l,
                    report.pending.len(),
                    report.partial.head.len(),
                    report.partial.body_bytes,
                    report.ack_cl,
                    report.client_next,
                    report.unacked.len(),
                    report.client_fin
                )
            });
            connections.push(report);
        }
        self.manager_numbers += 1;
        let message = FromLog::Failed {
            number: self.manager_numbers,
            evidence: Evidence::HostSilent,
            noticed_us: 0,
            backend_down: down || connections.is_empty() && kind != Kind::Suspected,
            backend: backend(number),
            connections,
        };
        self.manager.handle_log(Now { monotonic: self.now, unix_ms: 0 }, LoggerId(0), message);
        self.manage();
        // Whoever has not been reported yet, is reported when it turns up.
        if kind != Kind::Suspected && self.now < Time::from_millis(60_000) {
            let retry = self.now + Duration::from_millis(200);
            self.schedule(retry, Event::Notice(index));
        }
    }

    fn manage(&mut self) {
        while let Some(action) = self.manager.poll_action(self.now) {
            match action {
                recovery_manager::Action::ToProxy(message) => {
                    let at = self.now + self.scenario.control_delay;
                    self.schedule(at, Event::ToProxy(message));
                }
                recovery_manager::Action::ToLog(..) => {}
                recovery_manager::Action::Tell(story) => self.note(|| format!("manager: {story:?}")),
            }
        }
    }

    // ---- Proxy

    fn to_proxy(&mut self, message: ToProxy) {
        match message {
            ToProxy::Recover(order) => {
                self.note(|| {
                    format!(
                        "ORDER {} {} -> {}: replay {} resend {} from {} {}",
                        order.id,
                        order.flow.client,
                        order.alternate,
                        order.replay.len(),
                        order.resend.len(),
                        order.resend_from,
                        short(&order.take_in)
                    )
                });
                let client = order.flow.client;
                self.orders.insert(order.id, client);
                self.checks.recovering(client, Seq(order.client_next));
                self.engine.handle_order(self.now, *order);
            }
            ToProxy::Reset { flow, ack_cl, reason } => {
                self.note(|| format!("RESET {}: {reason}", flow.client));
                self.excuse_reset(flow.client, &reason);
                self.engine.handle_reset(self.now, flow, ack_cl.map(Seq));
            }
            ToProxy::Backend { backend, up } => self.engine.handle_backend_state(backend, up),
            ToProxy::Subscribe | ToProxy::Status => {}
        }
        self.act(None);
    }

    /// A reset by the manager needs a reason that the scenario explains.
    fn excuse_reset(&mut self, client: ClientAddress, reason: &str) {
        let explained = reason.contains("update in flight")
            || reason.contains("no handshake was logged")
            || self.scenario.differs()
            || self.triggered.iter().filter(|triggered| **triggered).count() > 1
            || !self.scenario.crashes.is_empty();
        if explained {
            self.excuses.insert(client, reason.to_owned());
        }
    }

    fn crash(&mut self) {
        let status = self.engine.status();
        self.note(|| "CRASH of the daemon".to_owned());
        for connection in status.connections.iter().filter(|connection| connection.state != "spliced-kernel")
        {
            self.excuses
                .insert(connection.client, format!("the daemon died while it was {}", connection.state));
        }
        self.engine = Engine::new(Settings::new(&self.scenario.cluster), Secret::new(KEY));
        self.kernel.queued.clear();
        let entries: Vec<KernelSplice> = self
            .kernel
            .entries
            .values()
            .filter(|entry| entry.state() == nfq_splice::EntryState::Open)
            .map(|entry| entry.splice)
            .collect();
        for entry in entries {
            self.engine.handle_restored(self.now, &entry);
        }
        self.manager.handle_proxy_disconnected(self.now);
        self.manager.handle_proxy_connected();
        self.manage();
    }

    fn arrive_at_proxy(&mut self, mut packet: Packet) {
        let path = self.kernel.receive(self.now, &mut packet.bytes, service());
        let stage = match path {
            Path::Translated => return self.route(packet),
            Path::Raw => Stage::Raw,
            Path::Tracked => Stage::Tracked,
        };
        self.note(|| format!("queued {stage:?} {}", show(&packet.bytes)));
        let verdict = self.engine.handle_packet(self.now, &mut packet.bytes, stage);
        let born = packet.born;
        // What the engine sends meanwhile may carry the time of any packet of a backend before.
        self.youngest = self.youngest.max(born);
        let inherited = packet.from_backend.map(|_| self.youngest);
        match verdict {
            Verdict::Rewritten if stage == Stage::Tracked => {
                self.checks.fail("a packet was rewritten after conntrack".to_owned());
            }
            Verdict::Rewritten => self.route(packet),
            Verdict::Drop => {}
        }
        self.act(inherited);
    }

    /// What leaves the proxy.
    fn route(&mut self, mut packet: Packet) {
        self.serial += 1;
        packet.departed = self.serial;
        let segment = TcpSegment::parse(&packet.bytes).unwrap();
        let (source, destination) = (segment.source(), segment.destination());
        if !segment.checksums_valid() {
            return self.checks.fail(format!("bad checksum sent: {}", show(&packet.bytes)));
        }
        if destination.ip() == IpAddr::V4(CLIENT) {
            if source != service() {
                return self
                    .checks
                    .fail(format!("untranslated packet to the client: {}", show(&packet.bytes)));
            }
            self.checks.to_client(&packet);
            self.transmit(0, Node::Client, packet);
        } else if backend_number(destination).is_some() {
            self.checks.to_backend(&packet, backend_number(destination).unwrap_or_default());
            self.transmit(1, Node::Logger, packet);
        } else {
            self.checks.fail(format!("untranslated packet to the backends: {}", show(&packet.bytes)));
        }
    }

    /// Executes the engine's actions.
    fn act(&mut self, inherited: Option<u64>) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Send(bytes) => {
                    self.serial += 1;
                    let born = inherited.unwrap_or(self.serial);
                    self.note(|| format!("engine sends {}", show(&bytes)));
                    self.route(Packet { bytes, born, from_backend: None, departed: 0 });
                }
                Action::Suspend(client) => {
                    self.kernel.queued.insert(client);
                }
                Action::Resume(client) => {
                    self.kernel.queued.remove(&client);
                }
                Action::Splice(splice) => self.splice(splice),
                Action::Unsplice(client) => {
                    if let Some(entry) = self.kernel.entries.remove(&client) {
                        self.checks.unspliced(client, backend_number(entry.splice.backend).unwrap());
                        self.schedule(self.now + Duration::from_micros(200), Event::Destroyed(client));
                    }
                }
                Action::Inspect { client, syn } => {
                    let state = self
                        .kernel
                        .entries
                        .get(&client)
                        .map_or(nfq_splice::EntryState::Missing, |entry| entry.state());
                    self.engine.handle_entry_state(self.now, client, state, &syn);
                }
                Action::Tell(message) => self.told(message),
            }
        }
    }

    fn splice(&mut self, splice: KernelSplice) {
        if self.rng.chance(self.scenario.refusals) {
            self.note(|| format!("kernel refuses the splice of {}", splice.client));
            return self.engine.handle_splice_failed(self.now, splice.client);
        }
        self.note(|| format!("kernel splices {} to {}", splice.client, splice.backend));
        self.kernel.insert(self.now, splice);
    }

    fn told(&mut self, message: FromProxy) {
        self.note(|| format!("TOLD {message:?}"));
        if let FromProxy::Ended { id, outcome } = &message {
            match outcome {
                Outcome::Respliced { .. } => self.resplices += 1,
                Outcome::Mismatch { .. } if self.scenario.differs() => self.excuse_order(*id, "mismatch"),
                Outcome::Mismatch { .. } => {
                    self.checks.fail(format!("mismatch between equal backends: {message:?}"))
                }
                _ => {}
            }
        }
        let at = self.now + self.scenario.control_delay;
        self.schedule(at, Event::FromProxy(message));
    }

    /// With two backends gone, lost handshakes with the third may leave none: that is answered, too.
    fn excuse_no_backend(&mut self) {
        let gone = self.triggered.iter().filter(|triggered| **triggered).count();
        for client in self.clients.iter_mut().filter(|_| gone > 1) {
            if client.violation.as_ref().is_some_and(|why| why.contains("502 Bad Gateway")) {
                client.violation = None;
                client.phase = Phase::Cut("no backend".to_owned());
                self.excuses.insert(client_address(client.port), "no backend answers".to_owned());
            }
        }
    }

    fn excuse_order(&mut self, id: u64, why: &str) {
        if let Some(client) = self.orders.get(&id) {
            self.excuses.insert(*client, why.to_owned());
        }
    }

    // ---- The end

    fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            let address = client_address(client.port);
            let excused = self.excuses.contains_key(&address);
            if client.phase != Phase::Done && !excused {
                return Err(format!("{address} is not done: {}", client.progress()));
            }
        }
        Ok(())
    }

    fn judge_end(&mut self) -> Result<(), String> {
        let status = self.engine.status();
        if status.total > 0 {
            return Err(format!("connections are never forgotten: {:?}", status.connections));
        }
        if let Some(client) = self.kernel.entries.keys().next() {
            return Err(format!("the entry of {client} is left"));
        }
        if let Some(client) = self.kernel.queued.first() {
            return Err(format!("{client} is queued for ever"));
        }
        match self.engine.poll_timeout() {
            Some(at) => Err(format!("a timer is left: {at:?}")),
            None => Ok(()),
        }
    }
}

/// Corruption may have made it another connection's, with a checksum that fits by accident.
fn known(segment: &TcpSegment<'_>) -> bool {
    let ours = |address: SocketAddr| {
        address.ip() == IpAddr::V4(CLIENT) || address == service() || backend_number(address).is_some()
    };
    ours(segment.source()) && ours(segment.destination())
}

fn short(take_in: &cluster::control::TakeIn) -> String {
    use cluster::control::TakeIn;
    match take_in {
        TakeIn::Nothing => "nothing".to_owned(),
        TakeIn::Prefix { head, body_bytes, .. } => format!("prefix {}+{body_bytes}", head.len()),
        TakeIn::Range { first, overlap, .. } => format!("range {first} overlap {}", overlap.len()),
    }
}

pub(crate) fn show(bytes: &[u8]) -> String {
    let Ok(segment) = TcpSegment::parse(bytes) else { return "unreadable".to_owned() };
    let flags = segment.flags();
    let names = [(flags.syn(), 'S'), (flags.fin(), 'F'), (flags.rst(), 'R'), (flags.ack(), '.')];
    let names: String = names.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    format!(
        "{}>{} {names} seq {} len {} ack {} win {} ts {:?}",
        segment.source(),
        segment.destination(),
        segment.seq().0,
        segment.payload().len(),
        segment.ack().0,
        segment.window(),
        segment.timestamps()
    )
}
