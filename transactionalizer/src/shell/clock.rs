//! The clock that log records are stamped with.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the clock")]

use packet::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now.
pub(crate) fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    Time::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
