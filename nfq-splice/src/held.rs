//! A client's bytes behind those that the log or the proxy has: no backend can have them yet.
//!
//! They are not acknowledged: the client owns them. Of bytes beyond a gap it is told (RFC 2018), because what it sent to the dead
//! backend is lost: it then repeats that at once, not after its retransmission timer's end.

use packet::{Reassembly, SegmentBuilder, Seq, TcpSegment};

use crate::common::Core;
use crate::flow::{Debts, Flow, State};
use crate::leg::ClientLeg;
use crate::sender::Piece;

/// Bytes in order, and pieces beyond gaps.
#[derive(Debug)]
pub(crate) struct Held {
    first: Seq,
    bytes: Vec<u8>,
    beyond: Reassembly,
    most: usize,
}

impl Held {
    /// Nothing yet; `first` comes next. `most` bytes of either sort.
    pub(crate) fn new(first: Seq, most: usize) -> Self {
        Self { first, bytes: Vec::new(), beyond: Reassembly::new(first, most), most }
    }

    /// The next byte in order.
    pub(crate) fn next(&self) -> Seq {
        self.beyond.next()
    }

    /// One after the last byte.
    pub(crate) fn end(&self) -> Seq {
        self.beyond.pieces().last().map_or(self.next(), |(seq, data)| seq + data.len() as u32)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.beyond.kept() == 0
    }

    /// False if there was no room for all of it.
    pub(crate) fn push(&mut self, seq: Seq, data: &[u8]) -> bool {
        if self.bytes.len() + data.len() > self.most {
            return data.is_empty();
        }
        let bytes = &mut self.bytes;
        self.beyond.push(seq, data, &mut |new| bytes.extend_from_slice(new)).refused == 0
    }

    /// All that is held, ascending.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Seq, &[u8])> {
        let in_order = (self.first, self.bytes.as_slice());
        std::iter::once(in_order).filter(|(_, bytes)| !bytes.is_empty()).chain(self.beyond.pieces())
    }

    /// The same behind `first` and what else is held, for another attempt.
    pub(crate) fn moved_to(&self, first: Seq) -> Self {
        let mut moved = Self::new(first, self.most);
        for (seq, data) in self.pieces() {
            moved.push(seq, data);
        }
        moved
    }

    /// The stretch beyond a gap in which `seq` lies.
    fn block(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let mut block: Option<(Seq, Seq)> = None;
        for (start, data) in self.beyond.pieces() {
            let end = start + data.len() as u32;
            match block {
                Some((from, to)) if to == start => block = Some((from, end)),
                Some((from, to)) if from.before_or_at(seq) && seq.before(to) => break,
                _ => block = Some((start, end)),
            }
        }
        block.filter(|(from, to)| from.before_or_at(seq) && seq.before(*to))
    }

    /// As long as a client without selective acknowledgements counts duplicates, it needs them as well.
    fn report(&self, leg: &ClientLeg, seq: Seq) -> Option<(Seq, Seq)> {
        self.block(seq).filter(|_| leg.options.sack_permitted)
    }
}

impl Debts {
    /// Nothing but an acknowledgement of less than the proxy has acknowledged to the client.
    pub(crate) fn is_outdated(&self, segment: &TcpSegment<'_>) -> bool {
        segment.sequence_length() == 0 && !segment.flags().rst() && segment.ack().before(self.client_next)
    }

    /// The backend has been sent all that it is owed, and its window has room up to `end`.
    fn has_room(&self, end: Seq) -> bool {
        let Self { to_backend, leg, .. } = self;
        let sent = to_backend.sent_seq() == to_backend.end_seq();
        to_backend.is_done() || (sent && end.before_or_at(to_backend.unacknowledged() + leg.window))
    }

    /// What passed, and the backend has no room for, would be lost.
    pub(crate) fn holds_back(&self, segment: &TcpSegment<'_>) -> bool {
        let end = segment.seq() + segment.payload().len() as u32;
        let plain = !segment.flags().fin() && !segment.flags().rst() && !segment.payload().is_empty();
        plain && self.client_next.before(end) && !self.has_room(end)
    }
}

impl Core {
    /// Keeps a segment's data within the bound.
    pub(crate) fn hold(&mut self, held: &mut Held, segment: &TcpSegment<'_>) {
        if !held.push(segment.seq(), segment.payload()) {
            self.counters.count("held_bytes_limit_dropped");
        }
    }

    /// A segment beyond a gap is answered at once (RFC 5681 §4.2).
    pub(crate) fn report_gap(
        &mut self,
        leg: &ClientLeg,
        held: &Held,
        segment: &TcpSegment<'_>,
        (seq, ack, window): (Seq, Seq, u32),
    ) {
        if segment.payload().is_empty() || !held.next().before(segment.seq()) {
            return;
        }
        let bare = leg.segment(self.now, seq, ack, window);
        self.send(SegmentBuilder { sack: held.report(leg, segment.seq()), ..bare }.build());
    }

    /// A client's data while its backend still takes older bytes from the proxy.
    pub(crate) fn hold_back(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Spliced(splice) = &mut flow.state else { return };
        let Some(debts) = &mut splice.debts else { return };
        self.hold(&mut debts.held, segment);
        let window = debts.to_backend.granted(debts.client_next, debts.leg.window);
        self.report_gap(&flow.leg, &debts.held, segment, (debts.point, debts.client_next, window));
    }

    /// What was held goes on as soon as the backend has room for it, once; the client repeats it if need be.
    pub(crate) fn release_held(&mut self, leg: &ClientLeg, debts: &mut Debts) {
        if debts.held.is_empty() || !debts.has_room(debts.held.end()) {
            return;
        }
        let empty = Held::new(debts.held.next(), self.settings.splice.hold_bytes);
        let held = std::mem::replace(&mut debts.held, empty);
        let (ack, window) = (debts.leg.irs + 1, leg.room(debts.point.max(leg.acked)));
        self.forward_held(leg, &held, &debts.leg, ack, window);
    }

    pub(crate) fn forward_held(
        &mut self,
        leg: &ClientLeg,
        held: &Held,
        to: &crate::leg::BackendLeg,
        ack: Seq,
        window: u32,
    ) {
        let mss = to.payload_bytes(self.mss());
        for (seq, bytes) in held.pieces() {
            for (place, data) in bytes.chunks(mss).enumerate() {
                let seq = seq + (place * mss) as u32;
                self.send_to_backend(leg, to, &Piece { seq, data, fin: false }, ack, window);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_is_one_stretch_beyond_a_gap() {
        let mut held = Held::new(Seq(u32::MAX), 1000);
        assert!(held.push(Seq(u32::MAX), b"ab"));
        assert_eq!((held.next(), held.block(Seq(0)), held.end()), (Seq(1), None, Seq(1)));
        for (seq, data) in [(9, b"xy"), (20, b"12"), (11, b"zz")] {
            assert!(held.push(Seq(seq), data));
        }
        for seq in 9..13 {
            assert_eq!(held.block(Seq(seq)), Some((Seq(9), Seq(13))));
        }
        assert_eq!(held.block(Seq(20)), Some((Seq(20), Seq(22))));
        assert_eq!((held.block(Seq(13)), held.end()), (None, Seq(22)));
        let moved = held.moved_to(Seq(10));
        assert_eq!(
            moved.pieces().map(|(seq, data)| (seq.0, data.len())).collect::<Vec<_>>(),
            [(10, 3), (20, 2)]
        );
    }

    #[test]
    fn there_is_a_bound() {
        let mut held = Held::new(Seq(0), 10);
        assert!(held.push(Seq(0), &[0; 10]));
        assert!(!held.push(Seq(10), &[0]));
        assert!(held.push(Seq(10), &[]));
    }
}
