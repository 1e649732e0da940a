//! Whether a run ended as it must, and what excuses a client that was cut off.
//!
//! A transfer is *recoverable* unless one of these holds, and a recoverable one that is cut off is a failure of the run:
//! an update whose effect is unknown was in flight; the backends answer differently; no backend is left that has not failed;
//! a daemon died that kept the connection in its memory alone; the log lost records; the end of the connection passed while
//! nobody judged it, or its failure was found while no manager listened.

use super::*;
use cluster::config::PoolState;

use crate::addresses::backend_number;
use crate::content::Request;

impl World {
    pub(super) fn excuse(&mut self, client: ClientAddress, why: &str) {
        if !self.excuses.contains_key(&client) {
            self.note(|| format!("excused, {client}: {why}"));
            self.excuses.insert(client, why.to_owned());
        }
    }

    pub(super) fn excuse_all(&mut self, why: &str) {
        for index in 0..self.clients.len() {
            self.excuse(client_address(self.clients[index].port), why);
        }
    }

    /// A reset by the manager needs a reason that the scenario explains.
    pub(super) fn excuse_reset(&mut self, client: ClientAddress, reason: &str) {
        if self.explains(client, reason) {
            self.excuse(client, reason);
        }
    }

    fn explains(&self, client: ClientAddress, reason: &str) -> bool {
        if reason.starts_with("update in flight") {
            return self.has_update(client);
        }
        // Runs draw how much of a request is kept.
        if reason.starts_with("an answered update was larger than recovery.request_bytes") {
            return self.is_separate();
        }
        let crashed = |daemon| self.scenario.crashes.iter().any(|crash| crash.daemon == daemon);
        if reason.starts_with("no alternate") {
            // On bad links a backend looks slow that is not.
            return self.failed_backends() > 1
                || !self.scenario.links[1].is_clean()
                || !self.scenario.links[2].is_clean();
        }
        if reason.starts_with("log began in mid-connection") {
            return crashed(Daemon::Transactionalizer);
        }
        if reason.starts_with("the client has taken the end") {
            let broken = self.scenario.breaks.iter().any(|broken| broken.channel == Channel::Judge);
            return broken || crashed(Daemon::Logger) || crashed(Daemon::Transactionalizer);
        }
        if reason.starts_with("the transactionalizer has forgotten") {
            return crashed(Daemon::Transactionalizer);
        }
        false
    }

    fn failed_backends(&self) -> usize {
        self.backends.iter().filter(|state| state.failed).count()
    }

    fn has_update(&self, client: ClientAddress) -> bool {
        let update = |request: &Request| matches!(request, Request::Post { idempotent: false, .. });
        let client = self.clients.iter().find(|known| client_address(known.port) == client);
        client.is_some_and(|client| client.habits.requests.iter().any(update))
    }

    pub(super) fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            let address = client_address(client.port);
            if client.phase == Phase::Running {
                return Err(format!("{address} is left hanging: {}", client.progress()));
            }
            if client.phase == Phase::Done {
                continue;
            }
            let Some(why) = self.excuses.get(&address) else {
                return Err(format!(
                    "{address} was cut off though it could be recovered: {}",
                    client.progress()
                ));
            };
            *self.tally.cut.entry(kind_of(why)).or_default() += 1;
        }
        Ok(())
    }

    /// With two backends gone, lost handshakes with the third may leave none: that is answered, too.
    pub(super) fn excuse_no_backend(&mut self) {
        let answered = |client: &Client| {
            client
                .violation
                .as_ref()
                .is_some_and(|why| why.contains("502 Bad Gateway") || why.contains("503 Service Unavailable"))
        };
        if !self.clients.iter().any(answered) || self.gone_backends() < 2 {
            return;
        }
        for client in self.clients.iter_mut().filter(|client| answered(client)) {
            client.violation = None;
            client.phase = Phase::Cut("no backend".to_owned());
            self.excuses.insert(client_address(client.port), "no backend answers".to_owned());
        }
    }

    /// Those that have failed, and those that look so because a link loses what they are asked.
    fn gone_backends(&self) -> usize {
        let lossy = self.scenario.links[2].loss > 0;
        let status = self.reader.engine.status();
        let suspected = status.backends.iter().filter(|(_, up)| lossy && !up);
        let suspected: BTreeSet<usize> =
            suspected.filter_map(|(address, _)| backend_number(*address)).collect();
        let backends = self.backends.iter().enumerate();
        backends.filter(|(number, state)| state.failed || suspected.contains(number)).count()
    }

    /// Each backend has its own state.
    fn is_separate(&self) -> bool {
        self.scenario.cluster.pools.values().any(|pool| pool.state == PoolState::Separate)
    }

    /// Every backend that has run any updates of a client has run the first ones that it asked for, in order and once.
    fn judge_separate_updates(&self) -> Result<(), String> {
        for client in &self.clients {
            let address = client_address(client.port);
            let asked = client.habits.requests.iter().filter_map(|request| match request {
                Request::Post { bytes, idempotent: false } => Some(*bytes),
                _ => None,
            });
            let asked: Vec<usize> = asked.collect();
            for server in &self.servers {
                let run = server.updates.iter().filter(|(by, _)| *by == address).map(|(_, bytes)| *bytes);
                let run: Vec<usize> = run.collect();
                if !asked.starts_with(&run) {
                    let number = server.number;
                    return Err(format!("updates {asked:?} of {address}: backend{number} has run {run:?}"));
                }
            }
        }
        Ok(())
    }

    /// No update is run more often than it was asked for, on all backends together.
    fn judge_updates(&self) -> Result<(), String> {
        if self.is_separate() {
            return self.judge_separate_updates();
        }
        for client in &self.clients {
            let address = client_address(client.port);
            let all = self.servers.iter().flat_map(|server| &server.updates);
            let mut run: Vec<usize> = all.filter(|(by, _)| *by == address).map(|(_, bytes)| *bytes).collect();
            for asked in &client.habits.requests {
                if let Request::Post { bytes, idempotent: false } = asked {
                    let place = run.iter().position(|run| run == bytes);
                    place.map(|place| run.swap_remove(place));
                }
            }
            if let Some(bytes) = run.first() {
                return Err(format!("an update of {bytes} bytes of {address} was run twice"));
            }
        }
        Ok(())
    }

    /// After hours without traffic nothing is left.
    pub(super) fn judge_end(&mut self) -> Result<(), String> {
        self.judge_updates()?;
        let manager = self.manager.engine.status().counters;
        for name in ["recoveries_running", "orders_open", "report_bytes_held"] {
            if manager.get(name).is_some_and(|left| *left > 0) {
                return Err(format!("{name} of the manager: {}", manager[name]));
            }
        }
        let status = self.proxy.engine.status();
        if status.total > 0 {
            return Err(format!("connections are never forgotten: {:?}", status.connections));
        }
        if let Some(client) = self.proxy.kernel.entries.keys().next() {
            return Err(format!("the entry of {client} is left"));
        }
        if let Some(client) = self.proxy.kernel.queued.first() {
            return Err(format!("{client} is queued for ever"));
        }
        if let Some(at) = self.proxy.engine.poll_timeout() {
            return Err(format!("a timer of the proxy is left: {at:?}"));
        }
        self.judge_loggers_end()
    }

    fn judge_loggers_end(&mut self) -> Result<(), String> {
        let gauges: BTreeMap<&str, u64> = self.logger.engine.gauges().into();
        if gauges["held_now"] > 0 {
            return Err(format!("the logger holds {} segments for ever", gauges["held_now"]));
        }
        let mut actions = Vec::new();
        self.reader.engine.handle_timers(self.now, &mut actions);
        let status = self.reader.engine.status();
        match status.counters.get("connections") {
            Some(left) if *left > 0 => Err(format!("the transactionalizer never forgets {left} connections")),
            _ => Ok(()),
        }
    }
}

/// Without the particulars.
fn kind_of(why: &str) -> String {
    why.split(['(', ':']).next().unwrap_or(why).trim().to_owned()
}
