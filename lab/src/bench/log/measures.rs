//! What is measured of a contender.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::contenders::{Contender, Hop};
use super::page;
use crate::bench::splice::{load, wrk};
use crate::bench::taken;
use crate::bench::usage::machine_cpu_s;
use crate::network;
use crate::topology::Node;

/// One run of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// One bulk stream.
    Bulk,
    /// 16 bulk streams.
    BulkMany,
    /// Requests on keep-alive connections.
    Requests,
    /// Bulk in segments of 500 bytes that nothing puts together.
    Small,
    /// A page of ten requests, one after the other.
    Page,
}

impl Measure {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Bulk, Self::BulkMany, Self::Requests, Self::Small, Self::Page];

    /// Whether it says anything of this contender.
    pub(super) fn concerns(self, contender: Contender) -> bool {
        match contender {
            Contender::Plain => true,
            Contender::Whole => self == Self::Page,
            _ => self != Self::Page,
        }
    }
}

/// One number that a measure yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Figure {
    /// MB/s of one stream.
    Bulk,
    /// MB/s of all streams together.
    BulkMany,
    /// Processor seconds a GB, the whole machine's.
    Cpu,
    /// Packets dropped or not recorded meanwhile.
    Dropped,
    /// Requests a second.
    Requests,
    /// Median latency at that rate, ms.
    P50,
    /// 99th percentile at that rate, ms.
    P99,
    /// Packets a second, both ways.
    Small,
    /// Dropped or not recorded meanwhile.
    SmallDropped,
    /// Median time of a page, ms.
    Page,
}

impl taken::Figure for Figure {
    type Contender = Contender;
    type Measure = Measure;

    fn measure(self) -> Measure {
        match self {
            Self::Bulk => Measure::Bulk,
            Self::BulkMany | Self::Cpu | Self::Dropped => Measure::BulkMany,
            Self::Requests | Self::P50 | Self::P99 => Measure::Requests,
            Self::Small | Self::SmallDropped => Measure::Small,
            Self::Page => Measure::Page,
        }
    }
}

pub(super) type Figures = taken::Figures<Figure>;

/// Streams of [`Measure::BulkMany`].
const STREAMS: usize = 16;
const DOCUMENT: &str = "/files/300m";
/// The client announces it as its MSS, in bytes.
const SMALL_SEGMENT: &str = "500";

impl Hop {
    pub(super) fn measure(
        &mut self,
        measure: Measure,
        length: Duration,
        processors: &[usize],
    ) -> Result<Figures> {
        let before = self.begin()?;
        let measured = match measure {
            Measure::Bulk => self.bulk(1, length).map(|(_, rate)| Figures::from([(Figure::Bulk, rate)])),
            Measure::BulkMany => self.bulk_many(length, processors),
            Measure::Requests => self.requests(length),
            Measure::Small => self.small(length),
            Measure::Page => page::measure(&self.lab, self.contender.address(), length)
                .map(|time| Figures::from([(Figure::Page, time)])),
        };
        let dropped = self.end(before)?;
        let mut figures = measured?;
        match measure {
            Measure::BulkMany => _ = figures.insert(Figure::Dropped, dropped),
            Measure::Small => _ = figures.insert(Figure::SmallDropped, dropped),
            Measure::Bulk | Measure::Requests | Measure::Page => {}
        }
        Ok(figures)
    }

    /// Bytes and MB/s.
    fn bulk(&self, streams: usize, length: Duration) -> Result<(u64, f64)> {
        let (bytes, took) = load::bulk(&self.lab, self.contender.address(), DOCUMENT, streams, length)?;
        Ok((bytes, bytes as f64 / took.as_secs_f64() / 1e6))
    }

    fn bulk_many(&self, length: Duration, processors: &[usize]) -> Result<Figures> {
        let before = machine_cpu_s(processors)?;
        let (bytes, rate) = self.bulk(STREAMS, length)?;
        let used = machine_cpu_s(processors)? - before;
        Ok(Figures::from([(Figure::BulkMany, rate), (Figure::Cpu, used / (bytes as f64 / 1e9))]))
    }

    fn requests(&self, length: Duration) -> Result<Figures> {
        let url = format!("http://{}/files/1k", self.contender.address());
        let said = wrk::run(&self.lab, &url, length, false)?;
        let (p50, p99) = (said.p50_ms(), said.p99_ms());
        Ok(Figures::from([(Figure::Requests, said.rate()), (Figure::P50, p50), (Figure::P99, p99)]))
    }

    fn small(&self, length: Duration) -> Result<Figures> {
        self.offloads("off")?;
        let mut route = Command::new("ip");
        route.args(["route", "replace", "default", "via", "10.77.1.1", "advmss", SMALL_SEGMENT]);
        self.lab.netns(Node::Client).run(&mut route)?;
        let before = self.packets()?;
        let measured = load::bulk(&self.lab, self.contender.address(), DOCUMENT, STREAMS, length);
        let count = self.packets()? - before;
        network::configure(&self.lab, &self.lab.settings()?, Node::Client)?;
        self.offloads("on")?;
        let (_, took) = measured?;
        Ok(Figures::from([(Figure::Small, count as f64 / took.as_secs_f64())]))
    }

    fn offloads(&self, state: &str) -> Result<()> {
        for node in [Node::Client, Node::B1] {
            let mut ethtool = Command::new("ethtool");
            ethtool.args(["-K", "eth0", "tso", state, "gso", state, "gro", state]);
            self.lab.netns(node).run(&mut ethtool)?;
        }
        Ok(())
    }

    /// That have passed the logger's interface to the server, both ways.
    fn packets(&self) -> Result<u64> {
        let text = self.lab.netns(Node::Logger).within(|| {
            #[allow(clippy::disallowed_methods, reason = "the lab is a shell")]
            std::fs::read_to_string("/proc/thread-self/net/dev").context("/proc/net/dev")
        })?;
        packets_of(&text, "to-b1").context("no counters of to-b1")
    }
}

/// Received and sent: the second and the tenth column.
fn packets_of(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let counts: Vec<u64> = line.split_whitespace().map_while(|count| count.parse().ok()).collect();
    Some(counts.get(1)? + counts.get(9)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernels_counters_are_read() {
        let text = "Inter-|   Receive\n face |bytes\n  to-b1: 100 7 0 0 0 0 0 0 200 5 0 0 0 0 0 0\n";
        assert_eq!(super::packets_of(text, "to-b1"), Some(12));
        assert_eq!(super::packets_of(text, "to-b2"), None);
    }
}
