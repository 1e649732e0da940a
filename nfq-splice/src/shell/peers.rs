//! What recovery managers and operators say to the daemon, and what it tells them: each message goes to the shard that owns the client.

use cluster::control::{Client, FromProxy, Outcome, RecoveryOrder, ToProxy};
use cluster::server::{Incoming, PeerId};
use nft_rules::placement::queue_of;

use super::Shell;
use super::shard::ToShard;

impl Shell {
    pub(super) fn serve(&mut self) {
        for incoming in self.server.handle_ready::<ToProxy>() {
            match incoming {
                Incoming::Connected(_) => {}
                Incoming::Disconnected(peer, _) => self.forget(peer),
                Incoming::Message(peer, message) => self.handle_message(peer, message),
            }
        }
    }

    fn forget(&mut self, peer: PeerId) {
        self.subscribers.retain(|known| *known != peer);
        self.asking.forget(&peer);
    }

    fn handle_message(&mut self, peer: PeerId, message: ToProxy) {
        match message {
            ToProxy::Subscribe { epoch } => self.subscribe(peer, epoch),
            ToProxy::Recover(_)
            | ToProxy::Reset { .. }
            | ToProxy::Answer { .. }
            | ToProxy::Piece(_)
            | ToProxy::Swallowed { .. }
            | ToProxy::Backend { .. }
                if !self.subscribers.contains(&peer) =>
            {
                self.refuse(peer);
            }
            ToProxy::Recover(orders) => self.post_orders(orders),
            ToProxy::Reset { flow, end, reason } => {
                tracing::warn!(client = %flow.client, backend = %flow.backend, reason, "client reset");
                self.post(flow.client, ToProxy::Reset { flow, end, reason });
            }
            ToProxy::Answer { order, status, reason } => {
                let flow = order.flow;
                tracing::warn!(client = %flow.client, backend = %flow.backend, status, reason, "client answered");
                self.post(flow.client, ToProxy::Answer { order, status, reason });
            }
            ToProxy::Piece(piece) => self.post(piece.logged.flow.client, ToProxy::Piece(piece)),
            ToProxy::Swallowed { alternate, swallowed } => {
                self.post(swallowed.flow.client, ToProxy::Swallowed { alternate, swallowed });
            }
            ToProxy::Backend { backend, up } => {
                tracing::info!(%backend, up, "backend state changed");
                for shard in &self.shards {
                    shard.send(ToShard::Control(ToProxy::Backend { backend, up }));
                }
            }
            ToProxy::Status => self.ask(peer),
            ToProxy::Want { backend, state } => {
                let done = self.want(&backend, state);
                self.server.send(peer, &FromProxy::Done(done));
            }
            ToProxy::Reload => {
                let done = self.reload();
                self.server.send(peer, &FromProxy::Done(done));
            }
        }
    }

    pub(super) fn index(&self, client: Client) -> usize {
        usize::from(queue_of(client, self.shards.len() as u16))
    }

    /// To the shard that owns the client.
    fn post(&self, client: Client, message: ToProxy) {
        if let Some(shard) = self.shards.get(self.index(client)) {
            shard.send(ToShard::Control(message));
        }
    }

    /// To each shard those of its clients, in one message.
    fn post_orders(&self, orders: Vec<RecoveryOrder>) {
        let mut parts = vec![Vec::new(); self.shards.len()];
        for order in orders {
            if let Some(part) = parts.get_mut(self.index(order.flow.client)) {
                part.push(order);
            }
        }
        for (shard, part) in self.shards.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
            shard.send(ToShard::Control(ToProxy::Recover(part)));
        }
    }

    pub(super) fn tell(&mut self, message: &FromProxy) {
        if let FromProxy::Ended { id, outcome } = message {
            match outcome {
                Outcome::Respliced { resent, taken_in, .. } => {
                    tracing::info!(order = id, resent, taken_in, "re-spliced");
                }
                other => tracing::warn!(order = id, outcome = ?other, "recovery not done"),
            }
        }
        for peer in &self.subscribers {
            self.server.send(*peer, message);
        }
    }
}
