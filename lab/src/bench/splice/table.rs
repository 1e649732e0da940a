//! The rows made of the measurements, with their bounds.

#![deny(clippy::disallowed_methods)]

use anyhow::anyhow;

use super::Plan;
use super::contenders::Contender::{self, HaproxyHttp, HaproxyTcp, Kernel, Plain, Userspace};
use super::measures::Figure;
use crate::bench::rows::{Bound, Row, Samples};
use crate::bench::taken::Record;

/// Most bytes of the daemon's own memory for a spliced connection.
const MEMORY: Bound = Bound { must: 512.0, aim: 256.0, least: false };

/// All rows: each figure of each contender, then the ratios.
pub(super) fn rows(plan: &Plan, record: &Record<Figure>) -> Vec<Row> {
    let table = Table { plan, record };
    let mut rows = Vec::new();
    for (figure, what, unit) in FIGURES {
        rows.extend(plan.contenders.iter().filter_map(|contender| {
            let bound = (figure == Figure::Idle || figure == Figure::Busy).then_some(MEMORY);
            let bound = bound.filter(|_| matches!(contender, Kernel | Userspace));
            Some(table.samples(*contender, figure)?.row(&table.name(what, figure, *contender), unit, bound))
        }));
    }
    rows.extend(RATIOS.into_iter().filter_map(|ratio| table.ratio(&ratio)));
    rows.extend(table.added_latency());
    rows
}

const FIGURES: [(Figure, &str, &str); 12] = [
    (Figure::Bulk, "bulk, one stream", "MB/s"),
    (Figure::BulkMany, "bulk, 16 streams", "MB/s"),
    (Figure::CpuMachine, "processor time, whole machine", "s/GB"),
    (Figure::CpuOwn, "processor time, its processes", "s/GB"),
    (Figure::Requests, "keep-alive requests", "1/s"),
    (Figure::P50, "median latency at that rate", "ms"),
    (Figure::P99, "p99 latency at that rate", "ms"),
    (Figure::Connections, "new connections", "1/s"),
    (Figure::FewPorts, "new connections, 2,000 client ports", "1/s"),
    (Figure::HalfLoadP99, "p99 latency at half load", "ms"),
    (Figure::Idle, "memory a connection, COUNT idle", "B"),
    (Figure::Busy, "memory a connection, COUNT busy", "B"),
];

/// One contender's figure over another's, and what it must be at least.
struct Ratio {
    what: &'static str,
    figure: Figure,
    of: Contender,
    to: Contender,
    bound: Option<Bound>,
}

const fn ratio(
    what: &'static str,
    figure: Figure,
    (of, to): (Contender, Contender),
    bound: Option<(f64, f64)>,
) -> Ratio {
    let bound = match bound {
        Some((must, aim)) => Some(Bound { must, aim, least: true }),
        None => None,
    };
    Ratio { what, figure, of, to, bound }
}

const RATIOS: [Ratio; 18] = [
    ratio("bulk", Figure::Bulk, (Kernel, Plain), Some((0.9, 0.98))),
    ratio("bulk", Figure::Bulk, (Kernel, HaproxyTcp), Some((2.0, 4.0))),
    ratio("bulk", Figure::Bulk, (Userspace, HaproxyTcp), Some((1.2, 1.8))),
    ratio("bulk", Figure::Bulk, (Userspace, Plain), None),
    ratio("bulk, 16 streams", Figure::BulkMany, (Kernel, Plain), Some((0.9, 0.98))),
    ratio("bulk, 16 streams", Figure::BulkMany, (Kernel, HaproxyTcp), Some((2.0, 4.0))),
    ratio("bulk, 16 streams", Figure::BulkMany, (Userspace, HaproxyTcp), Some((1.2, 1.8))),
    ratio("bulk, 16 streams", Figure::BulkMany, (Userspace, Plain), None),
    ratio("keep-alive requests", Figure::Requests, (Userspace, Plain), Some((0.85, 0.95))),
    ratio("keep-alive requests", Figure::Requests, (Kernel, Plain), Some((0.9, 0.98))),
    ratio("keep-alive requests", Figure::Requests, (Kernel, HaproxyHttp), Some((1.4, 2.0))),
    ratio("keep-alive requests", Figure::Requests, (Userspace, HaproxyHttp), Some((1.4, 2.0))),
    ratio("new connections", Figure::Connections, (Kernel, HaproxyHttp), Some((1.0, 1.5))),
    ratio("new connections", Figure::Connections, (Userspace, HaproxyHttp), Some((1.0, 1.5))),
    ratio("new connections", Figure::Connections, (Kernel, Plain), None),
    ratio("new connections, 2,000 ports", Figure::FewPorts, (Kernel, HaproxyHttp), Some((1.0, 1.5))),
    ratio("new connections, 2,000 ports", Figure::FewPorts, (Userspace, HaproxyHttp), Some((1.0, 1.5))),
    ratio("new connections, 2,000 ports", Figure::FewPorts, (Kernel, Plain), None),
];

struct Table<'a> {
    plan: &'a Plan,
    record: &'a Record<Figure>,
}

impl Table<'_> {
    /// `None` if this contender or figure was not asked for.
    fn samples(&self, contender: Contender, figure: Figure) -> Option<Samples> {
        self.record.samples(contender, figure)
    }

    fn name(&self, what: &str, figure: Figure, contender: Contender) -> String {
        let count = if figure == Figure::Idle { self.plan.idle_of(contender) } else { self.plan.busy };
        format!("{}, {}", what.replace("COUNT", &count.to_string()), contender.name())
    }

    fn ratio(&self, ratio: &Ratio) -> Option<Row> {
        let (of, to) = (self.samples(ratio.of, ratio.figure)?, self.samples(ratio.to, ratio.figure)?);
        let what = format!("{}, {} / {}", ratio.what, ratio.of.name(), ratio.to.name());
        Some(of.ratio(&to).row(&what, "ratio", ratio.bound))
    }

    /// How much longer than by plain forwarding the slowest hundredth takes, each at half of its own rate. resplice
    /// may add as much as `HAProxy` does, and should add half of it; if that is less than nothing, noise is measured.
    fn added_latency(&self) -> Vec<Row> {
        let Some(plain) = self.samples(Plain, Figure::HalfLoadP99) else { return Vec::new() };
        let added = |contender: Contender| Some(self.samples(contender, Figure::HalfLoadP99)?.minus(&plain));
        let rival = added(HaproxyHttp).and_then(|samples| samples.median());
        let row = |contender: &Contender| {
            let what = format!("p99 latency added at half load, {}", contender.name());
            let mut samples = added(*contender)?;
            let bounded = matches!(contender, Kernel | Userspace);
            let bound =
                rival.filter(|_| bounded).map(|must| Bound { must, aim: must.min(must / 2.0), least: false });
            if bounded && bound.is_none() && self.plan.contenders.contains(&HaproxyHttp) {
                samples.push(Err(anyhow!("there is no figure of HAProxy's to compare with")));
            }
            Some(samples.row(&what, "ms", bound))
        };
        let others = self.plan.contenders.iter().filter(|contender| **contender != Plain);
        others.filter_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measures::Figures;
    use super::*;
    use crate::bench::taken::{Figure as _, Log};

    fn rows_of(name: &str, taken: &[(Contender, Figure, Option<f64>)]) -> Vec<Row> {
        let file = std::env::temp_dir().join(format!("lab-bench-table-{}-{name}", std::process::id()));
        let mut log = Log::open(&file, "run", false);
        for (contender, figure, value) in taken {
            let result =
                value.map(|value| Figures::from([(*figure, value)])).ok_or_else(|| anyhow!("did not run"));
            log.add(1, *contender, figure.measure(), result).unwrap();
        }
        rows(&Plan::new(1, Duration::from_secs(1)), &log.finish())
    }

    fn row<'a>(rows: &'a [Row], what: &str) -> &'a Row {
        rows.iter().find(|row| row.what == what).unwrap()
    }

    #[test]
    fn the_added_latency_may_be_as_much_as_haproxys() {
        let taken = |kernel| {
            let figure = Figure::HalfLoadP99;
            [(Plain, figure, Some(1.0)), (Kernel, figure, Some(kernel)), (HaproxyHttp, figure, Some(3.0))]
        };
        let what = "p99 latency added at half load, resplice kernel path";
        let rows = rows_of("kept", &taken(2.5));
        let kept = row(&rows, what);
        assert_eq!((kept.value, kept.must, kept.aim, kept.ok), (Some(1.5), Some(2.0), Some(1.0), true));
        assert!(!row(&rows_of("not", &taken(3.5)), what).ok);
    }

    #[test]
    fn without_haproxy_nothing_is_kept() {
        let figure = Figure::HalfLoadP99;
        let taken = [(Plain, figure, Some(1.0)), (Kernel, figure, Some(1.0)), (HaproxyHttp, figure, None)];
        let rows = rows_of("missing", &taken);
        assert!(!row(&rows, "p99 latency added at half load, resplice kernel path").ok);
        let rival = row(&rows, "p99 latency added at half load, HAProxy HTTP");
        assert_eq!((rival.value, rival.ok), (None, false));
    }

    #[test]
    fn ratios_and_memory_have_the_projects_bounds() {
        let taken = [
            (Plain, Figure::Bulk, Some(1000.0)),
            (Kernel, Figure::Bulk, Some(950.0)),
            (Kernel, Figure::Idle, Some(300.0)),
            (HaproxyHttp, Figure::Idle, Some(1100.0)),
        ];
        let rows = rows_of("bounds", &taken);
        let bulk = row(&rows, "bulk, resplice kernel path / plain forwarding");
        assert_eq!((bulk.value, bulk.must, bulk.aim, bulk.ok), (Some(0.95), Some(0.9), Some(0.98), true));
        assert_eq!(row(&rows, "memory a connection, 10000 idle, resplice kernel path").must, Some(512.0));
        assert_eq!(row(&rows, "memory a connection, 10000 idle, HAProxy HTTP").must, None);
    }
}
