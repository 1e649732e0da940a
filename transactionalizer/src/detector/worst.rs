//! The worst that was seen of late: it counts in full at first, and half as much after each half-life.

use std::time::Duration;

use packet::Time;

/// A decaying maximum.
#[derive(Debug, Clone, Copy)]
pub struct Worst {
    value: Duration,
    seen: Time,
    half_life: Duration,
}

impl Worst {
    /// Nothing was seen yet. A half-life of zero counts as a millisecond.
    pub fn new(half_life: Duration) -> Self {
        let half_life = half_life.max(Duration::from_millis(1));
        Self { value: Duration::ZERO, seen: Time::default(), half_life }
    }

    /// This has been seen now.
    pub fn note(&mut self, value: Duration, now: Time) {
        if value >= self.get(now) {
            (self.value, self.seen) = (value, now);
        }
    }

    /// What is to be reckoned with now.
    pub fn get(&self, now: Time) -> Duration {
        let halvings = now.since(self.seen).as_nanos() / self.half_life.as_nanos();
        let divisor = u32::try_from(halvings).ok().and_then(|halvings| 1_u32.checked_shl(halvings));
        divisor.map_or(Duration::ZERO, |divisor| self.value / divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_half_as_long_each_time_and_a_worse_one_counts_at_once() {
        let (at, ms) = (|seconds: u64| Time::from_millis(1000 * seconds), Duration::from_millis);
        let mut worst = Worst::new(Duration::from_secs(10));
        assert_eq!(worst.get(at(5)), Duration::ZERO);
        worst.note(ms(80), at(100));
        worst.note(ms(30), at(105));
        assert_eq!((worst.get(at(109)), worst.get(at(110)), worst.get(at(121))), (ms(80), ms(40), ms(20)));
        worst.note(ms(50), at(121));
        assert_eq!((worst.get(at(121)), worst.get(at(131))), (ms(50), ms(25)));
        assert_eq!(worst.get(at(100_000)), Duration::ZERO);
    }
}
