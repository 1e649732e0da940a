//! The proxy: packets through its kernel and the engine, orders, actions.

use cluster::control::{FromProxy, Outcome, TakeIn, ToProxy};
use nfq_splice::{Action, Engine, EntryState, KernelSplice, Parked, Secret, Settings, Stage, Verdict};
use packet::{Seq, TcpSegment};

use super::*;
use crate::addresses::{backend_number, service};
use crate::content::in_date;
use crate::kernel::{Kernel, Path};
use crate::net::{AGE_UNKNOWN, show};

const KEY: [u8; 16] = *b"simulation key 1";

pub(super) struct Proxy {
    pub(super) engine: Engine,
    pub(super) kernel: Kernel,
    pub(super) down: bool,
    pub(super) life: u64,
    pub(super) subscribers: BTreeSet<u64>,
    /// The client of each order.
    pub(super) orders: BTreeMap<u64, ClientAddress>,
    /// Clients whose connections were left for a later daemon, and not recovered since.
    pub(super) settled: BTreeSet<ClientAddress>,
    /// Clients whose log had bytes behind a hole in some failure: a date there is compared like everything else.
    bridged: BTreeSet<ClientAddress>,
    /// Those that certainly had a date there.
    dated: BTreeSet<ClientAddress>,
    youngest: u64,
}

impl Proxy {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            engine: engine(scenario, 0),
            kernel: Kernel::default(),
            down: false,
            life: 0,
            subscribers: BTreeSet::new(),
            orders: BTreeMap::new(),
            settled: BTreeSet::new(),
            bridged: BTreeSet::new(),
            dated: BTreeSet::new(),
            youngest: 0,
        }
    }

    pub(super) fn due(&self) -> Option<Time> {
        let engine = self.engine.poll_timeout().filter(|_| !self.down);
        engine.into_iter().chain(self.kernel.next_expiry()).min()
    }
}

fn has_date(piece: &[u8]) -> bool {
    let text = String::from_utf8_lossy(piece);
    ["Date: ", " 2026 ", "GMT"].iter().any(|part| text.contains(part))
}

/// The key is on disk.
fn engine(scenario: &Scenario, life: u64) -> Engine {
    Engine::new(Settings::new(&scenario.cluster), Secret::of_life(KEY, life as u32))
}

impl World {
    pub(super) fn proxy_timeouts(&mut self) {
        for client in self.proxy.kernel.expire(self.now) {
            self.note(|| format!("entry of {client} expired"));
            self.destroyed(client);
        }
        if !self.proxy.down && self.proxy.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.proxy.engine.handle_timeout(self.now);
            self.act(None);
        }
    }

    /// Nobody hears of it while there is no daemon.
    pub(super) fn destroyed(&mut self, client: ClientAddress) {
        if !self.proxy.down && !self.proxy.kernel.entries.contains_key(&client) {
            self.proxy.engine.handle_entry_destroyed(self.now, client);
            self.act(None);
        }
    }

    /// As the shell starts: the table from conntrack; of others nobody's packets are queued before it.
    pub(super) fn proxy_starts(&mut self) {
        self.proxy.engine = engine(&self.scenario, self.proxy.life);
        self.proxy.down = false;
        self.proxy.subscribers.clear();
        let Proxy { engine, kernel, .. } = &mut self.proxy;
        let parked: Vec<Parked> = kernel.parked.values().copied().collect();
        for client in std::mem::take(&mut kernel.queued) {
            if kernel.parked.contains_key(&client) {
                kernel.queued.insert(client);
            } else {
                engine.handle_lost(client);
            }
        }
        for parked in parked {
            engine.handle_parked(self.now, &parked);
        }
        let open = kernel.entries.values().filter(|entry| entry.is_open());
        for entry in open.map(|entry| entry.splice) {
            engine.handle_restored(self.now, &entry);
        }
        self.act(None);
    }

    pub(super) fn proxy_told(&mut self, session: u64, message: ToProxy) {
        if self.dies(Daemon::Proxy) {
            return;
        }
        match message {
            ToProxy::Recover(orders) => {
                for order in orders {
                    self.note_order(&order);
                    let client = order.flow.client;
                    self.recovered.insert(client);
                    self.proxy.settled.remove(&client);
                    self.proxy.orders.insert(order.id, client);
                    self.checks.recovering(client, Seq(order.client_next));
                    self.proxy.engine.handle_order(self.now, order);
                }
            }
            ToProxy::Reset { flow, end, reason } => {
                self.note(|| format!("RESET {} on {}: {reason}", flow.client, flow.backend));
                self.proxy.engine.handle_reset(self.now, flow, end.map(Seq));
            }
            ToProxy::Answer { order, status, reason } => {
                self.proxy.engine.handle_answer_order(self.now, *order, status, &reason);
            }
            ToProxy::Piece(piece) => self.proxy.engine.handle_piece(self.now, piece),
            ToProxy::Swallowed { alternate, swallowed } => {
                self.tally.swallowed += 1;
                self.note(|| {
                    format!("SWALLOWED {} {}+{}", swallowed.flow.client, swallowed.seq, swallowed.bytes.len())
                });
                self.proxy.engine.handle_swallowed(self.now, alternate, &swallowed);
            }
            ToProxy::Backend { backend, up } => self.proxy.engine.handle_backend_state(backend, up),
            ToProxy::Subscribe { .. } => {
                self.proxy.subscribers.insert(session);
                let wanted = FromProxy::Wanted(self.proxy.engine.routing().wanted());
                self.send_on(Channel::Orders, End::Client, session, Message::FromProxy(wanted));
            }
            ToProxy::Status | ToProxy::Want { .. } | ToProxy::Reload => {}
        }
        self.act(None);
    }

    fn note_order(&mut self, order: &cluster::control::RecoveryOrder) {
        let take_in = match &order.take_in {
            TakeIn::Nothing => "nothing".to_owned(),
            TakeIn::Prefix(prefix) => format!("prefix {}+{}", prefix.head.len(), prefix.body_bytes),
            TakeIn::Range { first, overlap, .. } => format!("range {first} overlap {}", overlap.len()),
        };
        self.note(|| {
            format!(
                "ORDER {} {} {} -> {}: replay {} resend {} from {} {take_in} beyond {}",
                order.id,
                order.flow.client,
                order.flow.backend,
                order.alternate,
                order.replay.len(),
                order.resend.len(),
                order.resend_from,
                order.beyond.len()
            )
        });
        if !order.beyond.is_empty() {
            self.proxy.bridged.insert(order.flow.client);
        }
        if order.beyond.iter().any(|(_, piece)| has_date(piece)) {
            self.proxy.dated.insert(order.flow.client);
        }
    }

    pub(super) fn arrive_at_proxy(&mut self, mut packet: Packet) {
        let path = self.proxy.kernel.receive(self.now, &mut packet.bytes, service());
        let stage = match path {
            Path::Translated => return self.route(packet),
            Path::Raw => Stage::Raw,
            Path::Tracked => Stage::Tracked,
        };
        if self.proxy.down {
            return self.note(|| format!("no proxy for {}", show(&packet.bytes)));
        }
        self.note(|| format!("queued {stage:?} {}", show(&packet.bytes)));
        let verdict = self.proxy.engine.handle_packet(self.now, &mut packet.bytes, stage);
        if self.dies(Daemon::Proxy) {
            return;
        }
        // What the engine sends meanwhile may carry the time of any packet of a backend before, or is a piece of this one.
        let late = packet.born < self.proxy.youngest;
        self.proxy.youngest = self.proxy.youngest.max(packet.born);
        let age = if late { AGE_UNKNOWN } else { self.proxy.youngest };
        let inherited = packet.from_backend.map(|_| age);
        match verdict {
            Verdict::Rewritten if stage == Stage::Tracked => {
                self.checks.fail("a packet was rewritten after conntrack".to_owned());
            }
            Verdict::Rewritten => self.route(packet),
            Verdict::Drop => {}
            Verdict::Segments(_) => self.checks.fail("a packet that is not large is to be cut".to_owned()),
            Verdict::Untouched => self.checks.fail("a segment was left alone".to_owned()),
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
        if let Some(Err(why)) = packet.window.map(|announced| self.windows.translated(&segment, announced)) {
            return self.checks.fail(format!("{why}: {}", show(&packet.bytes)));
        }
        let to_backend = backend_number(destination);
        if destination.ip() == client_host() && source == service() {
            let isn = self.hosts[0].initial(destination, service());
            self.checks.departs_to_client(&packet, isn);
            self.transmit(0, Node::Client, packet);
        } else if let Some(number) = to_backend {
            self.checks.departs_to_backend(&packet, number);
            self.transmit(1, Node::Logger, packet);
        } else {
            self.checks.fail(format!("an untranslated packet leaves the proxy: {}", show(&packet.bytes)));
        }
    }

    /// Executes the engine's actions.
    pub(super) fn act(&mut self, inherited: Option<u64>) {
        while let Some(action) = self.proxy.engine.poll_action() {
            if self.dies(Daemon::Proxy) {
                return self.judge_untold(&action);
            }
            self.act_one(action, inherited);
        }
    }

    fn act_one(&mut self, action: Action, inherited: Option<u64>) {
        let kernel = &mut self.proxy.kernel;
        match action {
            Action::Send(bytes) | Action::SendFirst(bytes) => {
                self.serial += 1;
                let born = inherited.unwrap_or(self.serial);
                self.note(|| format!("engine sends {}", show(&bytes)));
                self.route(Packet { bytes, born, from_backend: None, departed: 0, window: None });
            }
            Action::Suspend(client) => drop(kernel.queued.insert(client)),
            Action::Resume(client) => drop(kernel.queued.remove(&client)),
            Action::Splice(splice) => self.splice(splice),
            Action::Park(parked) => {
                kernel.parked.insert(parked.splice.client, parked);
                self.proxy.settled.insert(parked.splice.client);
            }
            Action::Unsplice(client) => {
                kernel.parked.remove(&client);
                if let Some(entry) = kernel.entries.remove(&client) {
                    self.checks.unspliced(client, backend_number(entry.splice.backend).unwrap());
                    self.after(Duration::from_micros(200), Event::Destroyed(client));
                }
            }
            Action::Inspect { client, syn } => {
                let state =
                    kernel.entries.get(&client).map_or(EntryState::Missing, crate::kernel::Entry::state);
                self.proxy.engine.handle_entry_state(self.now, client, state, &syn);
            }
            // There is no fast path here.
            Action::Hasten(_) | Action::Look(_) | Action::Recall(_) | Action::Record(_) => {}
            Action::Tell(message) => self.told(&message),
        }
    }

    fn splice(&mut self, splice: KernelSplice) {
        if self.rng.chance(self.scenario.refusals) {
            self.note(|| format!("kernel refuses the splice of {}", splice.client));
            return self.proxy.engine.handle_splice_failed(self.now, splice.client);
        }
        self.note(|| format!("kernel splices {} to {}", splice.client, splice.backend));
        self.proxy.kernel.parked.remove(&splice.client);
        self.proxy.kernel.insert(self.now, splice);
    }

    fn told(&mut self, message: &FromProxy) {
        self.note(|| format!("TOLD {message:?}"));
        if let FromProxy::Ended { id, outcome } = message {
            self.judge_outcome(*id, outcome);
        }
        for session in self.proxy.subscribers.clone() {
            self.send_on(Channel::Orders, End::Client, session, Message::FromProxy(message.clone()));
        }
    }

    fn in_date(&self, client: ClientAddress, at: u64) -> bool {
        let client = self.clients.iter().find(|other| client_address(other.port) == client);
        client.is_some_and(|client| in_date(&client.habits.requests, at))
    }

    pub(super) fn judge_outcome(&mut self, id: u64, outcome: &Outcome) {
        let Some(client) = self.proxy.orders.get(&id).copied() else { return };
        match outcome {
            Outcome::Respliced { .. } => self.tally.resplices += 1,
            Outcome::Mismatch { .. } if self.proxy.dated.contains(&client) => {
                self.excuse(client, "another date behind a hole");
            }
            Outcome::Mismatch { at, .. }
                if self.proxy.bridged.contains(&client) && self.in_date(client, *at) =>
            {
                self.excuse(client, "another date behind a hole");
            }
            Outcome::Mismatch { .. } if self.proxy.bridged.contains(&client) && self.scenario.rechunks() => {
                self.excuse(client, "other chunks behind a hole");
            }
            Outcome::Mismatch { .. } if self.scenario.differs() => self.excuse(client, "mismatch"),
            Outcome::Mismatch { .. } => {
                self.checks.fail(format!("mismatch between equal backends: {outcome:?}"));
            }
            Outcome::AlternateFailed(_)
            | Outcome::AlternateSilent
            | Outcome::Gone(_)
            | Outcome::Elsewhere(_) => {}
        }
    }
}
