//! Going down is quick, coming back is not: a backend that fails again and again must prove itself ever longer.

use std::time::Duration;

use packet::Time;

/// A failure is forgotten after this time in use.
const FORGIVENESS: Duration = Duration::from_secs(120);
/// Failures that a backend may have in a row without needing more good heartbeats than usual.
const TOLERATED: u32 = 2;

/// A backend's failures and returns.
#[derive(Debug, Clone, Copy)]
pub struct Hysteresis {
    /// Failures, one less for each [`FORGIVENESS`] in use.
    flaps: u32,
    good: u32,
    changed: Time,
    pardoned: bool,
}

impl Hysteresis {
    /// A backend in use.
    pub fn new(now: Time) -> Self {
        Self { flaps: 0, good: 0, changed: now, pardoned: false }
    }

    /// It has failed.
    pub fn handle_down(&mut self, now: Time) {
        let in_use = now.since(self.changed).as_secs() / FORGIVENESS.as_secs();
        self.flaps = self.flaps.saturating_sub(u32::try_from(in_use).unwrap_or(u32::MAX)).saturating_add(1);
        *self = Self { good: 0, changed: now, pardoned: false, ..*self };
    }

    /// Good heartbeats that are needed, from `least` to `most`: twice as many for each failure beyond the tolerated ones.
    pub fn needed(&self, (least, most): (u32, u32)) -> u32 {
        if self.pardoned {
            return 1;
        }
        let doublings = self.flaps.saturating_sub(TOLERATED).min(16);
        least.saturating_mul(1 << doublings).min(most)
    }

    /// A heartbeat while it is down; true if it may be used again.
    pub fn handle_heartbeat(&mut self, good: bool, bounds: (u32, u32), now: Time) -> bool {
        self.good = if good { self.good + 1 } else { 0 };
        let returns = self.good >= self.needed(bounds);
        if returns {
            *self = Self { good: 0, changed: now, pardoned: false, ..*self };
        }
        returns
    }

    /// The operator vouches for it.
    pub fn pardon(&mut self, now: Time) {
        *self = Self { flaps: 0, good: 0, changed: now, pardoned: true };
    }

    /// Failures that count at present.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// Good heartbeats in a row since it failed.
    pub fn good(&self) -> u32 {
        self.good
    }

    /// When it last failed or came back.
    pub fn changed(&self) -> Time {
        self.changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: (u32, u32) = (3, 24);

    fn at(seconds: u64) -> Time {
        Time::from_millis(1000 * seconds)
    }

    /// How many good heartbeats it takes.
    fn returns(hysteresis: &mut Hysteresis, from: u64) -> u64 {
        (1..1000).find(|beat| hysteresis.handle_heartbeat(true, BOUNDS, at(from + beat))).unwrap()
    }

    #[test]
    fn a_flapping_backend_must_prove_itself_ever_longer_and_is_forgiven_in_time() {
        let mut hysteresis = Hysteresis::new(at(0));
        let mut now = 0;
        for needed in [3, 3, 6, 12, 24, 24] {
            hysteresis.handle_down(at(now));
            assert_eq!(returns(&mut hysteresis, now), needed);
            now += needed + 5;
        }
        hysteresis.handle_down(at(now + 10 * 120));
        assert_eq!((hysteresis.flaps(), returns(&mut hysteresis, now + 2000)), (1, 3));
    }

    #[test]
    fn a_bad_heartbeat_begins_anew() {
        let mut hysteresis = Hysteresis::new(at(0));
        hysteresis.handle_down(at(1));
        for good in [true, true, false, true, true] {
            assert!(!hysteresis.handle_heartbeat(good, BOUNDS, at(2)));
        }
        assert!(hysteresis.handle_heartbeat(true, BOUNDS, at(3)));
    }

    #[test]
    fn the_operators_word_counts_as_all_but_one() {
        let mut hysteresis = Hysteresis::new(at(0));
        (0..9).for_each(|_| hysteresis.handle_down(at(1)));
        hysteresis.pardon(at(2));
        assert!(hysteresis.handle_heartbeat(true, BOUNDS, at(3)));
    }
}
