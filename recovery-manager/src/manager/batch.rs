//! Orders that leave in one message: the connections of a dead backend fail together.

use cluster::control::{RecoveryOrder, TakeIn};

/// Bytes of the orders in one message, about: the proxy has begun with the first ones while the next are planned.
const BYTES: usize = 1 << 20;
/// Orders in one message.
const ORDERS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Batch {
    orders: Vec<RecoveryOrder>,
    bytes: usize,
}

impl Batch {
    /// True if it is full.
    pub(super) fn push(&mut self, order: RecoveryOrder) -> bool {
        self.bytes = self.bytes.saturating_add(bytes(&order));
        self.orders.push(order);
        self.bytes >= BYTES || self.orders.len() >= ORDERS
    }

    /// What is in it.
    pub(super) fn take(&mut self) -> Vec<RecoveryOrder> {
        self.bytes = 0;
        std::mem::take(&mut self.orders)
    }
}

fn bytes(order: &RecoveryOrder) -> usize {
    let take_in = match &order.take_in {
        TakeIn::Nothing => 0,
        TakeIn::Prefix(prefix) => prefix.head.len() + prefix.tail.len(),
        TakeIn::Range { overlap, whole, .. } => overlap.len() + whole.head.len() + whole.tail.len(),
    };
    let beyond: usize = order.beyond.iter().map(|(_, piece)| piece.len()).sum();
    order.replay.len() + order.resend.len() + take_in + beyond
}
