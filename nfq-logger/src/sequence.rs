//! Which sequence numbers of one direction were logged.

use packet::Seq;
use segment_log::Flags;

/// Ranges behind holes that are remembered; more make the lowest hole count as filled.
const RANGES: usize = 8;
/// Nothing further away than the largest window (RFC 7323 §2.3) belongs to the connection.
const WINDOW: i32 = 1 << 30;

/// One direction of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// All before it was logged.
    next: Seq,
    /// Logged behind holes: from, to; ascending, neither touching nor overlapping.
    ranges: Vec<(Seq, Seq)>,
    /// A hole has counted as filled.
    gave_up: bool,
}

impl Sequence {
    /// `next` is the first number that is not known to be logged.
    pub(crate) fn new(next: Seq) -> Self {
        Self { next, ranges: Vec::new(), gave_up: false }
    }

    /// All before it was logged, or given up.
    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    /// A hole has counted as filled: [`next`](Self::next) says less than it seems to.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// All of `length` sequence numbers from `seq` on were logged.
    pub(crate) fn contains(&self, seq: Seq, length: u32) -> bool {
        let within = |(from, to): &(Seq, Seq)| from.before_or_at(seq) && (seq + length).before_or_at(*to);
        (seq + length).before_or_at(self.next) || self.ranges.iter().any(within)
    }

    /// What is to be said of a segment of `length` sequence numbers from `seq` on, which is logged now.
    pub(crate) fn log(&mut self, seq: Seq, length: u32) -> Flags {
        if length == 0 {
            return Flags::EMPTY;
        }
        let end = seq + length;
        let flags = self.classify(seq, end);
        if (-WINDOW..=WINDOW).contains(&seq.since(self.next)) && self.next.before(end) {
            self.insert(seq, end);
        }
        flags
    }

    fn classify(&self, seq: Seq, end: Seq) -> Flags {
        let overlaps = |(from, to): &(Seq, Seq)| from.before(end) && seq.before(*to);
        let seen = seq.before(self.next) || self.ranges.iter().any(overlaps);
        Flags::EMPTY.with(Flags::RETRANSMISSION, seen).with(Flags::OUT_OF_ORDER, self.next.before(seq))
    }

    fn insert(&mut self, seq: Seq, end: Seq) {
        let (mut from, mut to) = (seq, end);
        self.ranges.retain(|(other_from, other_to)| {
            let apart = to.before(*other_from) || other_to.before(from);
            if !apart {
                from = if other_from.before(from) { *other_from } else { from };
                to = if to.before(*other_to) { *other_to } else { to };
            }
            apart
        });
        let place = self.ranges.partition_point(|(other, _)| other.before(from));
        self.ranges.insert(place, (from, to));
        let reaches = |(from, _): &(Seq, Seq)| from.before_or_at(self.next);
        let fills = self.ranges.first().is_some_and(reaches);
        if self.ranges.len() > RANGES || fills {
            self.gave_up |= !fills;
            self.next = self.ranges.remove(0).1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const NONE: Flags = Flags::EMPTY;
    const OLD: Flags = Flags::RETRANSMISSION;
    const HOLE: Flags = Flags::OUT_OF_ORDER;

    #[test]
    fn holes_are_seen_and_filled() {
        let mut sequence = Sequence::new(Seq(100));
        assert_eq!(sequence.log(Seq(100), 10), NONE);
        assert_eq!(sequence.log(Seq(120), 10), HOLE);
        assert_eq!(sequence.log(Seq(120), 10), HOLE | OLD);
        assert_eq!(sequence.log(Seq(110), 10), NONE);
        assert_eq!(sequence.log(Seq(100), 30), OLD);
        assert_eq!(sequence.log(Seq(130), 0), NONE);
        assert_eq!(sequence.log(Seq(130), 1), NONE);
        assert!(!sequence.gave_up());
    }

    #[test]
    fn numbers_from_nowhere_are_not_remembered() {
        let mut sequence = Sequence::new(Seq(0));
        assert_eq!(sequence.log(Seq(0x7000_0000), 10), HOLE);
        assert_eq!(sequence.log(Seq(0x9000_0000), 10), OLD);
        assert_eq!(sequence, Sequence::new(Seq(0)));
    }

    #[test]
    fn too_many_holes_count_as_filled_from_below() {
        let mut sequence = Sequence::new(Seq(0));
        for n in 1..=9 {
            assert_eq!(sequence.log(Seq(n * 20), 10), HOLE);
        }
        assert_eq!(sequence.next, Seq(30));
        assert!(sequence.gave_up());
        assert_eq!(sequence.ranges.len(), RANGES);
    }

    proptest! {
        /// Against a set of single sequence numbers; the ranges stay few enough here never to be given up.
        #[test]
        fn agrees_with_a_set_of_numbers(
            start in any::<u32>(),
            segments in prop::collection::vec((0u32..8, 1u32..4), 1..60),
        ) {
            let mut sequence = Sequence::new(Seq(start));
            let mut logged = BTreeSet::new();
            for (offset, length) in segments {
                let (from, to) = (offset * 2, offset * 2 + length);
                let next = (0..u32::MAX).find(|n| !logged.contains(n)).unwrap();
                let expected = NONE
                    .with(OLD, (from..to).any(|n| logged.contains(&n)))
                    .with(HOLE, next < from);
                let all = (from..to).all(|n| logged.contains(&n));
                prop_assert_eq!(sequence.contains(Seq(start) + from, length), all);
                prop_assert_eq!(sequence.log(Seq(start) + from, length), expected);
                logged.extend(from..to);
            }
        }
    }
}
