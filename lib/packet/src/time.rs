//! A moment on a monotonic clock. The pure crates never ask for it, they are told.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds on the host's monotonic clock, 0 to 2⁶⁴ − 2: one more is kept, so that a moment or none takes no more room than
/// a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Time(NonZeroU64);

const _: () = assert!(size_of::<Option<Time>>() == 8);

impl Time {
    /// A moment `nanos` after the clock's epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// A moment `millis` after the clock's epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_nanos(millis * 1_000_000)
    }

    /// Nanoseconds since the clock's epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Whole milliseconds since the clock's epoch.
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// Time passed since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Time {
    /// The clock's epoch.
    fn default() -> Self {
        Self::from_nanos(0)
    }
}

impl From<u64> for Time {
    fn from(nanos: u64) -> Self {
        Self::from_nanos(nanos)
    }
}

impl From<Time> for u64 {
    fn from(time: Time) -> Self {
        time.as_nanos()
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_come_back_and_the_end_of_time_is_no_overflow() {
        for nanos in [0, 1, 1_000_000, u64::MAX - 1] {
            assert_eq!(Time::from_nanos(nanos).as_nanos(), nanos);
        }
        let last = Time::from_nanos(u64::MAX);
        assert_eq!((last.as_nanos(), last + Duration::from_secs(1)), (u64::MAX - 1, last));
        assert_eq!(Time::default().since(last), Duration::ZERO);
    }
}
