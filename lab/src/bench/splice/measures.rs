//! What is measured of a contender, one after the other.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::contenders::Contender;
use super::load::{self, Schedule, percentile};
use super::{Plan, wrk};
use crate::bench::taken;
use crate::bench::usage::{cpu_s, machine_cpu_s, resident};
use crate::lab::Lab;
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
    /// Connections with one request each.
    Connections,
    /// The same, from so few client ports that each comes round within a second.
    FewPorts,
    /// Latency at half the rate of `requests`.
    HalfLoad,
    /// Memory of idle connections.
    Idle,
    /// Memory of busy connections.
    Busy,
}

/// One number that a measure yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Figure {
    /// MB/s of one stream.
    Bulk,
    /// MB/s of all streams together.
    BulkMany,
    /// Processor seconds a GB, with several streams: the whole machine's.
    CpuMachine,
    /// The contender's processes' share of them.
    CpuOwn,
    /// Requests a second.
    Requests,
    /// Median latency at that rate, ms.
    P50,
    /// 99th percentile at that rate, ms.
    P99,
    /// Connections a second.
    Connections,
    /// Connections a second from few ports.
    FewPorts,
    /// 99th percentile of the latency at half load, the median of several runs, ms.
    HalfLoadP99,
    /// Bytes of memory an idle connection.
    Idle,
    /// Bytes of memory a busy connection.
    Busy,
}

impl taken::Figure for Figure {
    type Contender = Contender;
    type Measure = Measure;

    fn measure(self) -> Measure {
        match self {
            Self::Bulk => Measure::Bulk,
            Self::BulkMany | Self::CpuMachine | Self::CpuOwn => Measure::BulkMany,
            Self::Requests | Self::P50 | Self::P99 => Measure::Requests,
            Self::Connections => Measure::Connections,
            Self::FewPorts => Measure::FewPorts,
            Self::HalfLoadP99 => Measure::HalfLoad,
            Self::Idle => Measure::Idle,
            Self::Busy => Measure::Busy,
        }
    }
}

/// What a measure yielded.
pub(super) type Figures = taken::Figures<Figure>;

/// Streams of [`Measure::BulkMany`].
const STREAMS: usize = 16;
/// How often it opens them anew in one measurement: on which processors both ends of each run is chance, and decides its rate.
const OPENINGS: usize = 8;
/// Seconds of [`Measure::HalfLoad`] whose median counts: one pause of a processor, of 10 ms, moves the p99 of its second.
const HALF_LOADS: usize = 5;
/// Client ports of [`Measure::FewPorts`].
const FEW_PORTS: &str = "10000 11999";
const ALL_PORTS: &str = "32768 60999";
/// How often as many handshakes as there will be at a time are made before memory is measured.
const WARMING: usize = 4;
/// After that the proxy's queues have had packets of a connection, too.
const OUTLIVES_YOUTH: Duration = Duration::from_millis(400);
/// Files of a proxy's process that are not clients' or servers'.
const OTHER_FILES: usize = 200;

impl Measure {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Bulk,
        Self::BulkMany,
        Self::Requests,
        Self::Connections,
        Self::FewPorts,
        Self::HalfLoad,
        Self::Idle,
        Self::Busy,
    ];

    /// Whether it says anything of this contender: plain forwarding keeps nothing.
    pub(super) fn concerns(self, contender: Contender) -> bool {
        contender != Contender::Plain || !matches!(self, Self::Idle | Self::Busy)
    }
}

/// A contender in its lab.
pub(super) struct Subject<'a> {
    pub(super) contender: Contender,
    pub(super) lab: &'a Lab,
    pub(super) plan: &'a Plan,
}

impl Subject<'_> {
    /// Measures. `rate`: requests a second measured before, for [`Measure::HalfLoad`]. For the memory, the lab is fresh.
    pub(super) fn measure(&self, measure: Measure, rate: Option<f64>) -> Result<Figures> {
        match measure {
            Measure::Bulk => {
                let (_, rate) = self.bulk(1, 1)?;
                Ok(Figures::from([(Figure::Bulk, rate)]))
            }
            Measure::BulkMany => self.bulk_many(),
            Measure::Requests => {
                let said = wrk::run(self.lab, &self.url("/files/1k"), self.plan.length, false)?;
                let (p50, p99) = (said.p50_ms(), said.p99_ms());
                Ok(Figures::from([(Figure::Requests, said.rate()), (Figure::P50, p50), (Figure::P99, p99)]))
            }
            Measure::Connections => Ok(Figures::from([(Figure::Connections, self.connections()?)])),
            Measure::FewPorts => {
                self.client_ports(FEW_PORTS)?;
                let rate = self.connections();
                self.client_ports(ALL_PORTS)?;
                Ok(Figures::from([(Figure::FewPorts, rate?)]))
            }
            Measure::HalfLoad => self.half_load(rate),
            Measure::Idle => Ok(Figures::from([(Figure::Idle, self.idle()?)])),
            Measure::Busy => Ok(Figures::from([(Figure::Busy, self.busy()?)])),
        }
    }

    fn address(&self) -> SocketAddrV4 {
        self.contender.address()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Bytes and MB/s, with connections opened so often.
    fn bulk(&self, streams: usize, openings: usize) -> Result<(u64, f64)> {
        let (mut bytes, mut took) = (0, Duration::ZERO);
        for _ in 0..openings {
            let run = load::bulk(self.lab, self.address(), "/files/300m", streams, self.plan.length)?;
            (bytes, took) = (bytes + run.0, took + run.1);
        }
        Ok((bytes, bytes as f64 / took.as_secs_f64() / 1e6))
    }

    fn bulk_many(&self) -> Result<Figures> {
        let processes = self.contender.processes(self.lab);
        let usage = || anyhow::Ok((machine_cpu_s(&self.plan.processors)?, cpu_s(&processes)?));
        let (machine, own) = usage()?;
        let (bytes, rate) = self.bulk(STREAMS, OPENINGS)?;
        let (machine_after, own_after) = usage()?;
        let gigabytes = bytes as f64 / 1e9;
        Ok(Figures::from([
            (Figure::BulkMany, rate),
            (Figure::CpuMachine, (machine_after - machine) / gigabytes),
            (Figure::CpuOwn, (own_after - own) / gigabytes),
        ]))
    }

    fn connections(&self) -> Result<f64> {
        Ok(wrk::run(self.lab, &self.url("/files/1k"), self.plan.length, true)?.rate())
    }

    fn client_ports(&self, range: &str) -> Result<()> {
        self.lab.netns(Node::Client).sysctl("net/ipv4/ip_local_port_range", range)
    }

    fn half_load(&self, rate: Option<f64>) -> Result<Figures> {
        let rate = rate.context("its rate of requests was not measured")? / 2.0;
        let schedule = Schedule { rate, length: self.plan.length };
        let p99 = || {
            let latencies =
                load::constant_rate(self.lab, self.address(), "/files/1k", wrk::CONNECTIONS, schedule)?;
            percentile(&latencies, 0.99).context("no request in that time")
        };
        let mut p99s = (0..HALF_LOADS).map(|_| p99()).collect::<Result<Vec<_>>>()?;
        p99s.sort_unstable();
        let median = percentile(&p99s, 0.5).context("nothing was measured")?;
        Ok(Figures::from([(Figure::HalfLoadP99, median.as_secs_f64() * 1e3)]))
    }

    /// Bytes an idle connection: resident memory with and without them.
    fn idle(&self) -> Result<f64> {
        let count = self.plan.idle_of(self.contender);
        let (processes, before) = self.warm()?;
        let after = load::hold(self.lab, self.address(), "/files/1k", count, || resident(&processes))?;
        Ok((after - before) / count as f64)
    }

    /// Bytes a busy connection.
    fn busy(&self) -> Result<f64> {
        let count = self.plan.busy;
        let (processes, before) = self.warm()?;
        let load = (count, self.plan.length);
        let after = load::busy(self.lab, self.address(), "/files/64k", load, || resident(&processes))?;
        Ok((after - before) / count as f64)
    }

    /// Memory that does not depend on the number of connections, like receive buffers, is in use after this.
    fn warm(&self) -> Result<(Vec<crate::process::Process>, f64)> {
        let processes = self.contender.processes(self.lab);
        ensure!(!processes.is_empty(), "{} does not run", self.contender.name());
        load::bulk(self.lab, self.address(), "/files/1m", STREAMS, Duration::from_millis(300))?;
        for _ in 0..WARMING {
            load::busy(self.lab, self.address(), "/files/1k", (load::OPENING, OUTLIVES_YOUTH), || Ok(()))?;
        }
        let before = resident(&processes)?;
        Ok((processes, before))
    }
}

impl Plan {
    /// The most files that this process and its children may open.
    fn files() -> usize {
        getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |files| files as usize)
    }

    /// Idle connections that this contender's process has files for.
    pub(super) fn idle_of(&self, contender: Contender) -> usize {
        let room = Self::files().saturating_sub(OTHER_FILES).checked_div(contender.sockets_when_idle());
        room.map_or(self.idle, |room| room.min(self.idle))
    }
}
