//! The rows made of the measurements, with their bounds.

#![deny(clippy::disallowed_methods)]

use super::Plan;
use super::contenders::Contender::{self, Accept, Logger, Plain, Whole};
use super::measures::Figure;
use crate::bench::rows::{Bound, Row};
use crate::bench::taken::Record;

const FIGURES: [(Figure, &str, &str); 10] = [
    (Figure::Bulk, "bulk, one stream", "MB/s"),
    (Figure::BulkMany, "bulk, 16 streams", "MB/s"),
    (Figure::Cpu, "processor time, whole machine", "s/GB"),
    (Figure::Dropped, "packets dropped or not recorded, 16 streams", ""),
    (Figure::Requests, "keep-alive requests", "1/s"),
    (Figure::P50, "median latency at that rate", "ms"),
    (Figure::P99, "p99 latency at that rate", "ms"),
    (Figure::Small, "small packets", "1/s"),
    (Figure::SmallDropped, "packets dropped or not recorded, small packets", ""),
    (Figure::Page, "page of ten requests", "ms"),
];

/// What it must be at least, and should be.
type AtLeast = Option<(f64, f64)>;

/// The logger's figures over another's.
const RATIOS: [(&str, Figure, Contender, AtLeast); 7] = [
    ("bulk", Figure::Bulk, Plain, Some((0.5, 0.7))),
    ("bulk", Figure::Bulk, Accept, Some((0.85, 0.95))),
    ("bulk, 16 streams", Figure::BulkMany, Plain, Some((0.5, 0.7))),
    ("bulk, 16 streams", Figure::BulkMany, Accept, Some((0.85, 0.95))),
    ("keep-alive requests", Figure::Requests, Plain, Some((0.55, 0.75))),
    ("keep-alive requests", Figure::Requests, Accept, None),
    ("small packets", Figure::Small, Accept, None),
];

/// All rows: each figure of each contender, then the ratios.
pub(super) fn rows(plan: &Plan, record: &Record<Figure>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (figure, what, unit) in FIGURES {
        rows.extend(plan.contenders.iter().filter_map(|contender| {
            let samples = record.samples(*contender, figure)?;
            Some(samples.row(&format!("{what}, {contender}"), unit, None))
        }));
    }
    rows.extend(RATIOS.into_iter().filter_map(|(what, figure, to, bound)| {
        let ratio = record.samples(Logger, figure)?.ratio(&record.samples(to, figure)?);
        let bound = bound.map(|(must, aim)| Bound { must, aim, least: true });
        Some(ratio.row(&format!("{what}, {Logger} / {to}"), "ratio", bound))
    }));
    rows.extend(added(record));
    rows
}

/// How much longer a page takes, of the time that it takes without.
fn added(record: &Record<Figure>) -> Option<Row> {
    let (with, without) = (record.samples(Whole, Figure::Page)?, record.samples(Plain, Figure::Page)?);
    let added = with.minus(&without).ratio(&without);
    let bound = Bound { must: 0.02, aim: 0.005, least: false };
    Some(added.row("time added to a page, proxy and logger / neither", "ratio", Some(bound)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measures::Figures;
    use super::*;
    use crate::bench::taken::{Figure as _, Log};

    #[test]
    fn ratios_have_the_projects_bounds() {
        let file = std::env::temp_dir().join(format!("lab-bench-log-table-{}", std::process::id()));
        let mut log = Log::open(&file, "run", false);
        let taken = [
            (Plain, Figure::Bulk, 1000.0),
            (Accept, Figure::Bulk, 700.0),
            (Logger, Figure::Bulk, 630.0),
            (Plain, Figure::Page, 100.0),
            (Whole, Figure::Page, 103.0),
        ];
        for (contender, figure, value) in taken {
            log.add(1, contender, figure.measure(), Ok(Figures::from([(figure, value)]))).unwrap();
        }
        let rows = rows(&Plan::new(1, Duration::from_secs(1)), &log.finish());
        let row = |what: &str| rows.iter().find(|row| row.what == what).unwrap();
        let bulk = row("bulk, nfq-logger / plain forwarding");
        assert_eq!((bulk.value, bulk.must, bulk.ok), (Some(0.63), Some(0.5), true));
        assert!(row("bulk, nfq-logger / NFQUEUE accept alone").ok);
        let page = row("time added to a page, proxy and logger / neither");
        assert_eq!((page.value, page.ok), (Some(0.03), false));
    }
}
