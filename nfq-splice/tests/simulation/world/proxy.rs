//! The proxy: packets through its kernel and the engine, orders, actions, crashes.

use sim::fast_path::Fate;

use super::forger::FORGED;
use super::*;

impl World {
    fn order_one(&mut self, order: RecoveryOrder) {
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
        // A date behind a hole is compared like everything there.
        let dated = |(_, piece): &(u64, Vec<u8>)| {
            let text = String::from_utf8_lossy(piece);
            ["Date: ", " 2026 ", "GMT"].iter().any(|part| text.contains(part))
        };
        if order.beyond.iter().any(dated) {
            self.dated.insert(order.id);
        }
        if !order.beyond.is_empty() {
            self.bridged += 1;
            self.holed.insert(client);
        }
        self.orders.insert(order.id, client);
        self.checks.recovering(client, Seq(order.client_next));
        self.before_order(client);
        self.engine.handle_order(self.now, order);
    }

    pub(super) fn order(&mut self, message: ToProxy) {
        match message {
            ToProxy::Recover(orders) => {
                for order in orders {
                    self.order_one(order);
                }
            }
            ToProxy::Reset { flow, end, reason } => {
                self.note(|| format!("RESET {}: {reason}", flow.client));
                self.excuse_reset(flow.client, &reason);
                self.before_order(flow.client);
                self.engine.handle_reset(self.now, flow, end.map(Seq));
            }
            ToProxy::Answer { order, status, reason } => {
                self.before_order(order.flow.client);
                self.engine.handle_answer_order(self.now, *order, status, &reason);
            }
            ToProxy::Piece(piece) => self.engine.handle_piece(self.now, piece),
            ToProxy::Swallowed { alternate, swallowed } => {
                self.engine.handle_swallowed(self.now, alternate, &swallowed);
            }
            ToProxy::Backend { backend, up } => self.engine.handle_backend_state(backend, up),
            ToProxy::Subscribe { .. } | ToProxy::Status | ToProxy::Want { .. } | ToProxy::Reload => {}
        }
        self.act(false);
    }

    pub(super) fn arrive_at_proxy(&mut self, mut packet: Packet) {
        match self.goes_fast(&mut packet.bytes) {
            Fate::Passed => {}
            Fate::HandedOver => return self.take_at_daemon(packet, None),
            Fate::Translated => return self.route(packet),
            Fate::Answered => return self.route_answer(packet),
            Fate::Taken => return self.note(|| format!("the program takes {}", show(&packet.bytes))),
        }
        let path = self.kernel.receive(self.now, &mut packet.bytes, service());
        let stage = match path {
            Path::Translated => return self.route(packet),
            Path::Raw => Stage::Raw,
            Path::Tracked => Stage::Tracked,
        };
        self.take_at_daemon(packet, Some(stage));
    }

    /// `stage`: `None` if the program has handed it over.
    fn take_at_daemon(&mut self, mut packet: Packet, stage: Option<Stage>) {
        if self.down {
            return self.note(|| format!("no daemon for {}", show(&packet.bytes)));
        }
        self.note(|| format!("queued {stage:?} {}", show(&packet.bytes)));
        let from_backend = packet.from_backend.is_some();
        let aside = self.before_packet(&packet.bytes);
        let verdict = if let Some(stage) = stage {
            self.engine.handle_packet(self.now, &mut packet.bytes, stage)
        } else {
            self.engine.handle_handed_over(self.now, &mut packet.bytes);
            Verdict::Drop
        };
        if let Some(client) = aside {
            self.engine.handle_set_aside(self.now, client);
        }
        if self.dies_now() {
            return;
        }
        match verdict {
            Verdict::Rewritten if stage == Some(Stage::Tracked) => {
                self.checks.fail("a packet was rewritten after conntrack".to_owned());
            }
            Verdict::Rewritten => self.route(packet),
            Verdict::Drop => {}
            Verdict::Segments(_) => self.checks.fail("a packet that is not large is to be cut".to_owned()),
            Verdict::Untouched => self.checks.fail("a segment was left alone".to_owned()),
        }
        if self.rng.chance(self.scenario.batches) {
            let pause = Duration::from_micros(self.rng.between(10, 300));
            self.deferred = true;
            return self.schedule(self.now + pause, Event::Act(self.session));
        }
        self.act(from_backend);
    }

    /// What leaves the proxy.
    pub(super) fn route(&mut self, mut packet: Packet) {
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
        if destination.ip() == stranger(1).ip() && source == service() {
            return;
        }
        if destination.ip() == client_host() {
            if source != service() {
                return self
                    .checks
                    .fail(format!("untranslated packet to the client: {}", show(&packet.bytes)));
            }
            let isn = self.hosts[0].initial(destination, service());
            self.checks.departs_to_client(&packet, isn);
            self.transmit(0, Node::Client, packet);
        } else if backend_number(destination).is_some() {
            self.checks.departs_to_backend(&packet, backend_number(destination).unwrap_or_default());
            self.transmit(1, Node::Logger, packet);
        } else {
            self.checks.fail(format!("untranslated packet to the backends: {}", show(&packet.bytes)));
        }
    }

    /// Executes the engine's actions. `anew`: some of them may be packets of a backend, sent anew: how old these are is not known.
    pub(super) fn act(&mut self, anew: bool) {
        let anew = std::mem::take(&mut self.deferred) || anew;
        while let Some(action) = self.engine.poll_action() {
            if self.dies_now() {
                return self.judge_untold(&action);
            }
            match action {
                // An ICMP error: hosts judge it by numbers that are wrong, or do not care.
                Action::Send(bytes) if TcpSegment::parse(&bytes).is_err() => {
                    if packet::icmp::IcmpError::parse(&bytes).is_err() {
                        self.checks.fail("neither TCP nor ICMP leaves the proxy".to_owned());
                    }
                }
                Action::Send(bytes) | Action::SendFirst(bytes) => {
                    self.serial += 1;
                    let born = self.born(&bytes, anew);
                    self.note(|| format!("engine sends {}", show(&bytes)));
                    self.route(Packet { bytes, born, from_backend: None, departed: 0, window: None });
                }
                Action::Suspend(client) => self.suspend(client),
                Action::Resume(client) => {
                    self.kernel.queued.remove(&client);
                    self.fast.let_begin(client);
                }
                Action::Splice(splice) => self.splice(splice),
                Action::Park(parked) => self.park(&parked),
                Action::Record(parked) => self.record(&parked),
                Action::Unsplice(client) => {
                    self.fast.withdraw(client);
                    self.kernel.parked.remove(&client);
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
                        .map_or(nfq_splice::EntryState::Missing, crate::kernel::Entry::state);
                    self.engine.handle_entry_state(self.now, client, state, &syn);
                }
                Action::Hasten(parked) => self.hasten(&parked),
                Action::Look(client) => self.look(client),
                Action::Recall(client) => self.recall(client),
                Action::Tell(message) => self.told(message),
            }
        }
    }

    /// The age of what the engine sends. It has what is queued after conntrack sent anew, also the forger's, as long as a restored
    /// connection's backend has not spoken.
    fn born(&self, bytes: &[u8], anew: bool) -> u64 {
        match TcpSegment::parse(bytes) {
            Ok(segment) if segment.payload() == forger::DATA => FORGED,
            _ if anew => AGE_UNKNOWN,
            _ => self.serial,
        }
    }

    pub(super) fn splice(&mut self, splice: KernelSplice) {
        if self.rng.chance(self.scenario.refusals) {
            self.note(|| format!("kernel refuses the splice of {}", splice.client));
            return self.engine.handle_splice_failed(self.now, splice.client);
        }
        self.note(|| format!("kernel splices {} to {}", splice.client, splice.backend));
        self.kernel.parked.remove(&splice.client);
        self.kernel.insert(self.now, splice);
        self.speed_up(&splice);
    }

    pub(super) fn told(&mut self, message: FromProxy) {
        self.note(|| format!("TOLD {message:?}"));
        if let FromProxy::Ended { id, outcome } = &message {
            self.judge_outcome(*id, outcome);
        }
        let at = self.now + self.scenario.control_delay;
        self.schedule(at, Event::FromProxy(message));
    }

    pub(super) fn judge_outcome(&mut self, id: u64, outcome: &Outcome) {
        match outcome {
            Outcome::Respliced { .. } => self.resplices += 1,
            Outcome::Mismatch { .. } if self.dated.contains(&id) => {
                self.excuse_order(id, "another date behind a hole");
            }
            // An alternate that failed, too, has sent the client its own date in the hole.
            Outcome::Mismatch { at, .. } if self.scenario.kills.len() > 1 && self.in_date(id, *at) => {
                self.excuse_order(id, "another date in a hole");
            }
            Outcome::Mismatch { .. } if self.scenario.rechunks() && self.holed_client(id).is_some() => {
                self.excuse_order(id, "other chunks behind a hole");
            }
            Outcome::Mismatch { .. } if self.scenario.differs() => self.excuse_order(id, "mismatch"),
            // The manager forgets the failure of a backend that the proxy has meanwhile chosen itself.
            Outcome::Elsewhere(_) if self.scenario.kills.len() > 1 => {
                self.excuse_order(id, "failed twice before it was connected");
            }
            Outcome::Mismatch { .. } => {
                self.checks.fail(format!("mismatch between equal backends: {outcome:?}"));
            }
            _ => {}
        }
    }

    /// The client's log had a hole, and the position is in the date of one of its answers.
    fn in_date(&self, order: u64, at: u64) -> bool {
        let client = self
            .holed_client(order)
            .and_then(|address| self.clients.iter().find(|client| client_address(client.port) == address));
        client.is_some_and(|client| sim::content::in_date(&client.habits.requests, at))
    }

    /// The order's client, if its log had a hole.
    fn holed_client(&self, order: u64) -> Option<ClientAddress> {
        self.orders.get(&order).filter(|client| self.holed.contains(*client)).copied()
    }
}
