//! The trace-driven simulation of `examples/detection` in small, with what must hold of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../examples/detection/adaptive.rs"]
mod adaptive;
mod common;
#[path = "../examples/detection/rivals.rs"]
mod rivals;
#[path = "../examples/detection/traces.rs"]
mod traces;

use rivals::quantile;
use traces::Trace;

const REQUESTS: u64 = 6000;

/// Nobody can be faster than a fixed timeout chosen afterwards, knowing the whole trace; the adaptive one, which knows
/// nothing before, stays within a factor of it and makes hardly more mistakes.
#[test]
fn adaptive_detection_is_nearly_as_fast_as_the_best_fixed_timeout_in_hindsight() {
    for trace in Trace::ALL {
        let adaptive = adaptive::simulate(trace, false, 7, REQUESTS);
        assert!(adaptive.detection.len() >= 5, "{trace:?}: {} failures", adaptive.detection.len());
        assert!(adaptive.wrong <= 2, "{trace:?}: {} wrong suspicions", adaptive.wrong);
        let waits = rivals::timeline(trace, 7, REQUESTS as usize);
        let best = (1..1000)
            .map(|i| f64::from(i) * 5.0)
            .find(|t| rivals::fixed(&waits, *t, 7, 1).0 <= adaptive.wrong);
        let p50 = quantile(&adaptive.detection, 0.5);
        let (_, fixed) = rivals::fixed(&waits, best.unwrap(), 7, 200);
        let bound = 4.0 * quantile(&fixed, 0.5) + 800.0;
        assert!(p50 <= bound, "{trace:?}: {p50} ms, in hindsight {best:?} ms, bound {bound}");
    }
}

#[test]
fn a_dead_host_is_found_in_a_tenth_of_a_second_however_slow_its_application_was() {
    for trace in Trace::ALL {
        let outcome = adaptive::simulate(trace, true, 11, REQUESTS / 2);
        let p99 = quantile(&outcome.detection, 0.99);
        assert!(outcome.wrong == 0 && p99 <= 200.0, "{trace:?}: {p99} ms, {} wrong", outcome.wrong);
    }
}

#[test]
fn adaptive_detection_is_faster_than_every_heartbeat_of_the_papers_table_4() {
    // Of a heavy tail it must expect waits of twice the greatest that it has seen: seconds.
    for trace in Trace::ALL.into_iter().filter(|trace| *trace != Trace::HeavyTail) {
        let outcome = adaptive::simulate(trace, false, 13, REQUESTS / 2);
        let (_, heartbeat) = rivals::heartbeat(trace, 1000.0, 13, 1, 200);
        let (adaptive, heartbeat) = (quantile(&outcome.detection, 0.5), quantile(&heartbeat, 0.5));
        assert!(adaptive < heartbeat / 2.0, "{}: {adaptive} ms, {heartbeat} ms", trace.name());
    }
}
