//! What is still to come of the bytes that a backend is owed: a large request is not held here, but had in pieces, at the
//! backend's pace, from the log of the connection that failed (paper §4.3).

use std::collections::VecDeque;
use std::time::Duration;

use cluster::control::{LoggedPiece, LoggedRequest, PIECE_BYTES, Rest};
use packet::Time;

/// What was asked for is asked for again after this: a message may be lost with its connection.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Then it is given up.
const TRIES: u32 = 20;
/// Less than this at hand that was not acknowledged: the next piece is asked for.
const AHEAD: usize = 4 * PIECE_BYTES;

/// A part of what is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// It is here: it was at hand when an earlier backend failed.
    Here(Vec<u8>),
    /// It is in a logger's memory.
    Logged(Rest),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Logged(rest) => usize::try_from(rest.logged.bytes).unwrap_or(usize::MAX),
        }
    }
}

/// Bytes to come, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supply {
    parts: VecDeque<Part>,
    /// When the first part's beginning will be asked for again, and how often it has been.
    asked: Option<(Time, u32)>,
}

/// What came of a piece, or of asking for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Supplied {
    /// It is another one than is expected: one that was asked for twice.
    Other,
    /// The next bytes.
    Bytes(Vec<u8>),
    /// They cannot be had.
    Lost(String),
}

impl Supply {
    pub(crate) fn new(rest: Option<Rest>) -> Self {
        let parts = rest.into_iter().filter(|rest| rest.logged.bytes > 0).map(Part::Logged).collect();
        Self { parts, asked: None }
    }

    /// How many are to come.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// More behind them.
    pub(crate) fn append(&mut self, bytes: &[u8], later: &Self) {
        if !bytes.is_empty() {
            self.parts.push_back(Part::Here(bytes.to_vec()));
        }
        self.parts.extend(later.parts.iter().cloned());
    }

    /// The same for another backend: nothing has been asked for.
    pub(crate) fn again(&self) -> Self {
        Self { parts: self.parts.clone(), asked: None }
    }

    /// The next bytes, if they are here and fewer than it takes `at_hand` already.
    pub(crate) fn take_here(&mut self, at_hand: usize) -> Option<Vec<u8>> {
        match self.parts.pop_front() {
            Some(Part::Here(bytes)) if at_hand < AHEAD => Some(bytes),
            Some(other) => {
                self.parts.push_front(other);
                None
            }
            None => None,
        }
    }

    /// What to ask for now, when `at_hand` bytes are not acknowledged yet.
    pub(crate) fn ask(&mut self, now: Time, at_hand: usize) -> Option<Rest> {
        let Some(Part::Logged(rest)) = self.parts.front() else { return None };
        let tries = match self.asked {
            Some((again, tries)) if again <= now && tries < TRIES => tries,
            None if at_hand < AHEAD => 0,
            _ => return None,
        };
        self.asked = Some((now + ASK_AGAIN, tries + 1));
        let logged = LoggedRequest { bytes: rest.logged.bytes.min(PIECE_BYTES as u64), ..rest.logged };
        Some(Rest { logger: rest.logger.clone(), logged })
    }

    /// When [`Supply::ask`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.asked.map(|(again, _)| again)
    }

    /// Nobody answers.
    pub(crate) fn is_given_up(&self, now: Time) -> bool {
        self.asked.is_some_and(|(again, tries)| again <= now && tries >= TRIES)
    }

    /// The answer to what was asked.
    pub(crate) fn take(&mut self, piece: LoggedPiece) -> Supplied {
        let Some(Part::Logged(Rest { logged, .. })) = self.parts.front_mut() else { return Supplied::Other };
        let LoggedRequest { flow, client_isn, from, bytes } = piece.logged;
        let expected = flow == logged.flow && client_isn == logged.client_isn && from == logged.from;
        if !expected || bytes > logged.bytes || bytes == 0 {
            return Supplied::Other;
        }
        self.asked = None;
        match piece.bytes {
            Ok(data) if data.len() as u64 == bytes => {
                logged.from += bytes;
                logged.bytes -= bytes;
                if logged.bytes == 0 {
                    self.parts.pop_front();
                }
                Supplied::Bytes(data)
            }
            Ok(data) => Supplied::Lost(format!("{} bytes of a request came instead of {bytes}", data.len())),
            Err(why) => Supplied::Lost(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::control::Flow;

    fn rest(from: u64, bytes: u64) -> Rest {
        let address = "10.0.0.1:80".parse().unwrap();
        let flow = Flow { client: address, backend: address };
        Rest { logger: "l".to_owned(), logged: LoggedRequest { flow, client_isn: 7, from, bytes } }
    }

    fn answer(asked: &Rest) -> LoggedPiece {
        LoggedPiece { logged: asked.logged, bytes: Ok(vec![1; asked.logged.bytes as usize]) }
    }

    #[test]
    fn pieces_come_one_after_the_other() {
        let now = Time::from_millis(0);
        let (mut supply, mut at) = (Supply::new(Some(rest(10, 600_000))), 10);
        for expected in [PIECE_BYTES as u64, PIECE_BYTES as u64, 600_000 - 2 * PIECE_BYTES as u64] {
            let asked = supply.ask(now, 0).unwrap();
            assert_eq!((asked.logged.from, asked.logged.bytes), (at, expected));
            assert_eq!(supply.ask(now, 0), None, "one at a time");
            at += expected;
            assert!(
                matches!(supply.take(answer(&asked)), Supplied::Bytes(bytes) if bytes.len() as u64 == expected)
            );
            assert_eq!(supply.take(answer(&asked)), Supplied::Other, "it was asked for twice");
        }
        assert!(supply.is_empty() && supply.bytes() == 0 && supply.deadline().is_none());
    }

    #[test]
    fn nothing_is_asked_for_that_there_is_no_room_for() {
        let mut supply = Supply::new(Some(rest(0, 10)));
        assert_eq!(supply.ask(Time::from_millis(0), AHEAD), None);
        assert!(supply.ask(Time::from_millis(0), AHEAD - 1).is_some());
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_again_and_at_last_given_up() {
        let mut supply = Supply::new(Some(rest(0, 10)));
        let mut now = Time::from_millis(0);
        for _ in 0..TRIES {
            assert!(!supply.is_given_up(now));
            assert!(supply.ask(now, AHEAD - 1).is_some());
            now = supply.deadline().unwrap();
        }
        assert!(supply.ask(now, 0).is_none() && supply.is_given_up(now));
    }

    #[test]
    fn what_is_overwritten_or_has_another_length_is_lost() {
        for bytes in [Err("overwritten".to_owned()), Ok(vec![0; 9])] {
            let mut supply = Supply::new(Some(rest(0, 10)));
            let asked = supply.ask(Time::from_millis(0), 0).unwrap();
            assert!(matches!(supply.take(LoggedPiece { logged: asked.logged, bytes }), Supplied::Lost(_)));
        }
    }

    #[test]
    fn what_an_earlier_failure_left_over_comes_last() {
        let mut supply = Supply::new(Some(rest(5, 3)));
        supply.append(b"here", &Supply::new(Some(rest(90, 10))));
        assert_eq!((supply.bytes(), supply.take_here(0)), (17, None));
        let asked = supply.ask(Time::from_millis(0), 0).unwrap();
        supply.take(answer(&asked));
        assert_eq!((supply.take_here(AHEAD), supply.take_here(0)), (None, Some(b"here".to_vec())));
        assert_eq!(supply.ask(Time::from_millis(0), 0).unwrap().logged.from, 90);
    }
}
