//! What one failure meets: how far away the clients are, what they do, and at which byte their server fails. All of it follows
//! from the run's seed and the case's number, so that one case can be repeated alone.

#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::transfer::Transfer;
use crate::chance::Chance;
use crate::faults::Fault;
use crate::settings::{Front, LinkSettings, Settings, nodes};

/// Every so many cases the server falls silent; in the others it is killed.
const SILENT_EVERY: u64 = 6;

/// Between clients and proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Nothing but a wire.
    Lan,
    /// A round trip of 0.25 ms.
    Near,
    /// 2 ms, 1 % of the packets lost each way, 0.5 % overtaken.
    Lossy,
    /// A round trip of 79 ms.
    #[value(name = "79ms")]
    Rtt79,
    /// A round trip of 260 ms.
    #[value(name = "260ms")]
    Rtt260,
    /// A round trip of 866 ms.
    #[value(name = "866ms")]
    Rtt866,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Lan, Self::Near, Self::Lossy, Self::Rtt79, Self::Rtt260, Self::Rtt866];

    /// Of a hundred cases.
    const fn share(self) -> u64 {
        match self {
            Self::Lan => 56,
            Self::Lossy => 14,
            Self::Near | Self::Rtt79 => 10,
            Self::Rtt260 => 6,
            Self::Rtt866 => 4,
        }
    }

    /// Labs that work on its cases at once; those with long round trips mostly wait.
    pub(super) const fn labs(self) -> usize {
        match self {
            Self::Lan | Self::Rtt260 => 3,
            Self::Rtt866 => 4,
            _ => 1,
        }
    }

    /// In tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lan => "LAN",
            Self::Near => "0.25 ms",
            Self::Lossy => "lossy",
            Self::Rtt79 => "79 ms",
            Self::Rtt260 => "260 ms",
            Self::Rtt866 => "866 ms",
        }
    }

    /// The round trip that is added.
    pub(super) const fn rtt(self) -> Duration {
        match self {
            Self::Lan => Duration::ZERO,
            Self::Near => Duration::from_micros(250),
            Self::Lossy => Duration::from_millis(2),
            Self::Rtt79 => Duration::from_millis(79),
            Self::Rtt260 => Duration::from_millis(260),
            Self::Rtt866 => Duration::from_millis(866),
        }
    }

    /// Whether windows, not the reader, set the pace.
    pub(super) const fn far(self) -> bool {
        matches!(self, Self::Rtt79 | Self::Rtt260 | Self::Rtt866)
    }

    fn pick(chance: &mut Chance) -> Self {
        let mut left = chance.next_u64() % 100;
        for condition in Self::ALL {
            let share = condition.share();
            if left < share {
                return condition;
            }
            left -= share;
        }
        Self::Lan
    }

    /// The lab in which it holds. Send buffers are small: what a kernel still sends for a killed process is little, so that places
    /// near the end of a response are hit as well. But not smaller than some of nginx's output buffers, one of which would else
    /// be under way at a time. A healed server is used again soon: there is much to do.
    pub(super) fn settings(self, front: Front) -> Settings {
        let (loss, reorder) = if self == Self::Lossy { (0.01, 0.005) } else { (0.0, 0.0) };
        let link = LinkSettings { rtt: self.rtt(), loss, reorder, seed: 1, ..LinkSettings::default() };
        let set = ["logger.logger.ring_bytes=67108864", "detector.heartbeat_ms=100"];
        Settings {
            nodes: nodes(&[], link.active()),
            link,
            front,
            send_buffer: (!self.far()).then_some(128 << 10),
            php: true,
            set: set.map(str::to_owned).to_vec(),
            ..Settings::default()
        }
    }
}

/// One failure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    /// Its number in the run, from 1.
    pub(super) number: u64,
    pub(super) condition: Condition,
    pub(super) fault: Fault,
    /// What the clients do, each on a connection of its own, all at once. The first one's server is the one that fails.
    pub(super) transfers: Vec<Transfer>,
    /// How many bytes of its own the first client has sent and received then.
    pub(super) at: u64,
}

impl Case {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        // Neighbouring numbers must not have neighbouring sequences.
        let mut chance = Chance::new(Chance::new(seed ^ number.rotate_left(32)).next_u64());
        let condition = Condition::pick(&mut chance);
        let fault = if number.is_multiple_of(SILENT_EVERY) { Fault::Silent } else { Fault::Kill };
        let others = if condition.far() { 3 + chance.next_u64() % 4 } else { chance.next_u64() % 3 };
        let transfers: Vec<Transfer> = (0..=others)
            .map(|place| Transfer::pick(&mut chance, condition, format!("c{number}-{place}")))
            .collect();
        let total = transfers.first().map_or(0, Transfer::total);
        let at = (chance.next_unit() * total as f64) as u64;
        Self { number, condition, fault, transfers, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_follows_from_seed_and_number() {
        assert_eq!(Case::new(7, 41), Case::new(7, 41));
        assert_ne!(Case::new(7, 41).transfers, Case::new(7, 42).transfers);
        assert_ne!(Case::new(7, 41).transfers, Case::new(8, 41).transfers);
    }

    #[test]
    fn every_condition_has_its_share_and_a_sixth_is_silent() {
        let cases: Vec<Case> = (1..=1200).map(|number| Case::new(1, number)).collect();
        assert_eq!(cases.iter().filter(|case| case.fault == Fault::Silent).count(), 200);
        for condition in Condition::ALL {
            let found = cases.iter().filter(|case| case.condition == condition).count() as f64 / 12.0;
            let share = condition.share() as f64;
            assert!((found - share).abs() < 0.3 * share + 1.0, "{condition:?}: {found} %");
        }
        assert_eq!(Condition::ALL.map(Condition::share).iter().sum::<u64>(), 100);
    }

    #[test]
    fn the_failure_lies_within_the_first_transfer() {
        for number in 1..=500 {
            let case = Case::new(3, number);
            assert!(case.at < case.transfers[0].total().max(1), "{case:?}");
        }
    }
}
