//! How long the loop was kept from running, for the operator: a detector that does not run detects nothing.

use std::time::Duration;

use packet::Time;

/// Pauses from here on are told.
const LONG: Duration = Duration::from_secs(1);
/// Between two such messages.
const QUIET: Duration = Duration::from_secs(10);

/// What is known of pauses.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    longest: Duration,
    told: Option<Time>,
}

impl Pauses {
    /// The loop should have come here at `due`. Gives what is to be told, if anything.
    pub(crate) fn note(&mut self, due: Time, now: Time) -> Option<String> {
        let pause = now.since(due);
        self.longest = self.longest.max(pause);
        if pause < LONG || self.told.is_some_and(|told| now.since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(format!(
            "did not get to run for {} ms, failures are noticed so much later: give it processor time first \
             (CPUSchedulingPolicy=rr in its unit, or chrt --rr)",
            pause.as_millis()
        ))
    }

    /// The longest one.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_pauses_are_told_now_and_then_and_the_longest_is_remembered() {
        let at = Time::from_millis;
        let mut pauses = Pauses::default();
        assert_eq!(pauses.note(at(1000), at(1999)), None);
        assert!(pauses.note(at(2000), at(5000)).is_some_and(|text| text.contains("3000 ms")));
        assert_eq!(pauses.note(at(6000), at(8000)), None, "told a moment ago");
        assert!(pauses.note(at(19_000), at(20_500)).is_some());
        assert_eq!(pauses.note(at(30_000), at(29_000)), None, "woken early");
        assert_eq!(pauses.longest(), Duration::from_secs(3));
    }
}
