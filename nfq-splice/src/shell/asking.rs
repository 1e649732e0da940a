//! The shards' parts of a status answer, put together: whoever asks gets an answer, also when a part does not come.

use std::time::Duration;

use cluster::control::ProxyStatus;
use nfq_splice::merge;
use packet::Time;

/// How long parts are awaited; `resplice status` waits longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who wants the status (peers are named by `P`), and the parts that came.
pub(super) struct Asking<P> {
    round: u64,
    peers: Vec<P>,
    parts: Vec<ProxyStatus>,
    deadline: Time,
}

impl<P: PartialEq> Asking<P> {
    /// Nobody asks yet.
    pub(super) fn new() -> Self {
        Self { round: 0, peers: Vec::new(), parts: Vec::new(), deadline: Time::default() }
    }

    /// Who asks while parts are awaited gets the same answer. Otherwise gives the round for which the shards are to be asked.
    pub(super) fn ask(&mut self, peer: P, now: Time) -> Option<u64> {
        let first = self.peers.is_empty();
        self.peers.push(peer);
        first.then(|| {
            self.round += 1;
            self.parts.clear();
            self.deadline = now + PATIENCE;
            self.round
        })
    }

    /// A part; one that comes too late for its round is of no use. True if it was the last of `shards`.
    pub(super) fn take(&mut self, round: u64, part: ProxyStatus, shards: usize) -> bool {
        if self.peers.is_empty() || round != self.round {
            return false;
        }
        self.parts.push(part);
        self.parts.len() >= shards
    }

    /// When the answer is due; `None`: nobody waits.
    pub(super) fn deadline(&self) -> Option<Time> {
        (!self.peers.is_empty()).then_some(self.deadline)
    }

    /// What came so far, and who wants it; it says how many of `shards` are missing.
    pub(super) fn finish(&mut self, shards: usize) -> (ProxyStatus, Vec<P>) {
        let silent = shards.saturating_sub(self.parts.len());
        let mut status = merge(std::mem::take(&mut self.parts));
        status.counters.insert("shards_silent".to_owned(), silent as u64);
        (status, std::mem::take(&mut self.peers))
    }

    /// A peer has gone.
    pub(super) fn forget(&mut self, peer: &P) {
        self.peers.retain(|known| known != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(total: u64) -> ProxyStatus {
        ProxyStatus { total, ..ProxyStatus::default() }
    }

    #[test]
    fn all_who_ask_get_the_sum() {
        let mut asking = Asking::new();
        let now = Time::from_millis(5);
        assert_eq!(asking.deadline(), None);
        assert_eq!((asking.ask(1, now), asking.ask(2, now)), (Some(1), None));
        assert_eq!(asking.deadline(), Some(now + PATIENCE));
        assert!(!asking.take(1, part(3), 2));
        assert!(asking.take(1, part(4), 2));
        let (status, peers) = asking.finish(2);
        assert_eq!((status.total, status.counters.get("shards_silent"), peers), (7, Some(&0), vec![1, 2]));
        assert_eq!(asking.deadline(), None);
    }

    #[test]
    fn a_lost_part_delays_the_answer_and_is_counted_and_a_late_one_is_not_mixed_into_the_next() {
        let mut asking = Asking::new();
        assert_eq!(asking.ask(1, Time::default()), Some(1));
        assert!(!asking.take(1, part(3), 2));
        let (status, peers) = asking.finish(2);
        assert_eq!((status.total, status.counters.get("shards_silent"), peers), (3, Some(&1), vec![1]));
        assert!(!asking.take(1, part(50), 2), "nobody asks");
        assert_eq!(asking.ask(1, Time::default()), Some(2));
        assert!(!asking.take(1, part(50), 2));
        assert!(!asking.take(2, part(1), 2));
        assert!(asking.take(2, part(1), 2));
        assert_eq!(asking.finish(2).0.total, 2);
        assert_eq!(asking.ask(1, Time::default()), Some(3));
        asking.forget(&1);
        assert_eq!(asking.deadline(), None);
    }
}
