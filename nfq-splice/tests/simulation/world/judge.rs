//! Whether a run ended as it must, and what excuses a client that was cut off.

use super::*;
use crate::content::Request;

impl World {
    /// A reset by the manager needs a reason that the scenario explains.
    pub(super) fn excuse_reset(&mut self, client: ClientAddress, reason: &str) {
        let explained = reason.contains("update in flight")
            || reason.contains("no handshake was logged")
            || self.scenario.differs()
            || self.triggered.iter().filter(|triggered| **triggered).count() > 1
            || !self.scenario.crashes.is_empty();
        if explained {
            self.excuses.insert(client, reason.to_owned());
        }
    }

    /// With two backends gone, lost handshakes with the third may leave none: that is answered, too.
    pub(super) fn excuse_no_backend(&mut self) {
        let gone = self.triggered.iter().filter(|triggered| **triggered).count();
        for client in self.clients.iter_mut().filter(|_| gone > 1) {
            if client.violation.as_ref().is_some_and(|why| why.contains("502 Bad Gateway")) {
                client.violation = None;
                client.phase = Phase::Cut("no backend".to_owned());
                self.excuses.insert(client_address(client.port), "no backend answers".to_owned());
            }
        }
    }

    pub(super) fn excuse_order(&mut self, id: u64, why: &str) {
        if let Some(client) = self.orders.get(&id) {
            self.excuses.insert(*client, why.to_owned());
        }
    }

    pub(super) fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            let address = client_address(client.port);
            let excused = self.excuses.contains_key(&address);
            if client.phase != Phase::Done && !excused {
                return Err(format!("{address} is not done: {}", client.progress()));
            }
            if client.phase == Phase::Running {
                return Err(format!("{address} is left hanging: {}", client.progress()));
            }
        }
        Ok(())
    }

    /// No update is run more often than it was asked for, on all backends together.
    fn judge_updates(&self) -> Result<(), String> {
        for client in &self.clients {
            let address = client_address(client.port);
            let mut run: Vec<usize> = Vec::new();
            for (by, bytes) in self.servers.iter().flat_map(|server| &server.updates) {
                run.extend((*by == address).then_some(*bytes));
            }
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

    pub(super) fn judge_end(&mut self) -> Result<(), String> {
        self.judge_updates()?;
        let manager = self.manager.status().counters;
        for name in ["recoveries_running", "orders_open", "report_bytes_held"] {
            if manager.get(name).is_some_and(|left| *left > 0) {
                return Err(format!("{name} of the manager: {}", manager[name]));
            }
        }
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
        if let Some(client) = self.fast.clients().next() {
            return Err(format!("{client} is left on the fast path"));
        }
        match self.engine.poll_timeout() {
            Some(at) => Err(format!("a timer is left: {at:?}")),
            None => Ok(()),
        }
    }
}
