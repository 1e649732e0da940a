//! The table of connections, and who gets a packet.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::control::{Client, ProxyStatus};
use packet::{Flags, PacketError, TcpSegment, Time};

use crate::action::{Action, Stage, Verdict};
use crate::common::{Core, Settings};
use crate::flow::{Flow, State};
use crate::routing::Routing;
use crate::secret::Secret;
use crate::table::Table;

/// Connections that a status answer lists at most.
pub(crate) const STATUS_CONNECTIONS: usize = 10_000;

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
        let (client, from_client) = self.core.side_of(&segment);
        if stage == Stage::Fresh {
            self.drop_ended(client);
        }
        if !from_client {
            self.table.note_backend(client, &segment, now);
        }
        let done = self
            .table
            .with(&mut self.core, client, |core, flow| core.handle_known(flow, packet, from_client, stage));
        done.flatten().unwrap_or_else(|| {
            self.handle_unknown(packet, from_client);
            Verdict::Drop
        })
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
        } else if let Some(mut flow) = self.core.continue_handshake(segment) {
            if self.table.len() >= self.core.settings.splice.connections {
                return self.core.counters.count("syn_cookie_dropped_connection_limit");
            }
            self.core.handle_client(&mut flow, segment);
            self.put(flow);
        } else if !self.core.handle_early(segment) {
            self.core.handle_unknown_client(segment);
        }
    }

    pub(crate) fn handle_syn(&mut self, segment: &TcpSegment<'_>) {
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

    /// Connections that are being recovered now.
    pub fn recovering(&self) -> usize {
        self.table.recovering()
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
    /// It may be part of what an earlier daemon did not acknowledge; all else is refused.
    fn handle_unknown_client(&mut self, segment: &TcpSegment<'_>) {
        let flags = segment.flags();
        let speaks = flags.ack() && !flags.rst();
        if speaks && self.stateless.waits_for(self.now, segment.source()) {
            self.counters.count("unknown_client_segment_dropped");
        } else {
            self.counters.count("unknown_client_segment_refused");
            self.refuse(segment);
        }
    }

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
