//! The rows made of the measurements, with their bounds.

#![deny(clippy::disallowed_methods)]

use anyhow::anyhow;

use super::Plan;
use super::contenders::Contender::{self, HaproxyHttp, HaproxyTcp, Kernel, Plain, Userspace};
use super::measures::Figure;
use super::taken::Record;
use crate::bench::rows::{Bound, Row, Samples};

/// Most bytes of the daemon's own memory for a spliced connection.
const MEMORY: Bound = Bound { must: 512.0, aim: 256.0, least: false };

/// All rows: each figure of each contender, then the ratios.
pub(super) fn rows(plan: &Plan, record: &Record) -> Vec<Row> {
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
    record: &'a Record,
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
    /// may add as much as `HAProxy` does, and should add half of it.
    fn added_latency(&self) -> Vec<Row> {
        let Some(plain) = self.samples(Plain, Figure::HalfLoadP99) else { return Vec::new() };
        let added = |contender: Contender| Some(self.samples(contender, Figure::HalfLoadP99)?.minus(&plain));
        let rival = added(HaproxyHttp).and_then(|samples| samples.median());
        let row = |contender: &Contender| {
            let what = format!("p99 latency added at half load, {}", contender.name());
            let mut samples = added(*contender)?;
            let bounded = matches!(contender, Kernel | Userspace);
            let bound = rival.filter(|_| bounded).map(|must| Bound { must, aim: must / 2.0, least: false });
            if bounded && bound.is_none() && self.plan.contenders.contains(&HaproxyHttp) {
                samples.push(Err(anyhow!("there is no figure of HAProxy's to compare with")));
            }
            Some(samples.row(&what, "ms", bound))
        };
        let others = self.plan.contenders.iter().filter(|contender| **contender != Plain);
        others.filter_map(row).collect()
    }
}
