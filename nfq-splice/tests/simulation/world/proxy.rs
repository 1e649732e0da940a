//! The proxy: packets through its kernel and the engine, orders, actions, crashes.

use super::*;

impl World {
    pub(super) fn order(&mut self, message: ToProxy) {
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
                // A date behind a hole is compared like everything there.
                let dated = |(_, piece): &(u64, Vec<u8>)| {
                    let text = String::from_utf8_lossy(piece);
                    ["Date: ", " 2026 ", "GMT"].iter().any(|part| text.contains(part))
                };
                if order.beyond.iter().any(dated) {
                    self.dated.insert(order.id);
                }
                self.bridged += u32::from(!order.beyond.is_empty());
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
            ToProxy::Subscribe | ToProxy::Status | ToProxy::Want { .. } | ToProxy::Reload => {}
        }
        self.act(None);
    }

    pub(super) fn arrive_at_proxy(&mut self, mut packet: Packet) {
        let path = self.kernel.receive(self.now, &mut packet.bytes, service());
        let stage = match path {
            Path::Translated => return self.route(packet),
            Path::Raw => Stage::Raw,
            Path::Tracked => Stage::Tracked,
        };
        if self.down {
            return self.note(|| format!("no daemon for {}", show(&packet.bytes)));
        }
        self.note(|| format!("queued {stage:?} {}", show(&packet.bytes)));
        let verdict = self.engine.handle_packet(self.now, &mut packet.bytes, stage);
        if self.dies_now() {
            return;
        }
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
            Verdict::Untouched => self.checks.fail("a segment was left alone".to_owned()),
        }
        self.act(inherited);
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

    /// Executes the engine's actions.
    pub(super) fn act(&mut self, inherited: Option<u64>) {
        while let Some(action) = self.engine.poll_action() {
            if self.dies_now() {
                return;
            }
            match action {
                Action::Send(bytes) => {
                    self.serial += 1;
                    let born = inherited.unwrap_or(self.serial);
                    self.note(|| format!("engine sends {}", show(&bytes)));
                    self.route(Packet { bytes, born, from_backend: None, departed: 0, window: None });
                }
                Action::Suspend(client) => {
                    self.kernel.queued.insert(client);
                }
                Action::Resume(client) => {
                    self.kernel.queued.remove(&client);
                }
                Action::Splice(splice) => self.splice(splice),
                Action::Park(parked) => {
                    self.kernel.parked.insert(parked.splice.client, parked);
                }
                Action::Unsplice(client) => {
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
                Action::Tell(message) => self.told(message),
            }
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
    }

    pub(super) fn told(&mut self, message: FromProxy) {
        self.note(|| format!("TOLD {message:?}"));
        if let FromProxy::Ended { id, outcome } = &message {
            match outcome {
                Outcome::Respliced { .. } => self.resplices += 1,
                Outcome::Mismatch { .. } if self.dated.contains(id) => {
                    self.excuse_order(*id, "another date behind a hole");
                }
                Outcome::Mismatch { .. } if self.scenario.differs() => self.excuse_order(*id, "mismatch"),
                // The manager forgets the failure of a backend that the proxy has meanwhile chosen itself.
                Outcome::Gone(why) if why.contains("on another backend") && self.scenario.kills.len() > 1 => {
                    self.excuse_order(*id, "failed twice before it was connected");
                }
                Outcome::Mismatch { .. } => {
                    self.checks.fail(format!("mismatch between equal backends: {message:?}"));
                }
                _ => {}
            }
        }
        let at = self.now + self.scenario.control_delay;
        self.schedule(at, Event::FromProxy(message));
    }
}
