//! Where some of the records begin, so that old ones can be given up without a look at each: they have long left the processor's cache.

use std::collections::VecDeque;

/// Of a full ring so many records are known: what is given up at once is a small part of it.
const KNOWN: u64 = 4096;

/// Positions of records, ascending, at least a 4096th of the ring from each other.
#[derive(Debug)]
pub(super) struct Places {
    known: VecDeque<u64>,
    distance: u64,
}

impl Places {
    /// None yet, of a ring of so many bytes.
    pub(super) fn new(ring_bytes: u64) -> Self {
        Self { known: VecDeque::new(), distance: ring_bytes / KNOWN }
    }

    /// A record begins there, behind all others.
    pub(super) fn note(&mut self, position: u64) {
        if self.known.back().is_none_or(|last| position - last >= self.distance) {
            self.known.push_back(position);
        }
    }

    /// The first known one that does not begin before `frontier`. Those before it are forgotten.
    pub(super) fn first_from(&mut self, frontier: u64) -> Option<u64> {
        while self.known.front().is_some_and(|position| *position < frontier) {
            self.known.pop_front();
        }
        self.known.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_the_next_one_is_found() {
        let mut places = Places::new(KNOWN * 64);
        (0..KNOWN * 64).step_by(16).for_each(|position| places.note(position));
        assert_eq!(places.known.len() as u64, KNOWN);
        assert_eq!([0, 1, 64, 65].map(|frontier| places.first_from(frontier)), [0, 64, 64, 128].map(Some));
        assert_eq!(places.first_from(KNOWN * 64), None);
    }
}
