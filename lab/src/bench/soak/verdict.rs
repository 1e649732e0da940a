//! What the endpoints and the readers of the log say, compared.

#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::sum::{Account, ByPort, Carried, Sum};
use crate::bench::rows::{Bound, Row, Samples};

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Verdict {
    /// Connections, and the bytes of their streams, both directions.
    pub connections: u64,
    /// See [`connections`](Self::connections).
    pub bytes: u64,
    /// How long they took.
    pub took: Duration,
    /// How often the ring was written over.
    pub turns: f64,
    /// Bytes of directions that the two ends themselves see differently.
    pub ends_differ: u64,
    /// Bytes of directions that an eager reader found otherwise in the log than the ends have them, most of any reader.
    pub lost: u64,
    /// Bytes of connections that an eager reader could not follow, because it was lapped, most of any reader.
    pub unread: u64,
    /// Bytes of segments that came again with other content.
    pub conflicts: u64,
    /// How often the slow reader was lapped, and what it said that it lost.
    pub laps: u64,
    /// See [`laps`](Self::laps).
    pub lapped_bytes: u64,
    /// Between what the slow reader read and lost, and what the first eager reader counted.
    pub records_off: u64,
    /// See [`records_off`](Self::records_off).
    pub bytes_off: u64,
    /// Packets that the kernel dropped before the logger.
    pub dropped: u64,
}

impl Verdict {
    pub(super) fn of(clients: &ByPort, servers: &ByPort, eager: &[Account], slow: &Account) -> Self {
        let first = eager.first().cloned().unwrap_or_default();
        let all =
            |account: &Account| (account.records + account.lost_records, account.bytes + account.lost_bytes);
        let (counted, said) = (all(&first), all(slow));
        let worst = |of: fn(Compared) -> u64| {
            eager.iter().map(|account| of(compare(clients, &account.connections))).max().unwrap_or_default()
        };
        Self {
            connections: clients.values().map(|all| all.len() as u64).sum(),
            bytes: connections(clients).map(|(_, _, carried)| carried.up.bytes + carried.down.bytes).sum(),
            ends_differ: compare(clients, servers).differ + compare(servers, clients).differ,
            lost: worst(|compared| compared.differ),
            unread: worst(|compared| compared.unread),
            conflicts: eager.iter().map(|account| account.conflicts).sum(),
            laps: slow.laps,
            lapped_bytes: slow.lost_bytes,
            records_off: counted.0.abs_diff(said.0),
            bytes_off: counted.1.abs_diff(said.1),
            ..Self::default()
        }
    }

    pub(super) fn rows(&self, readers: usize) -> Vec<Row> {
        let rate = self.bytes as f64 / self.took.as_secs_f64() / 1e6;
        let lost = format!(
            "bytes lost from the log, of {readers} eager readers' streams against the endpoints' hashes"
        );
        vec![
            row("bytes exchanged", self.bytes as f64 / 1e9, "GB", false),
            row("connections", self.connections as f64, "", false),
            row("rate", rate, "MB/s", false),
            row("length", self.took.as_secs_f64(), "s", false),
            row("times that the ring was written over", self.turns, "", false),
            row(&lost, self.lost as f64, "bytes", true),
            row("bytes overwritten before an eager reader came to them", self.unread as f64, "bytes", true),
            row("bytes that the endpoints see differently", self.ends_differ as f64, "bytes", true),
            row("segments repeated with other bytes", self.conflicts as f64, "", true),
            row("times that the slow reader was lapped", self.laps as f64, "", false),
            row("bytes that it lost", self.lapped_bytes as f64 / 1e9, "GB", false),
            row("records that its account is off", self.records_off as f64, "", true),
            row("bytes that its account is off", self.bytes_off as f64, "bytes", true),
            row("packets dropped before the logger, sent again", self.dropped as f64, "", false),
        ]
    }
}

fn row(what: &str, value: f64, unit: &'static str, zero: bool) -> Row {
    let mut samples = Samples::default();
    samples.push(Ok(value));
    samples.row(what, unit, zero.then_some(Bound { must: 0.0, aim: 0.0, least: false }))
}

/// Bytes of what one side saw, and the other not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Compared {
    differ: u64,
    /// Of connections of which the other side says that it has not seen all.
    unread: u64,
}

fn compare(right: &ByPort, other: &ByPort) -> Compared {
    // Once lapped, it may not even have seen that a connection was opened.
    let lapped = connections(other).any(|(.., carried)| carried.lapped);
    let mut compared = Compared::default();
    for (port, place, carried) in connections(right) {
        let found = other.get(&port).and_then(|all| all.get(place));
        let differ = [(carried.up, found.map(|it| it.up)), (carried.down, found.map(|it| it.down))];
        let differ = differ.into_iter().map(|(right, found)| differing(right, found)).sum::<u64>();
        if found.map_or(lapped, |found| found.lapped) {
            compared.unread += carried.up.bytes + carried.down.bytes;
        } else {
            compared.differ += differ;
        }
    }
    compared
}

/// All of a direction's bytes, at least one, unless they are the same.
fn differing(right: Sum, found: Option<Sum>) -> u64 {
    if found == Some(right) { 0 } else { right.bytes.max(1) }
}

fn connections(of: &ByPort) -> impl Iterator<Item = (u16, usize, Carried)> + '_ {
    of.iter().flat_map(|(port, all)| all.iter().enumerate().map(|(place, carried)| (*port, place, *carried)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: u64) -> Sum {
        Sum { bytes, hash: bytes * 7 }
    }

    fn carried(up: u64, down: u64) -> Carried {
        Carried { up: sum(up), down: sum(down), lapped: false }
    }

    fn account(connections: &ByPort) -> Account {
        Account { records: 100, bytes: 9000, connections: connections.clone(), ..Account::default() }
    }

    fn ends() -> ByPort {
        ByPort::from([(1, vec![carried(10, 20), carried(30, 40)]), (2, vec![carried(50, 60)])])
    }

    #[test]
    fn equal_sums_are_no_loss_and_all_that_is_wrong_is_counted() {
        let ends = ends();
        let slow = Account {
            records: 60,
            bytes: 5000,
            laps: 2,
            lost_records: 40,
            lost_bytes: 4000,
            ..account(&ends)
        };
        let mut wrong = ends.clone();
        wrong.get_mut(&1).unwrap()[1].down.hash += 1;
        wrong.remove(&2);
        let verdict = Verdict::of(&ends, &ends, &[account(&ends), account(&wrong)], &slow);
        assert_eq!((verdict.connections, verdict.bytes, verdict.lost), (3, 210, 40 + 110));
        assert_eq!((verdict.records_off, verdict.bytes_off, verdict.ends_differ), (0, 0, 0));
        assert!(verdict.rows(2).iter().any(|row| row.what.starts_with("bytes lost from the log") && !row.ok));
    }

    #[test]
    fn what_a_lapped_reader_could_not_follow_is_counted_apart() {
        let ends = ends();
        let mut seen = ends.clone();
        seen.get_mut(&1).unwrap()[1] = Carried { lapped: true, ..carried(1, 2) };
        seen.remove(&2);
        let slow = Account { lost_bytes: 1, ..account(&ends) };
        let verdict = Verdict::of(&ends, &ends, &[account(&seen)], &slow);
        assert_eq!((verdict.lost, verdict.unread, verdict.bytes_off), (0, 70 + 110, 1));
    }
}
