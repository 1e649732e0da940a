//! The table of connections, and who gets a packet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::BackendState;
use cluster::control::{Client, FromProxy, LoggedPiece, Outcome, ProxyStatus, RecoveryOrder};
use packet::{Flags, PacketError, Seq, TcpSegment, Time};

use crate::action::{Action, Ended, EntryState, KernelSplice, Stage, Verdict};
use crate::common::{Core, Settings};
use crate::flow::{Closing, Flow, Splice, State};
use crate::leg::ClientLeg;
use crate::pass::Shortfall;
use crate::routing::Routing;
use crate::secret::Secret;
use crate::table::Table;

/// Connections that a status answer lists at most.
pub(crate) const STATUS_CONNECTIONS: usize = 10_000;

/// A SYN may wait in its queue so long: what the kernel knew when it came is then no longer true of a younger splice.
const FRESH_DELAY: Duration = Duration::from_secs(2);

/// When a connection was spliced is known so exactly.
const SPLICED_ERROR: Duration = Duration::from_millis(1);

/// An entry is in the kernel, and any earlier one of the same client gone, so long after it was asked for: with room to spare.
const SPLICED_BEFORE: Duration = Duration::from_secs(1);

/// All connections of one proxy.
pub struct Engine {
    pub(crate) core: Core,
    pub(crate) table: Table,
}

impl Engine {
    /// No connections yet.
    pub fn new(settings: Settings, secret: Secret) -> Self {
        let table = Table::new(settings.service);
        Self { core: Core::new(settings, secret), table }
    }

    /// A queued packet; rewritten in place if it goes on.
    pub fn handle_packet(&mut self, now: Time, packet: &mut [u8], stage: Stage) -> Verdict {
        self.core.now = now;
        let segment = match TcpSegment::parse(packet) {
            Ok(segment) => segment,
            Err(error) => return self.handle_other(packet, error),
        };
        let from_client = segment.destination() == self.core.settings.service;
        let client = if from_client { segment.source() } else { segment.destination() };
        if stage == Stage::Fresh {
            self.drop_ended(client);
        }
        let done = self
            .table
            .with(&mut self.core, client, |core, flow| core.handle_known(flow, packet, from_client, stage));
        done.flatten().unwrap_or_else(|| {
            self.handle_unknown(packet, from_client);
            Verdict::Drop
        })
    }

    /// The kernel knows no connection of this client, and that is no news of before the splice: it has ended.
    fn drop_ended(&mut self, client: Client) {
        let spliced = self.table.kernel_seen(client, self.core.now);
        if spliced.is_some_and(|seen| self.core.now.since(seen) >= FRESH_DELAY) {
            self.core.counters.count("port_reused");
            self.take(client);
        }
    }

    fn handle_unknown(&mut self, packet: &[u8], from_client: bool) {
        let Ok(segment) = TcpSegment::parse(packet) else { return };
        if !from_client && !self.core.settings.routing.knows(segment.source()) {
            self.core.counters.count("foreign_dropped");
        } else {
            self.handle_stranger(&segment, from_client);
        }
    }

    /// No whole TCP segment. The kernel puts fragments together before they are queued; what is one nevertheless is dropped.
    fn handle_other(&mut self, packet: &[u8], error: PacketError) -> Verdict {
        if error == PacketError::NotTcp {
            return self.handle_icmp(packet);
        }
        let event = if error == PacketError::Fragment { "fragment_dropped" } else { "malformed_dropped" };
        self.core.counters.count(event);
        Verdict::Drop
    }

    fn handle_stranger(&mut self, segment: &TcpSegment<'_>, from_client: bool) {
        let flags = segment.flags();
        if is_nonsense(flags) {
            self.core.counters.count("nonsense_dropped");
        } else if !from_client {
            self.core.counters.count("unknown_server_segment_dropped");
            self.core.refuse(segment);
        } else if flags.syn() && !flags.ack() && !flags.rst() && !flags.fin() {
            self.handle_syn(segment);
        } else if let Some(mut flow) = self.core.continue_setup(segment) {
            if self.table.len() >= self.core.settings.splice.connections {
                return self.core.counters.count("syn_cookie_dropped_connection_limit");
            }
            self.core.handle_client(&mut flow, segment);
            self.put(flow);
        } else if flags.ack()
            && !flags.rst()
            && self.core.stateless.waits_for(self.core.now, segment.source())
        {
            self.core.counters.count("unknown_client_segment_dropped");
        } else {
            self.core.counters.count("unknown_client_segment_refused");
            self.core.refuse(segment);
        }
    }

    fn handle_syn(&mut self, segment: &TcpSegment<'_>) {
        self.core.stateless.renew(self.core.now, segment.source());
        let limits = &self.core.settings.splice;
        if self.table.len() >= limits.connections {
            self.core.counters.count("syn_dropped_connection_limit");
        } else if self.table.half_open() >= limits.half_open {
            self.core.answer_without_state(segment);
        } else {
            let flow = self.core.accept(segment);
            self.put(flow);
        }
    }

    /// The kernel's answer to [`Action::Inspect`]: a SYN came on a connection that the kernel translates.
    pub fn handle_entry_state(&mut self, now: Time, client: Client, state: EntryState, syn: &[u8]) {
        self.core.now = now;
        let Ok(segment) = TcpSegment::parse(syn) else { return };
        if self.table.kernel_seen(client, now).is_none() {
            self.handle_packet(now, &mut syn.to_vec(), Stage::Tracked);
            return;
        }
        let Some(flow) = self.take(client) else { return };
        if state == EntryState::Open {
            self.core.challenge_by_backend(&flow, &segment);
            return self.put(flow);
        }
        self.core.counters.count("port_reused");
        self.core.act(Action::Unsplice(client));
        self.handle_syn(&segment);
    }

    /// The kernel would not take a splice: the connection goes on in userspace.
    pub fn handle_splice_failed(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.core.counters.count("kernel_splice_refused");
        let window = self.table.window(client);
        if let Some(mut flow) = self.take(client) {
            if let State::Spliced(splice) = &mut flow.state {
                splice.kernel = false;
                splice.window = splice.window.or(window);
                splice.idle = self.core.busy();
                self.core.suspend_packets(&mut flow);
                self.core.park(&mut flow);
            }
            self.put(flow);
        }
    }

    /// The kernel's entry of `client` is gone: the connection ended or timed out.
    pub fn handle_entry_destroyed(&mut self, now: Time, client: Client) {
        self.core.now = now;
        if let Some(flow) = self.take(client) {
            let ended = matches!(&flow.state, State::Spliced(splice) if splice.kernel);
            if ended {
                self.core.counters.count("connections_ended");
                self.core.stateless.spend(now, client);
            } else {
                self.put(flow);
            }
        }
    }

    /// An entry that was there when the daemon started.
    pub fn handle_restored(&mut self, now: Time, entry: &KernelSplice) {
        self.core.now = now;
        let (client_scale, server_scale) = entry.window_scales.unwrap_or((0, 0));
        let options = packet::SynOptions {
            mss: None,
            window_scale: entry.window_scales.map(|(client, _)| client),
            sack_permitted: entry.sack_permitted,
            timestamp: entry.timestamps.map(|_| 0),
        };
        let mut leg =
            ClientLeg { announced_scale: server_scale, ..self.core.client_leg(entry.client, options) };
        leg.overtake_forgotten();
        let splice = Splice {
            backend: entry.backend,
            delta: entry.delta,
            ts: entry.timestamps,
            server_scale,
            client_scale,
            lacks: Shortfall::default(),
            kernel: true,
            debts: None,
            closing: Closing::default(),
            window: None,
            idle: self.core.busy(),
        };
        self.core.counters.count("connections_restored");
        if entry.window_scales.is_some() {
            self.core.learn_scale(server_scale);
        }
        self.core.settings.routing.remember(entry.backend);
        self.put(Flow {
            leg,
            resplices: 0,
            suspended: false,
            parked: false,
            acted: 0,
            state: State::Spliced(splice),
            timer: None,
        });
    }

    /// A client whose packets an earlier daemon translated itself, and that nobody has restored: it is refused.
    pub fn handle_lost(&mut self, client: Client) {
        self.core.counters.count("connections_lost");
        self.core.stateless.lose(client);
    }

    /// A recovery planned by the manager.
    pub fn handle_order(&mut self, now: Time, order: RecoveryOrder) {
        self.core.now = now;
        self.core.counters.count("recovery_orders");
        let Some(mut flow) = self.take(order.flow.client) else {
            let outcome = Outcome::Gone("the proxy does not know this connection".to_owned());
            return self.core.act(Action::Tell(FromProxy::Ended { id: order.id, outcome }));
        };
        self.core.recover(&mut flow, order);
        self.put(flow);
    }

    /// A client that cannot be helped; `end` is behind its last logged response byte, in the failed backend's space.
    pub fn handle_reset(&mut self, now: Time, failed: cluster::control::Flow, end: Option<Seq>) {
        self.core.now = now;
        if let Some(mut flow) = self.take(failed.client) {
            self.core.give_up(&mut flow, failed.backend, end);
            self.put(flow);
        }
    }

    /// A client that cannot be helped and has nothing of the response yet; `order` is that of a recovery without an alternate.
    pub fn handle_answer_order(&mut self, now: Time, order: RecoveryOrder, status: u16, reason: &str) {
        self.core.now = now;
        if let Some(mut flow) = self.take(order.flow.client) {
            self.core.answer_for_backend(&mut flow, order, status, reason);
            self.put(flow);
        }
    }

    /// A piece of a request that was asked for.
    pub fn handle_piece(&mut self, now: Time, piece: LoggedPiece) {
        self.core.now = now;
        if let Some(mut flow) = self.take(piece.logged.flow.client) {
            self.core.take_piece(&mut flow, piece);
            self.put(flow);
        }
    }

    /// Clients whose connections the kernel translates.
    pub fn kernel_clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.table.kernel_clients()
    }

    /// Whether an entry of this client that ended between `begin` and `end` was that of its present connection.
    pub fn judge_ended(&self, client: Client, (begin, end): (Time, Time)) -> Ended {
        match self.table.kernel_seen(client, self.core.now) {
            Some(spliced) if spliced + SPLICED_BEFORE <= begin => Ended::Yes,
            Some(spliced) if spliced <= end + SPLICED_ERROR => Ended::Perhaps,
            Some(_) | None => Ended::No,
        }
    }

    /// New connections avoid a backend, or may use it again.
    pub fn handle_backend_state(&mut self, backend: SocketAddr, up: bool) {
        self.core.settings.routing.set(backend, up);
    }

    /// What the operator wants of the backend called `name`; false if there is none.
    pub fn handle_backend_order(&mut self, name: &str, state: BackendState) -> bool {
        self.core.settings.routing.order(name, state)
    }

    /// Another configuration, which may replace the one before. Connections stay as they are.
    pub fn handle_reload(&mut self, settings: Settings) {
        let used = self.table.backends().collect();
        self.core.settings.replace(settings, &used);
        let Core { learnt, settings, .. } = &mut self.core;
        learnt.retain(|backend| settings.routing.knows(backend));
    }

    /// Routes, pools and what is known of backends.
    pub fn routing(&self) -> &Routing {
        &self.core.settings.routing
    }

    /// The time of day, since 1970, for the `Date` of answers; until it is told, they have none.
    pub fn handle_time_of_day(&mut self, now: Time, since_epoch: Duration) {
        self.core.time_of_day = Some((now, since_epoch));
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.table.first_timer().into_iter().chain(self.core.resets.poll_timeout()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.core.now = now;
        while let Some(client) = self.table.next_due(now) {
            self.table.with(&mut self.core, client, Core::handle_flow_timeout);
        }
        while let Some(reset) = self.core.resets.poll_due(now) {
            self.core.send(reset);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.core.actions.is_empty() {
            self.acknowledge_alternates();
        }
        let action = self.core.actions.pop_front();
        if action.is_none() {
            self.core.round = self.core.round.wrapping_add(1).max(1);
        }
        action
    }

    /// One acknowledgement for all that came in one batch of packets: with many connections at once each packet counts.
    fn acknowledge_alternates(&mut self) {
        for client in std::mem::take(&mut self.core.owed_acks) {
            self.table.with(&mut self.core, client, Core::pay_acknowledgement);
        }
    }

    /// For `resplice status`.
    pub fn status(&self) -> ProxyStatus {
        let mut with = BTreeMap::new();
        for backend in self.table.backends() {
            *with.entry(backend).or_default() += 1;
        }
        ProxyStatus {
            connections: self.table.status().take(STATUS_CONNECTIONS).collect(),
            total: self.table.len() as u64,
            backends: self.core.settings.routing.states(&with),
            counters: self.counters(),
        }
    }

    /// What happened, and what is held against a bound at present.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.core.counters.snapshot();
        counters.extend(self.core.settings.routing.counters());
        counters.insert("half_open_now".to_owned(), self.table.half_open() as u64);
        counters.insert("setup_bytes_now".to_owned(), self.core.setup_bytes as u64);
        counters
    }

    pub(crate) fn take(&mut self, client: Client) -> Option<Flow> {
        self.table.take(&mut self.core, client)
    }

    pub(crate) fn put(&mut self, flow: Flow) {
        self.table.put(&mut self.core, flow);
    }
}

/// No TCP sends these: neither SYN nor RST nor ACK, or a SYN with FIN or RST.
pub(crate) fn is_nonsense(flags: Flags) -> bool {
    let opens_and_ends = flags.syn() && (flags.fin() || flags.rst());
    opens_and_ends || !(flags.syn() || flags.rst() || flags.ack())
}

/// Whether a segment goes on to the other side.
pub(crate) enum Pass {
    /// It does not.
    No,
    /// It does, translated.
    Translated(packet::Translation),
    /// It opens a new connection in the place of one that has ended, within the bounds on new ones.
    Reopens,
}

impl Core {
    /// A packet of a connection in the table; `None`: of a new one.
    fn handle_known(
        &mut self,
        flow: &mut Flow,
        packet: &mut [u8],
        from_client: bool,
        stage: Stage,
    ) -> Option<Verdict> {
        let Ok(segment) = TcpSegment::parse(packet) else { return Some(Verdict::Drop) };
        let before = self.actions.len();
        // Verdicts are given at once, actions after a batch of packets: what follows an action must not overtake it.
        let stage = if flow.acted == self.round { Stage::Tracked } else { stage };
        let pass = if from_client {
            self.handle_client(flow, &segment)
        } else {
            self.handle_backend(flow, &segment)
        };
        let verdict = match pass {
            Pass::No => Some(Verdict::Drop),
            Pass::Translated(translation) => Some(self.pass(flow, packet, &translation, stage)),
            Pass::Reopens => None,
        };
        if self.actions.len() > before {
            flow.acted = self.round;
        }
        verdict
    }

    /// Only the backend that the connection has now may speak: any other one is fenced.
    fn handle_backend(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> Pass {
        if flow.backend() != Some(segment.source()) {
            self.counters.count("fenced_segment_dropped");
            return Pass::No;
        }
        match &flow.state {
            State::Setup(_) => self.handle_connecting(flow, segment),
            State::Spliced(_) => return self.handle_spliced_backend(flow, segment),
            State::Recovering(_) => self.handle_alternate(flow, segment),
            State::Answering(_) | State::Gone => {}
        }
        Pass::No
    }

    fn handle_flow_timeout(&mut self, flow: &mut Flow) {
        match &flow.state {
            State::Setup(_) => self.handle_setup_timeout(flow),
            State::Spliced(_) => self.handle_spliced_timeout(flow),
            State::Recovering(_) => self.handle_recovery_timeout(flow),
            State::Answering(_) => self.handle_answering_timeout(flow),
            State::Gone => {}
        }
    }
}
