//! The bytes of one side of one connection.

use packet::Seq;
use transactionalizer::direction::{Direction, Taken};

use super::view::View;

/// Bytes kept beyond a hole; with more, what lies in the hole is given up.
const GAP_BYTES: usize = 64 << 20;

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the client sent.
    Client,
    /// What the backends sent, one after the other.
    Backend,
}

/// What a record added to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes.
    Bytes(Vec<u8>),
    /// The log holds more beyond a hole than is kept: the stream ends here.
    Hole,
}

/// Puts one side's bytes in order, each once, the first copy of each. A new handshake begins a new stream.
#[derive(Debug)]
pub struct Stream {
    side: Side,
    direction: Option<Direction>,
    left_out: u64,
}

impl Stream {
    /// Nothing seen yet.
    pub fn new(side: Side) -> Self {
        Self { side, direction: None, left_out: 0 }
    }

    /// What `view`, a record of the connection, adds. What a fence swallowed is not of the connection with its backend.
    pub fn follow(&mut self, view: &View<'_>) -> Option<Piece> {
        let segment = &view.segment;
        if view.is_apart() {
            return None;
        }
        let ours = view.from_backend() == (self.side == Side::Backend);
        if segment.flags().syn() && ours {
            return self.begin(segment.seq());
        }
        if !ours {
            if let Some(direction) = &mut self.direction {
                direction.handle_ack(segment.ack(), u16::MAX);
            }
            return None;
        }
        // A connection whose beginning was overwritten begins with the first byte that is there.
        let direction = self.direction.get_or_insert_with(|| Direction::new(segment.seq() - 1, GAP_BYTES));
        self.left_out += view.left_out() as u64;
        if self.left_out > 0 {
            return None;
        }
        let mut bytes = Vec::new();
        match direction.push(segment.seq(), segment.payload(), &mut |more| bytes.extend_from_slice(more)) {
            Taken::Overflow => Some(Piece::Hole),
            Taken::At(_) | Taken::Outside => (!bytes.is_empty()).then_some(Piece::Bytes(bytes)),
        }
    }

    /// Bytes that were left out of the log, as a large file's. Before the first of them the stream ends here.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Bytes beyond a hole that has not been filled.
    pub fn beyond_hole(&self) -> usize {
        self.direction.as_ref().map_or(0, Direction::kept)
    }

    fn begin(&mut self, isn: Seq) -> Option<Piece> {
        if self.direction.as_ref().is_none_or(|direction| direction.isn() != isn) {
            self.direction = Some(Direction::new(isn, GAP_BYTES));
        }
        None
    }
}
