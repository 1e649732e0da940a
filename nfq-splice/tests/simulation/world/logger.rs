//! The logger on its hop, failures, and their report.

use super::*;

impl World {
    pub(super) fn arrive_at_logger(&mut self, packet: Packet) {
        let segment = TcpSegment::parse(&packet.bytes).unwrap();
        let from_client = backend_number(segment.destination());
        let Some(number) = from_client.or(backend_number(segment.source())) else { return };
        let client = if from_client.is_some() { segment.source() } else { segment.destination() };
        if from_client.is_some() {
            self.log_client(client, number, &segment);
            // What ends the old backend's connection may pass.
            if self.fenced.contains(&(client, number)) && !segment.flags().rst() {
                return self.note(|| format!("fence drops {}", show(&packet.bytes)));
            }
            return self.transmit(2, Node::Backend(number), packet);
        }
        if self.fenced.contains(&(client, number)) {
            return self.note(|| format!("fence drops {}", show(&packet.bytes)));
        }
        let closes = segment.flags().fin() || segment.flags().rst();
        let held = self.killed[number] && closes;
        let twice = segment.flags().rst() && self.resets_twice();
        let Some(log) = self.logs.get_mut(&(client, number)) else {
            return self.transmit(1, Node::Proxy, packet);
        };
        if twice && log.responses.is_empty() {
            self.excuses
                .insert(client, "a copy of the reset of a withdrawn handshake hit the next one".to_owned());
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

    /// The proxy has withdrawn handshakes, and links may double its resets.
    fn resets_twice(&self) -> bool {
        let doubles = self.scenario.links[1..].iter().any(|link| link.duplication > 0);
        doubles && self.engine.status().counters.contains_key("ecn_learnt")
    }

    pub(super) fn log_client(&mut self, client: ClientAddress, number: usize, segment: &TcpSegment<'_>) {
        let key = (client, number);
        if segment.flags().syn() {
            self.fenced.remove(&key);
            let same = self.logs.get(&key).is_some_and(|log| !log.is_over() && log.irs() == segment.seq());
            if !same {
                let t_l = self.t_l.get(&client).copied().unwrap_or(0);
                self.logs.insert(key, FlowLog::new(segment, t_l));
            }
        } else if let Some(log) = self.logs.get_mut(&key) {
            log.note_client(segment);
        }
    }

    pub(super) fn trigger(&mut self, number: usize, logged: usize) {
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

    pub(super) fn kill(&mut self, index: usize) {
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
    pub(super) fn notice(&mut self, index: usize) {
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

    pub(super) fn manage(&mut self) {
        while let Some(action) = self.manager.poll_action(self.now) {
            match action {
                recovery_manager::Action::ToProxy(message) => {
                    let at = self.now + self.scenario.control_delay;
                    self.schedule(at, Event::ToProxy(self.session, message));
                }
                recovery_manager::Action::ToLog(..) => {}
                recovery_manager::Action::Tell(story) => self.note(|| format!("manager: {story:?}")),
            }
        }
    }
}
