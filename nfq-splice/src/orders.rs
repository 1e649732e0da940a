//! What recovery managers and operators order.

use std::net::SocketAddr;

use cluster::config::BackendState;
use cluster::control::{FromProxy, LoggedPiece, Outcome, RecoveryOrder, Swallowed};
use packet::{Seq, Time};

use crate::action::Action;
use crate::engine::Engine;

impl Engine {
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

    /// What a client sent into the fence of its failed backend, which `alternate` stands in for.
    pub fn handle_swallowed(&mut self, now: Time, alternate: SocketAddr, swallowed: &Swallowed) {
        self.core.now = now;
        if let Some(mut flow) = self.take(swallowed.flow.client) {
            self.core.take_swallowed(&mut flow, alternate, swallowed);
            self.put(flow);
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
}
