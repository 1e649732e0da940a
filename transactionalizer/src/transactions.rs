//! The map between a connection's stream offsets (counted from the ISN, 64 bits) and its transactions (paper §3.1, §5).
//!
//! Requests and responses follow each other without gaps: what stands between two belongs to the second. So it is enough to
//! know where each ends. The last [`KEPT`] answered transactions are remembered, and all that are not answered yet.

use std::collections::VecDeque;
use std::ops::Range;

/// Answered transactions that are remembered: with the one in progress they fill what a `VecDeque` of eight takes.
pub const KEPT: usize = 7;

/// Ends for which there is room always.
const ROOM: usize = KEPT + 1;

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's: requests.
    Requests,
    /// The server's: responses.
    Responses,
}

/// One stream: where messages end, ascending; `start` is where the first of them begins.
#[derive(Debug, Default)]
struct Ends {
    start: u64,
    ends: VecDeque<u64>,
}

impl Ends {
    fn last(&self) -> u64 {
        self.ends.back().copied().unwrap_or(self.start)
    }

    /// The place of the message that contains the byte at `offset`, from 0; one beyond the last if it is not complete.
    fn place(&self, offset: u64) -> Option<usize> {
        (offset >= self.start).then(|| self.ends.partition_point(|end| *end <= offset))
    }

    fn range(&self, place: usize) -> Option<Range<u64>> {
        let start = if place == 0 { self.start } else { *self.ends.get(place - 1)? };
        Some(start..*self.ends.get(place)?)
    }

    fn forget_first(&mut self) {
        if let Some(end) = self.ends.pop_front() {
            self.start = end;
        }
        // Many requests were outstanding, and are answered.
        if self.ends.len() <= ROOM && self.ends.capacity() > 4 * ROOM {
            self.ends.shrink_to(ROOM);
        }
    }
}

/// The map of one connection.
#[derive(Debug)]
pub struct Transactions {
    /// Ordinal before that of the first one remembered.
    before: u32,
    requests: Ends,
    responses: Ends,
}

impl Transactions {
    /// The first transaction will have the ordinal `base + 1`.
    pub fn new(base: u32) -> Self {
        Self { before: base, requests: Ends::default(), responses: Ends::default() }
    }

    /// The next request ends at `offset`.
    pub fn end_request(&mut self, offset: u64) {
        self.requests.ends.push_back(offset);
        self.forget();
    }

    /// The next response ends at `offset`.
    pub fn end_response(&mut self, offset: u64) {
        self.responses.ends.push_back(offset);
        self.forget();
    }

    /// Response bytes up to `offset` belong to no transaction: they count to the last response.
    pub fn pass_unasked(&mut self, offset: u64) {
        match self.responses.ends.back_mut() {
            Some(end) => *end = offset,
            None => self.responses.start = offset,
        }
    }

    fn forget(&mut self) {
        while self.responses.ends.len().min(self.requests.ends.len()) > KEPT {
            self.requests.forget_first();
            self.responses.forget_first();
            self.before += 1;
        }
    }

    /// T_L: the last transaction whose response is complete; the base if none is.
    pub fn t_l(&self) -> u32 {
        self.before + self.responses.ends.len() as u32
    }

    /// Offset after T_L's last response byte.
    pub fn end_of_t_l(&self) -> u64 {
        self.responses.last()
    }

    /// The transaction whose request or response contains the byte at `offset`; `None` if it has been forgotten. The byte
    /// must have been logged: of one that has not, it says which transaction would get it if the next message began there.
    pub fn at(&self, side: Side, offset: u64) -> Option<u32> {
        let place = self.side(side).place(offset)?;
        Some(self.before.saturating_add(1 + place as u32))
    }

    /// Where the request or response of a transaction lies; `None` if it is not complete, or forgotten.
    pub fn range(&self, side: Side, ordinal: u32) -> Option<Range<u64>> {
        let place = ordinal.checked_sub(self.before)?.checked_sub(1)?;
        self.side(side).range(place as usize)
    }

    fn side(&self, side: Side) -> &Ends {
        match side {
            Side::Requests => &self.requests,
            Side::Responses => &self.responses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain list of everything that ever ended.
        #[test]
        fn both_ways_agree_with_a_list(
            base in 0_u32..100_000,
            lengths in prop::collection::vec((1_u64..50, 1_u64..50, 0_usize..4), 1..80),
        ) {
            let mut map = Transactions::new(base);
            let (mut requests, mut responses) = (vec![0], vec![0]);
            for (asked, answered, behind) in lengths {
                requests.push(requests.last().unwrap() + asked);
                map.end_request(*requests.last().unwrap());
                while responses.len() + behind < requests.len() {
                    responses.push(responses.last().unwrap() + answered);
                    map.end_response(*responses.last().unwrap());
                }
            }
            prop_assert_eq!(map.t_l(), base + responses.len() as u32 - 1);
            prop_assert_eq!(map.end_of_t_l(), *responses.last().unwrap());
            let first = responses.len().saturating_sub(KEPT + 1);
            for (side, ends) in [(Side::Requests, &requests), (Side::Responses, &responses)] {
                for (index, pair) in ends.windows(2).enumerate() {
                    let ordinal = base + index as u32 + 1;
                    let known = (index >= first).then(|| pair[0]..pair[1]);
                    prop_assert_eq!(map.range(side, ordinal), known.clone());
                    for offset in pair[0]..pair[1] {
                        prop_assert_eq!(map.at(side, offset), known.as_ref().map(|_| ordinal));
                    }
                }
                prop_assert_eq!(map.range(side, base + ends.len() as u32), None);
                prop_assert_eq!(map.at(side, *ends.last().unwrap()), Some(base + ends.len() as u32));
            }
        }
    }

    #[test]
    fn a_greeting_belongs_to_no_transaction() {
        let mut map = Transactions::new(0);
        map.pass_unasked(10);
        assert_eq!((map.t_l(), map.end_of_t_l(), map.at(Side::Responses, 9)), (0, 10, None));
        map.end_request(5);
        map.end_response(30);
        map.pass_unasked(33);
        assert_eq!((map.t_l(), map.end_of_t_l(), map.range(Side::Responses, 1)), (1, 33, Some(10..33)));
    }

    #[test]
    fn an_answer_may_be_complete_before_its_request() {
        let mut map = Transactions::new(0);
        map.end_response(7);
        assert_eq!((map.range(Side::Requests, 1), map.range(Side::Responses, 1)), (None, Some(0..7)));
        map.end_request(100);
        assert_eq!(map.range(Side::Requests, 1), Some(0..100));
    }
}
