//! One direction of a connection: from sequence numbers to a stream counted in 64 bits from the ISN.

use std::num::NonZeroU64;

use packet::{Reassembly, Seq};

/// Data beyond the receiver's window that is still believed: windows are learnt from what happens to be logged.
const WINDOW_SLACK: i64 = 1 << 20;

/// What became of a segment's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its new bytes are in the stream or kept beyond a gap; stream offset of the segment's first byte.
    At(i64),
    /// Far outside the receiver's window: the receiver ignores it, and so do we.
    Outside,
    /// More data beyond a gap than is kept: the stream is lost, the receiver has bytes that we have not.
    Overflow,
}

/// One sender's stream, and what its receiver has said of it.
#[derive(Debug)]
pub struct Direction {
    isn: Seq,
    stream: Reassembly,
    /// Bytes delivered: the stream offset of `stream.next()`.
    delivered: u64,
    /// Stream offset up to which the receiver has acknowledged.
    acked: u64,
    /// Greatest stream offset that the receiver's window has allowed; a guess until it has said so.
    edge: u64,
    edge_known: bool,
    /// The receiver's window from `acked` on, bytes.
    window: u32,
    greatest_window: u32,
    scale: u8,
    /// Stream offset behind the FIN, which counts as a byte.
    end: Option<NonZeroU64>,
    end_taken: bool,
    /// How often bytes came again with other content.
    pub conflicts: u32,
}

impl Direction {
    /// A stream whose SYN had the sequence number `isn`; at most `max` bytes are kept beyond a gap.
    pub fn new(isn: Seq, max: usize) -> Self {
        let stream = Reassembly::new(isn + 1, max);
        Self {
            isn,
            stream,
            delivered: 0,
            acked: 0,
            edge: 65_535,
            edge_known: false,
            window: 0,
            greatest_window: 0,
            scale: 0,
            end: None,
            end_taken: false,
            conflicts: 0,
        }
    }

    /// The receiver's window fields are to be shifted by `scale`.
    pub fn set_scale(&mut self, scale: u8) {
        self.scale = scale.min(14);
    }

    /// The initial sequence number.
    pub fn isn(&self) -> Seq {
        self.isn
    }

    /// Contiguous bytes logged.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes acknowledged by the receiver.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The receiver's highest acknowledgement.
    pub fn acknowledged(&self) -> Seq {
        self.seq(self.acked + u64::from(self.end_taken))
    }

    /// The receiver has acknowledged something, if only the SYN.
    pub fn is_acknowledged(&self) -> bool {
        self.edge_known
    }

    /// Bytes that the receiver takes from what it has acknowledged on; 0 if nothing was acknowledged yet.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Its window field as the receiver last sent it.
    pub fn window_field(&self) -> u16 {
        u16::try_from(self.window >> self.scale).unwrap_or(u16::MAX)
    }

    /// The most that the receiver ever took.
    pub fn greatest_window(&self) -> u32 {
        self.greatest_window
    }

    /// Bytes beyond a gap.
    pub fn kept(&self) -> usize {
        self.stream.kept()
    }

    /// Forgets what is kept beyond gaps, and keeps nothing more.
    pub fn keep_nothing(&mut self) {
        self.stream = Reassembly::new(self.stream.next(), 0);
    }

    /// The pieces beyond gaps: distance from the end of the contiguous bytes, and bytes; touching ones joined.
    pub fn beyond(&self) -> Vec<(u64, Vec<u8>)> {
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for (seq, data) in self.stream.pieces() {
            let at = i64::from(seq.since(self.stream.next())) as u64;
            match pieces.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == at => last.extend_from_slice(data),
                _ => pieces.push((at, data.to_vec())),
            }
        }
        pieces
    }

    /// Bytes that the receiver's window still allows.
    pub fn room(&self) -> u64 {
        self.edge.saturating_sub(self.delivered)
    }

    /// More was sent than the receiver has room for.
    pub fn exceeds_window(&self) -> bool {
        self.delivered > self.edge
    }

    /// The stream offset of a sequence number; negative before the first byte.
    pub fn offset(&self, seq: Seq) -> i64 {
        self.delivered as i64 + i64::from(seq.since(self.stream.next()))
    }

    /// The sequence number of a stream offset.
    pub fn seq(&self, offset: u64) -> Seq {
        self.isn + 1 + offset as u32
    }

    /// The stream has these bytes already.
    pub fn has(&self, seq: Seq, bytes: u32) -> bool {
        self.offset(seq) + i64::from(bytes) <= self.delivered as i64
    }

    /// Takes a segment's data in.
    pub fn push(&mut self, seq: Seq, data: &[u8], deliver: &mut dyn FnMut(&[u8])) -> Taken {
        let offset = self.offset(seq);
        if offset > self.edge as i64 + WINDOW_SLACK {
            return Taken::Outside;
        }
        let pushed = self.stream.push(seq, data, deliver);
        self.delivered += pushed.delivered as u64;
        self.conflicts = self.conflicts.saturating_add(u32::from(pushed.conflict));
        if pushed.refused > 0 { Taken::Overflow } else { Taken::At(offset) }
    }

    /// The next `length` bytes were left out of the log. `false`: of some of them a copy is kept, and nothing was done.
    pub fn skip(&mut self, length: u32, deliver: &mut dyn FnMut(&[u8])) -> bool {
        let before = self.stream.next();
        let skipped = self.stream.skip(length, deliver);
        self.delivered += u64::from(self.stream.next().since(before).unsigned_abs());
        skipped
    }

    /// The sender's FIN sits at `seq`.
    pub fn handle_fin(&mut self, seq: Seq) {
        let offset = self.offset(seq);
        // Before what has been delivered it is no FIN that the receiver would take.
        if offset >= self.delivered as i64 && offset <= self.edge as i64 + WINDOW_SLACK {
            self.end = self.end.or_else(|| NonZeroU64::new(offset as u64 + 1));
        }
    }

    /// The FIN has been logged and nothing before it is missing.
    pub fn finished(&self) -> bool {
        self.end.is_some_and(|end| end.get() == self.delivered + 1)
    }

    /// This acknowledgement covers the FIN.
    pub fn is_end(&self, ack: Seq) -> bool {
        self.finished() && self.offset(ack) == self.delivered as i64 + 1
    }

    /// The receiver has acknowledged the FIN: it lacks nothing, and takes nothing more.
    pub fn end_taken(&self) -> bool {
        self.end_taken
    }

    /// A FIN has been logged, but bytes before it have not.
    pub fn gap_before_fin(&self) -> bool {
        self.end.is_some_and(|end| end.get() > self.delivered + 1)
    }

    /// The receiver acknowledges up to `ack`. `false`: it claims more than was logged, which cannot be.
    pub fn handle_ack(&mut self, ack: Seq, window: u16) -> bool {
        let offset = self.offset(ack);
        if offset > (self.delivered + u64::from(self.finished())) as i64 {
            return false;
        }
        self.end_taken |= self.is_end(ack);
        if offset >= self.acked as i64 {
            self.acked = self.acked.max((offset as u64).min(self.delivered));
            self.window = u32::from(window) << self.scale;
            self.greatest_window = self.greatest_window.max(self.window);
            let edge = offset as u64 + u64::from(self.window);
            self.edge = if self.edge_known { self.edge.max(edge) } else { edge };
            self.edge_known = true;
        }
        true
    }

    /// The sender of this stream takes data from a segment with this acknowledgement: neither of what it has not sent, nor
    /// older than any window reaches back (RFC 5961 §5.2). Everything that was sent on is logged.
    pub fn acceptable_ack(&self, ack: Seq) -> bool {
        let offset = self.offset(ack);
        let oldest = self.acked as i64 - i64::from(self.greatest_window.max(65_535));
        (oldest..=(self.delivered + u64::from(self.finished())) as i64).contains(&offset)
    }

    /// A RST at `seq` is one that the receiver may take (RFC 5961 §3.2, seen from the middle): between what it has
    /// acknowledged and what was sent.
    pub fn acceptable_reset(&self, seq: Seq) -> bool {
        let offset = self.offset(seq);
        let sent = self.delivered + self.kept() as u64 + u64::from(self.end.is_some());
        let most = if self.kept() > 0 { self.edge } else { sent };
        offset >= self.acked as i64 && offset <= most.max(sent) as i64
    }

    /// A RST at `seq` lies behind all that was logged, where the receiver's window still is: it may have overtaken the sender's
    /// last bytes, and would be taken as soon as they come.
    pub fn reset_ahead(&self, seq: Seq) -> bool {
        let offset = self.offset(seq);
        offset > self.delivered as i64 && offset <= self.edge as i64 && !self.acceptable_reset(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction() -> Direction {
        Direction::new(Seq(u32::MAX - 2), 1 << 20)
    }

    fn push(direction: &mut Direction, offset: u32, data: &[u8]) -> Taken {
        let seq = direction.isn() + 1 + offset;
        direction.push(seq, data, &mut |_| {})
    }

    #[test]
    fn offsets_survive_the_wrap() {
        let mut stream = direction();
        assert_eq!(push(&mut stream, 0, b"abcdef"), Taken::At(0));
        assert_eq!(stream.seq(6), Seq(4));
        assert_eq!(stream.offset(Seq(u32::MAX)), 1);
        assert_eq!(push(&mut stream, 3, b"def"), Taken::At(3));
        assert_eq!(stream.delivered(), 6);
    }

    #[test]
    fn only_plausible_acknowledgements_count() {
        let mut stream = direction();
        push(&mut stream, 0, b"abcdef");
        assert!(stream.handle_ack(stream.seq(4), 10));
        assert!(!stream.handle_ack(stream.seq(7), 10), "beyond what was logged");
        assert!(stream.handle_ack(stream.seq(2), 10), "old ones are no news");
        assert_eq!(stream.acked(), 4);
        stream.handle_fin(stream.seq(6));
        assert_eq!(stream.acknowledged(), stream.seq(4));
        assert!(stream.handle_ack(stream.seq(7), 10), "the FIN's own");
        assert_eq!((stream.acked(), stream.acknowledged()), (6, stream.seq(7)));
    }

    #[test]
    fn acknowledgements_from_nowhere_make_their_data_unacceptable() {
        let mut stream = direction();
        push(&mut stream, 0, b"abcdef");
        stream.handle_ack(stream.seq(4), 10);
        assert!(stream.acceptable_ack(stream.seq(6)) && stream.acceptable_ack(stream.seq(0)));
        assert!(!stream.acceptable_ack(stream.seq(7)), "never sent");
        assert!(!stream.acceptable_ack(stream.seq(0) - 65_532), "older than any window");
    }

    #[test]
    fn pieces_beyond_a_gap_are_joined_where_they_touch() {
        let mut stream = direction();
        push(&mut stream, 0, b"abc");
        push(&mut stream, 5, b"fg");
        push(&mut stream, 7, b"h");
        push(&mut stream, 10, b"k");
        assert_eq!(stream.beyond(), [(2, b"fgh".to_vec()), (7, b"k".to_vec())]);
        push(&mut stream, 3, b"de");
        assert_eq!(stream.beyond(), [(2, b"k".to_vec())]);
    }

    #[test]
    fn a_gap_before_the_fin_is_seen_and_filled() {
        let mut stream = direction();
        stream.handle_fin(stream.seq(3));
        assert!(stream.gap_before_fin() && !stream.finished());
        push(&mut stream, 0, b"abc");
        assert!(stream.finished() && !stream.gap_before_fin());
    }

    #[test]
    fn data_far_outside_the_window_is_ignored_and_a_flood_beyond_a_gap_is_noticed() {
        let mut stream = direction();
        assert_eq!(push(&mut stream, 100 << 20, b"x"), Taken::Outside);
        let mut small = Direction::new(Seq(0), 4);
        assert_eq!(push(&mut small, 10, b"abcdef"), Taken::Overflow);
    }

    #[test]
    fn a_small_window_is_seen_to_be_closed() {
        let mut stream = direction();
        assert_eq!(stream.room(), 65_535, "a guess");
        stream.handle_ack(stream.seq(0), 6);
        push(&mut stream, 0, b"abcdef");
        assert_eq!(stream.room(), 0);
        stream.handle_ack(stream.seq(6), 0);
        assert_eq!(stream.room(), 0);
    }

    #[test]
    fn resets_outside_the_window_do_not_count() {
        let mut stream = direction();
        push(&mut stream, 0, b"abcdef");
        stream.handle_ack(stream.seq(2), 1000);
        assert!(stream.acceptable_reset(stream.seq(2)) && stream.acceptable_reset(stream.seq(6)));
        assert!(!stream.acceptable_reset(stream.seq(1)) && !stream.acceptable_reset(stream.seq(7)));
        let ahead = |offset| stream.reset_ahead(stream.seq(offset));
        assert_eq!([1, 2, 6, 7, 1002, 1003].map(ahead), [false, false, false, true, true, false]);
    }
}
