//! Patience learnt from mistakes: each suspicion that turned out wrong lengthens the timeouts that follow, as in Chandra and
//! Toueg's eventually perfect detector (JACM 43(2), 1996); with time they become short again.

use std::time::Duration;

use packet::Time;

/// The longest timeouts: so many times what was learnt of a kind.
const GREATEST: u32 = 16;
/// What slows many requests at once is one mistake.
const ONE_MISTAKE: Duration = Duration::from_millis(500);
/// Half of the patience is lost after this time without a mistake.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// By how much timeouts are longer than what was learnt of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Margin {
    factor: u32,
    changed: Time,
}

impl Margin {
    /// None.
    pub fn new(now: Time) -> Self {
        Self { factor: 1, changed: now }
    }

    /// What was suspected has answered after all.
    pub fn handle_mistake(&mut self, now: Time) {
        let factor = self.factor(now);
        if factor == 1 || now.since(self.changed) >= ONE_MISTAKE {
            *self = Self { factor: (factor * 2).min(GREATEST), changed: now };
        }
    }

    /// At this moment.
    pub fn factor(&self, now: Time) -> u32 {
        let halvings = now.since(self.changed).as_secs() / HALF_LIFE.as_secs();
        (self.factor >> halvings.min(31)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn mistakes_at_the_same_time_count_once_and_are_forgotten() {
        let mut margin = Margin::new(at(0));
        (0..10).for_each(|_| margin.handle_mistake(at(1000)));
        assert_eq!(margin.factor(at(1000)), 2);
        (0..10).for_each(|i| margin.handle_mistake(at(2000 + 600 * i)));
        assert_eq!(margin.factor(at(8000)), GREATEST);
        assert_eq!(margin.factor(at(8000 + 60_000)), GREATEST / 2);
        assert_eq!(margin.factor(at(8000 + 600_000)), 1);
    }
}
