//! One direction of the emulated link: which packets are lost, and when the others leave. Pure: packets,
//! time and the seed come in, decisions come out.
//!
//! Call order: [`Schedule::handle_packet`] for each arrival; whenever [`Schedule::poll_timeout`] has passed,
//! [`Schedule::poll_departure`] until it returns nothing.

#![deny(clippy::disallowed_methods)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use packet::Time;

use crate::chance::Chance;
use crate::settings::LinkSettings;

/// Packets underway at most; further ones are dropped and counted.
pub const MAX_PACKETS: usize = 8192;
/// Longest queue in front of a rate limit, as time; what would wait longer is dropped and counted.
pub const MAX_BACKLOG: Duration = Duration::from_millis(100);
/// Least extra delay of a packet that others shall overtake.
const OVERTAKEN_BY: Duration = Duration::from_millis(2);

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that arrived.
    pub arrived: u64,
    /// Dropped by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Delayed so that others overtake them.
    pub reordered: u64,
}

/// Decides for one direction.
#[derive(Debug)]
pub struct Schedule {
    settings: LinkSettings,
    chance: Chance,
    underway: BinaryHeap<Reverse<(Time, u64, u32)>>,
    wire_free: Time,
    latest: Time,
    /// What was done so far.
    pub counters: Counters,
}

impl Schedule {
    /// An idle link. `direction` makes the two directions' chances differ.
    pub fn new(settings: LinkSettings, direction: u64) -> Self {
        Self {
            settings,
            chance: Chance::new(settings.seed ^ (direction << 32)),
            underway: BinaryHeap::new(),
            wire_free: Time::default(),
            latest: Time::default(),
            counters: Counters::default(),
        }
    }

    /// A packet of `length` bytes arrives; false: it is dropped now.
    pub fn handle_packet(&mut self, now: Time, id: u32, length: usize) -> bool {
        self.counters.arrived += 1;
        if self.chance.happens(self.settings.loss) {
            self.counters.lost += 1;
            return false;
        }
        let Some(sent) = self.sent(now, length) else {
            self.counters.overflowed += 1;
            return false;
        };
        let departure = self.departure(sent);
        self.underway.push(Reverse((departure, self.counters.arrived, id)));
        true
    }

    /// A packet that leaves by now.
    pub fn poll_departure(&mut self, now: Time) -> Option<u32> {
        let Reverse((departure, _, _)) = *self.underway.peek()?;
        if departure > now {
            return None;
        }
        self.underway.pop().map(|Reverse((_, _, id))| id)
    }

    /// When the next packet leaves.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.underway.peek().map(|Reverse((departure, _, _))| *departure)
    }

    /// When its last bit is on the wire; `None` if the queue before the wire is full.
    fn sent(&mut self, now: Time, length: usize) -> Option<Time> {
        if self.underway.len() >= MAX_PACKETS {
            return None;
        }
        let Some(rate) = self.settings.rate else { return Some(now) };
        let start = self.wire_free.max(now);
        if start.since(now) > MAX_BACKLOG {
            return None;
        }
        let nanos = (length as u64).saturating_mul(8_000_000_000) / rate.max(1);
        self.wire_free = start + Duration::from_nanos(nanos);
        Some(self.wire_free)
    }

    fn departure(&mut self, sent: Time) -> Time {
        let jitter = self.settings.jitter.mul_f64(self.chance.next_unit());
        let usual = (sent + self.settings.rtt / 2 + jitter).max(self.latest);
        if self.chance.happens(self.settings.reorder) {
            self.counters.reordered += 1;
            return usual + OVERTAKEN_BY.max(self.settings.rtt / 8);
        }
        self.latest = usual;
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departures(settings: LinkSettings, packets: u32, every: Duration) -> (Vec<(u32, Time)>, Counters) {
        let mut schedule = Schedule::new(settings, 0);
        let mut now = Time::from_millis(1);
        for id in 0..packets {
            schedule.handle_packet(now, id, 1500);
            now = now + every;
        }
        let mut left = Vec::new();
        while let Some(at) = schedule.poll_timeout() {
            assert!(schedule.poll_departure(Time::from_nanos(at.as_nanos() - 1)).is_none());
            left.push((schedule.poll_departure(at).unwrap(), at));
        }
        (left, schedule.counters)
    }

    #[test]
    fn half_the_round_trip_each_way() {
        let settings = LinkSettings { rtt: Duration::from_millis(80), ..LinkSettings::default() };
        let (left, _) = departures(settings, 1, Duration::ZERO);
        assert_eq!(left, [(0, Time::from_millis(41))]);
    }

    #[test]
    fn losses_are_as_frequent_as_asked_and_repeat_with_the_seed() {
        let settings = LinkSettings { loss: 0.01, seed: 3, ..LinkSettings::default() };
        let every = Duration::from_micros(100);
        let (left, counters) = departures(settings, 8000, every);
        assert!((40..160).contains(&counters.lost), "{counters:?}");
        assert_eq!(left, departures(settings, 8000, every).0);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let jitter = LinkSettings { jitter: Duration::from_millis(5), ..LinkSettings::default() };
        let (left, _) = departures(jitter, 1000, Duration::from_micros(200));
        assert!(left.is_sorted_by_key(|(id, _)| *id));
        let reorder = LinkSettings { reorder: 0.05, ..jitter };
        let (left, counters) = departures(reorder, 1000, Duration::from_micros(200));
        assert!(!left.is_sorted_by_key(|(id, _)| *id));
        assert_eq!(left.len(), 1000);
        assert!(counters.reordered > 10);
    }

    #[test]
    fn the_rate_is_kept_and_the_queue_is_bounded() {
        let settings = LinkSettings { rate: Some(12_000_000), ..LinkSettings::default() };
        let (left, counters) = departures(settings, 1000, Duration::ZERO);
        // 1500 bytes take 1 ms; 100 ms of queue and the packet on the wire.
        assert_eq!(left.len() as u64 + counters.overflowed, 1000);
        assert!((100..=102).contains(&left.len()), "{}", left.len());
        assert_eq!(left[9].1, Time::from_millis(11));
    }
}
