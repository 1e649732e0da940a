//! The same traces watched by fixed timeouts, and by heartbeats as in the paper's Table 4.

use super::adaptive::{CONNECTIONS, THINK_MS};
use super::traces::{Chance, Latencies, Trace};

/// Heartbeats that are missed before a failure is declared (paper §6.2).
const MISSED: u32 = 3;

/// What clients waited for, ms: asked, answered; without any failure.
pub(crate) fn timeline(trace: Trace, seed: u64, requests: usize) -> Vec<(f64, f64)> {
    let (mut latencies, mut chance) = (Latencies::new(trace), Chance::new(seed));
    let mut next = [0.0; CONNECTIONS];
    let mut waits = Vec::with_capacity(requests);
    while waits.len() < requests {
        let first = (0..CONNECTIONS).min_by(|a, b| f64::total_cmp(&next[*a], &next[*b])).unwrap_or(0);
        let asked = next[first];
        let answered = asked + latencies.sample(asked, &mut chance);
        waits.push((asked, answered));
        next[first] = answered + chance.exponential(THINK_MS);
    }
    waits
}

/// Of a fixed timeout: false suspicions among all requests, and the detection times of failures at random moments.
pub(crate) fn fixed(waits: &[(f64, f64)], timeout: f64, seed: u64, failures: usize) -> (u64, Vec<f64>) {
    let wrong = waits.iter().filter(|(asked, answered)| answered - asked > timeout).count() as u64;
    let mut chance = Chance::new(seed);
    let end = waits.last().map_or(0.0, |(asked, _)| *asked) * 0.9;
    let detect = |_| {
        let failed = end * chance.unit();
        // Those that waited then, and those that asked next. Waits are sorted by when they began.
        let until = waits.partition_point(|(asked, _)| *asked <= failed);
        let waiting =
            waits[until.saturating_sub(1000)..until].iter().filter(|(_, answered)| *answered > failed);
        let next = waits.get(until).into_iter();
        let asked = waiting.chain(next).map(|(asked, _)| asked + timeout);
        asked.fold(f64::MAX, f64::min).max(failed) - failed
    };
    (wrong, (0..failures).map(detect).collect())
}

/// Of heartbeats: false suspicions among `beats` of them, and detection times.
pub(crate) fn heartbeat(
    trace: Trace,
    interval: f64,
    seed: u64,
    beats: u64,
    failures: usize,
) -> (u64, Vec<f64>) {
    let (mut latencies, mut chance) = (Latencies::new(trace), Chance::new(seed));
    let (mut missed, mut wrong) = (0, 0);
    for beat in 0..beats {
        let late = latencies.sample(beat as f64 * interval, &mut chance) > interval;
        missed = if late { missed + 1 } else { 0 };
        if missed == MISSED {
            (missed, wrong) = (0, wrong + 1);
        }
    }
    // The first one that is missed is sent within an interval; each is given one to be answered.
    let detection = (0..failures).map(|_| interval * (chance.unit() + f64::from(MISSED)));
    (wrong, detection.collect())
}

/// The value that this share does not exceed.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
