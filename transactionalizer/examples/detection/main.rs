//! Detection time against false suspicions: the adaptive detector beside fixed timeouts and heartbeats, on the same traces.
//!
//! `cargo run --release -p transactionalizer --example detection -- docs/detection.svg` prints the table of
//! `docs/detection.md` and writes its plot.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program for measuring"
)]

mod adaptive;
#[path = "../../tests/common/mod.rs"]
mod common;
mod plot;
mod rivals;
mod traces;

use rivals::quantile;
use traces::Trace;

const REQUESTS: u64 = 20_000;
const FAILURES: usize = 1000;
const SEED: u64 = 1;
/// ms
const TIMEOUTS: [f64; 12] =
    [10.0, 20.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 1000.0, 2000.0, 5000.0];
/// The paper's Table 4: LAN, WAN-MIT, WAN-SG, WAN-IN; seconds.
const HEARTBEATS: [(&str, f64); 4] = [("LAN", 1.0), ("WAN-IN", 2.0), ("WAN-MIT", 5.0), ("WAN-SG", 10.0)];

/// One detector on one trace.
pub(crate) struct Point {
    /// What the detector is.
    pub(crate) name: String,
    /// False suspicions in a million requests, or heartbeats.
    pub(crate) wrong: f64,
    /// Detection times, ms.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Point {
    fn new(name: String, wrong: u64, of: u64, detection: &[f64]) -> Self {
        let wrong = wrong as f64 * 1e6 / of.max(1) as f64;
        Self { name, wrong, p50: quantile(detection, 0.5), p99: quantile(detection, 0.99) }
    }
}

fn points(trace: Trace) -> Vec<Point> {
    let mut points = Vec::new();
    for (name, host) in [("adaptive, frozen application", false), ("adaptive, dead host", true)] {
        let outcome = adaptive::simulate(trace, host, SEED, REQUESTS);
        points.push(Point::new(name.to_owned(), outcome.wrong, outcome.requests, &outcome.detection));
    }
    let waits = rivals::timeline(trace, SEED, REQUESTS as usize);
    for timeout in TIMEOUTS {
        let (wrong, detection) = rivals::fixed(&waits, timeout, SEED, FAILURES);
        points.push(Point::new(format!("fixed {timeout} ms"), wrong, REQUESTS, &detection));
    }
    for (place, seconds) in HEARTBEATS {
        let (wrong, detection) = rivals::heartbeat(trace, seconds * 1000.0, SEED, REQUESTS, FAILURES);
        points.push(Point::new(format!("heartbeat {seconds} s ({place})"), wrong, REQUESTS, &detection));
    }
    points
}

fn main() {
    println!("| trace | detector | false suspicions in a million | p50 ms | p99 ms |\n|---|---|---|---|---|");
    let panels: Vec<(Trace, Vec<Point>)> = Trace::ALL.map(|trace| (trace, points(trace))).into();
    for (trace, points) in &panels {
        for Point { name, wrong, p50, p99 } in points {
            println!("| {} | {name} | {wrong:.0} | {p50:.0} | {p99:.0} |", trace.name());
        }
    }
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(&file, plot::svg(&panels)).expect("the plot cannot be written");
    }
}
