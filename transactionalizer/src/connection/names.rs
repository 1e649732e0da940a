//! Transactions by their names and by sequence numbers, and which of them come next.

use cluster::transaction::TransactionId;
use packet::Seq;

use crate::direction::Direction;
use crate::transactions::Side;

use super::Connection;

impl Connection {
    /// T_L.
    pub fn t_l(&self) -> u32 {
        self.transactions.t_l()
    }

    /// The transaction that the byte at `seq`, which must have been logged, belongs to; `None` if it is long over, or the
    /// transactions cannot be told apart.
    pub fn transaction_at(&self, side: Side, seq: Seq) -> Option<TransactionId> {
        let direction = self.direction(side);
        let offset = u64::try_from(direction.offset(seq)).ok().filter(|at| *at < direction.delivered())?;
        let ordinal = self.transactions.at(side, offset).filter(|_| self.opaque.is_none())?;
        Some(TransactionId::new(self.flow().client, ordinal))
    }

    /// First sequence number and length of a transaction's request or response; `None` if it is not complete, or long over.
    pub fn place_of(&self, side: Side, id: TransactionId) -> Option<(Seq, u64)> {
        let ordinal = id.ordinal_near(self.transactions.t_l());
        let range = self.transactions.range(side, ordinal).filter(|_| id.client == self.flow().client)?;
        Some((self.direction(side).seq(range.start), range.end - range.start))
    }

    fn direction(&self, side: Side) -> &Direction {
        match side {
            Side::Requests => &self.client,
            Side::Responses => &self.backend,
        }
    }

    /// A client's segment at `seq` is the next expected one; `None`: there is a gap before it.
    pub fn expected_from_client(&self, seq: Seq) -> Option<bool> {
        expected(self.client.offset(seq) - self.client.delivered() as i64)
    }

    /// A backend's segment at `seq` is the next expected one; `None`: there is a gap before it.
    pub fn expected_from_backend(&self, seq: Seq) -> Option<bool> {
        expected(self.backend.offset(seq) - self.backend.delivered() as i64)
    }
}

/// `Some(true)`: exactly the next; `Some(false)`: old; `None`: beyond a gap.
fn expected(distance: i64) -> Option<bool> {
    (distance <= 0).then_some(distance == 0)
}
