//! The engine, its kernel and its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use cluster::control::{Client, Flow, FromProxy, LoggedPiece, LoggedRequest, RecoveryOrder, Rest};
use nfq_splice::{Action, Engine, EntryState, KernelSplice, Parked, Secret, Settings, Stage, Verdict};
use packet::icmp::too_big;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};

use super::peers::{
    BACKENDS, CLIENTS, CONFIG, Peer, REQUESTS, RESPONSE, backend, client, number_of_backend,
    number_of_client, service, syn_options,
};
use crate::Input;

pub(super) struct World {
    pub(super) engine: Engine,
    settings: Settings,
    secret: Secret,
    pub(super) now: Time,
    pub(super) entries: BTreeMap<Client, KernelSplice>,
    pub(super) parked: BTreeMap<Client, Parked>,
    pub(super) queued: BTreeSet<Client>,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) ended: BTreeMap<u64, usize>,
    inspections: Vec<(Client, Vec<u8>)>,
    orders: Vec<RecoveryOrder>,
    /// The last piece of a request that was asked for.
    asked: Option<LoggedRequest>,
    last_sent: Vec<u8>,
    clients: [Peer; CLIENTS],
    backends: [[Peer; BACKENDS]; CLIENTS],
}

impl World {
    pub(super) fn new(choices: u8) -> Self {
        let path = if choices & 1 == 0 { "kernel" } else { "userspace" };
        let cluster = Cluster::parse(&CONFIG.replace("PATH", path), "fuzz").expect("a good configuration");
        let (settings, secret) = (Settings::new(&cluster), Secret::new([choices; 16]));
        Self {
            engine: Engine::new(settings.clone(), secret.clone()),
            settings,
            secret,
            now: Time::from_millis(1 << (choices >> 3)),
            entries: BTreeMap::new(),
            parked: BTreeMap::new(),
            queued: BTreeSet::new(),
            counters: BTreeMap::new(),
            ended: BTreeMap::new(),
            inspections: Vec::new(),
            orders: Vec::new(),
            asked: None,
            last_sent: Vec::new(),
            clients: [Peer::default(); CLIENTS],
            backends: [[Peer::default(); BACKENDS]; CLIENTS],
        }
    }

    pub(super) fn client_syn(&mut self, from: usize, input: &mut Input<'_>) {
        let (bits, isn) = (input.byte(), Seq(input.word()));
        let options = syn_options(bits);
        let peer = Peer { isn, next: isn + 1, other: Seq(0), timestamps: options.timestamp.is_some() };
        self.clients[from] = peer;
        let segment = SegmentBuilder {
            seq: isn,
            flags: Flags::SYN,
            window: input.short(),
            syn: Some(options),
            timestamps: options.timestamp.map(|value| (value, 0)),
            ..SegmentBuilder::new(client(from), service())
        };
        let stage = self.stage(from);
        self.packet(segment.build(), stage);
    }

    pub(super) fn client_segment(&mut self, from: usize, input: &mut Input<'_>) {
        let choices = input.byte();
        let peer = self.clients[from];
        let payload = payload(choices, &REQUESTS, input);
        let (seq, ack) = (shifted(peer.next, choices & 16, input), shifted(peer.other, choices & 32, input));
        let segment = SegmentBuilder {
            seq,
            ack: (choices & 64 == 0).then_some(ack),
            flags: if choices & 128 == 0 { Flags(0) } else { Flags(input.byte() & !Flags::ACK.0) },
            window: if choices & 128 == 0 { 1000 } else { input.short() },
            timestamps: peer.timestamps.then(|| (input.word(), 0)),
            payload,
            ..SegmentBuilder::new(client(from), service())
        };
        if choices & 16 == 0 {
            self.clients[from].next = seq + payload.len() as u32 + u32::from(segment.flags.fin());
        }
        let stage = self.stage(from);
        self.packet(segment.build(), stage);
    }

    pub(super) fn backend_syn_ack(&mut self, from: usize, to: usize, input: &mut Input<'_>) {
        let (bits, isn) = (input.byte(), Seq(input.word()));
        let options = syn_options(bits);
        let peer = &mut self.backends[from][to];
        *peer = Peer { isn, next: isn + 1, timestamps: options.timestamp.is_some(), ..*peer };
        let segment = SegmentBuilder {
            seq: isn,
            ack: Some(peer.other),
            flags: Flags::SYN,
            window: 1 << (bits & 15),
            syn: Some(options),
            timestamps: options.timestamp.map(|value| (value, 1)),
            ..SegmentBuilder::new(backend(to), client(from))
        };
        let stage = self.stage(from);
        self.packet(segment.build(), stage);
    }

    pub(super) fn backend_segment(&mut self, from: usize, to: usize, input: &mut Input<'_>) {
        let choices = input.byte();
        let peer = self.backends[from][to];
        let payload =
            payload(choices, &[RESPONSE, &RESPONSE[..40], b"HTTP/1.1 200 OK\r\n\r\n", b"abcd"], input);
        let (seq, ack) = (shifted(peer.next, choices & 16, input), shifted(peer.other, choices & 32, input));
        let segment = SegmentBuilder {
            seq,
            ack: (choices & 64 == 0).then_some(ack),
            flags: if choices & 128 == 0 { Flags(0) } else { Flags(input.byte() & !Flags::ACK.0) },
            window: if choices & 128 == 0 { 500 } else { input.short() },
            timestamps: peer.timestamps.then(|| (input.word(), 0)),
            payload,
            ..SegmentBuilder::new(backend(to), client(from))
        };
        if choices & 16 == 0 {
            self.backends[from][to].next = seq + payload.len() as u32 + u32::from(segment.flags.fin());
        }
        let stage = self.stage(from);
        self.packet(segment.build(), stage);
    }

    /// Where the rules queue this client's packets.
    fn stage(&self, from: usize) -> Stage {
        if self.queued.contains(&client(from)) { Stage::Raw } else { Stage::Tracked }
    }

    pub(super) fn packet(&mut self, mut packet: Vec<u8>, stage: Stage) {
        let before = self.current_backends();
        let original = packet.clone();
        let verdict = self.engine.handle_packet(self.now, &mut packet, stage);
        if verdict == Verdict::Rewritten {
            self.passed(&original, &packet, stage, &before);
        }
        self.act();
    }

    /// An error about the last packet that was sent, or nearly.
    pub(super) fn icmp_error(&mut self, input: &mut Input<'_>) {
        let router = [10, 9, 9, input.byte()].into();
        let mtu = input.short();
        let Ok(segment) = TcpSegment::parse(&self.last_sent) else { return };
        let mut error = too_big(router, &segment, mtu);
        for (to, change) in error.iter_mut().skip(20).zip(input.blob()) {
            *to ^= change;
        }
        self.packet(error, Stage::Tracked);
    }

    /// The kernel says that the last packet sent was longer than its link takes.
    pub(super) fn too_long(&mut self) {
        let packet = std::mem::take(&mut self.last_sent);
        self.engine.handle_too_long(self.now, &packet);
        self.act();
    }

    pub(super) fn pass_time(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
            assert!(self.engine.poll_timeout().is_none_or(|next| next > self.now), "a timer that stays due");
            self.act();
        }
        self.now = end;
    }

    pub(super) fn order(&mut self, order: RecoveryOrder) {
        self.orders.push(order.clone());
        self.engine.handle_order(self.now, order);
        self.act();
    }

    /// The last order once more.
    pub(super) fn order_again(&mut self) {
        if let Some(order) = self.orders.last().cloned() {
            self.engine.handle_order(self.now, order);
            self.act();
        }
    }

    pub(super) fn next_order(&self) -> u64 {
        self.orders.len() as u64 + 1
    }

    pub(super) fn reset(&mut self, failed: Flow, ack: Option<Seq>) {
        self.engine.handle_reset(self.now, failed, ack);
        self.act();
    }

    pub(super) fn backend_state(&mut self, to: usize, up: bool) {
        self.engine.handle_backend_state(backend(to), up);
    }

    pub(super) fn refuse_splice(&mut self, from: usize) {
        if self.entries.remove(&client(from)).is_some() {
            self.engine.handle_splice_failed(self.now, client(from));
            self.act();
        }
    }

    pub(super) fn end_entry(&mut self, from: usize) {
        if self.entries.remove(&client(from)).is_some() {
            self.end_entry_twice(from);
        }
    }

    /// Late news of an entry that the engine itself deleted.
    pub(super) fn end_entry_twice(&mut self, from: usize) {
        if !self.entries.contains_key(&client(from)) {
            self.engine.handle_entry_destroyed(self.now, client(from));
            self.act();
        }
    }

    pub(super) fn answer_inspections(&mut self, state: EntryState) {
        for (client, syn) in std::mem::take(&mut self.inspections) {
            let state = if self.entries.contains_key(&client) { state } else { EntryState::Missing };
            self.engine.handle_entry_state(self.now, client, state, &syn);
            self.act();
        }
    }

    /// The daemon dies; the kernel's entries remain.
    pub(super) fn restart(&mut self) {
        self.engine = Engine::new(self.settings.clone(), self.secret.clone());
        self.counters.clear();
        self.inspections.clear();
        for entry in self.entries.values() {
            self.engine.handle_restored(self.now, entry);
        }
        for client in std::mem::take(&mut self.queued) {
            if !self.parked.contains_key(&client) {
                self.engine.handle_lost(client);
            }
        }
        for parked in self.parked.values() {
            self.engine.handle_parked(self.now, parked);
        }
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Send(packet) | Action::SendFirst(packet) => {
                    self.sent(&packet);
                    self.last_sent = packet;
                }
                Action::Suspend(client) => {
                    self.queued.insert(client);
                }
                Action::Resume(client) => {
                    self.queued.remove(&client);
                }
                Action::Splice(entry) => self.spliced(entry),
                Action::Park(parked) => {
                    self.parked.insert(parked.splice.client, parked);
                }
                Action::Unsplice(client) => {
                    self.entries.remove(&client);
                    self.parked.remove(&client);
                }
                Action::Inspect { client, syn } => self.inspections.push((client, syn)),
                Action::Tell(FromProxy::Ended { id, .. }) => *self.ended.entry(id).or_default() += 1,
                Action::Tell(FromProxy::Read(rest)) => self.asked = Some(rest.logged),
                // There is no fast path here.
                Action::Hasten(_)
                | Action::Look(_)
                | Action::Recall(_)
                | Action::Record(_)
                | Action::Tell(_) => {}
            }
        }
    }

    /// A request's end that is to be had from the log.
    pub(super) fn rest(&self, from: usize, to: usize) -> Rest {
        let flow = Flow { client: client(from), backend: self.backend_of(from).unwrap_or(backend(to)) };
        Rest {
            logger: "l".to_owned(),
            logged: LoggedRequest { flow, client_isn: 1, from: 5, bytes: 700_000 },
        }
    }

    /// What was asked for, or less or more than that, or that it is lost.
    pub(super) fn piece(&mut self, input: &mut Input<'_>) {
        let Some(mut logged) = self.asked else { return };
        let bytes = match input.choose(8) {
            0 => Err("overwritten".to_owned()),
            1 => Ok(input.blob().to_vec()),
            2 => {
                logged.from += 1;
                Ok(vec![0; logged.bytes as usize])
            }
            _ => Ok(vec![b'p'; logged.bytes as usize]),
        };
        self.engine.handle_piece(self.now, LoggedPiece { logged, bytes });
        self.act();
    }

    /// The peers learn from what they get.
    pub(super) fn learn(&mut self, segment: &TcpSegment<'_>) {
        let end = segment.seq() + segment.sequence_length();
        let Some(to) = number_of_client(segment.destination()) else {
            let pair = (number_of_client(segment.source()), number_of_backend(segment.destination()));
            if let (Some(from), Some(to)) = pair {
                let peer = &mut self.backends[from][to];
                let opens = segment.flags().syn();
                peer.other = if opens || peer.other.before(end) { end } else { peer.other };
            }
            return;
        };
        let peer = &mut self.clients[to];
        peer.other = if segment.flags().syn() || peer.other.before(end) { end } else { peer.other };
    }

    pub(super) fn client_number(&self, from: usize, input: &mut Input<'_>) -> Seq {
        shifted(self.clients[from].next, input.byte() & 1, input)
    }

    pub(super) fn backend_number(&self, from: usize, to: usize, input: &mut Input<'_>) -> Seq {
        let choices = input.byte();
        let to = self.backend_of(from).and_then(number_of_backend).unwrap_or(to);
        let peer = self.backends[from][to];
        shifted(if choices & 2 == 0 { peer.isn + 1 } else { peer.next }, choices & 1, input)
    }

    pub(super) fn backend_of(&self, from: usize) -> Option<SocketAddr> {
        self.current_backends().get(&client(from)).copied().flatten()
    }

    pub(super) fn current_backends(&self) -> BTreeMap<Client, Option<SocketAddr>> {
        let connections = self.engine.status().connections;
        connections.into_iter().map(|connection| (connection.client, connection.backend)).collect()
    }
}

fn shifted(exact: Seq, choice: u8, input: &mut Input<'_>) -> Seq {
    if choice == 0 { exact } else { exact + i32::from(input.short() as i16) as u32 }
}

fn payload<'a>(choices: u8, fixed: &[&'a [u8]; 4], input: &mut Input<'a>) -> &'a [u8] {
    let (kind, which) = (choices & 3, usize::from(choices >> 2 & 3));
    match kind {
        0 => &[],
        1 => fixed[which],
        2 => {
            let (from, length) = (usize::from(input.byte()), usize::from(input.byte()));
            let rest = fixed[which].get(from..).unwrap_or_default();
            rest.get(..length).unwrap_or(rest)
        }
        _ => input.blob(),
    }
}
