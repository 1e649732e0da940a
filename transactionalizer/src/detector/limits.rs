//! Durations in force, from `[detector]`.

use std::time::Duration;

use cluster::config::{Check, Detector};

use super::probing::Question;

/// Durations in force, from `[detector]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence before a host is probed.
    pub probe_after: Duration,
    pub(super) probe_interval: Duration,
    pub(super) probe_failures: u32,
    pub(super) heartbeat: Duration,
    /// Good heartbeats that bring a backend back: at first, and at most when it fails again and again.
    pub(super) successes: (u32, u32),
    pub(super) check: Check,
}

impl Limits {
    /// Zeros count as one, so that no timer runs hot.
    pub fn new(config: &Detector) -> Self {
        let millis = |value: u64| Duration::from_millis(value.max(1));
        let successes = config.heartbeat_successes.max(1);
        Self {
            probe_after: millis(config.probe_after_ms),
            probe_interval: millis(config.probe_interval_ms),
            probe_failures: config.probe_failures.clamp(1, 100),
            heartbeat: millis(config.heartbeat_ms),
            successes: (successes, config.heartbeat_successes_most.max(successes)),
            check: config.check,
        }
    }

    /// How an application is asked.
    pub(super) fn application(&self) -> Question {
        match self.check {
            Check::Http => Question::Application,
            Check::Tcp => Question::Service,
        }
    }
}
