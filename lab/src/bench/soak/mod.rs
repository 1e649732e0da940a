//! `scripts/bench soak`: the logger at full speed for long, and readers in other processes that verify every byte.
//!
//! Connections of all kinds run from the client through the logger to a server of the benchmark's own. Both ends hash what
//! they send and receive; each eager reader puts the streams together from the log and hashes them, too. One more reader
//! sleeps until it is lapped, again and again: what it says that it lost must make up for what it did not read.

mod endpoints;
mod reader;
mod streams;
mod sum;
mod verdict;

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netfilter::queue::queue_counters;
use nft_rules::LOGGER_QUEUE;
use segment_log::Reader;

pub use reader::read_log;
pub use verdict::Verdict;

use self::endpoints::Ends;
use self::reader::ReaderProcess;
use super::rows::Row;
use super::splice::pin;
use crate::daemons::Daemon;
use crate::faults::Fault;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::{Front, Settings};
use crate::topology::{Node, SERVICE_PORT};

/// Readers that verify everything.
const EAGER: usize = 4;
/// Between two lines of progress.
const STEP: Duration = Duration::from_secs(5);
/// The log has come to its end when nothing was added to it for so long.
const QUIET: Duration = Duration::from_millis(300);

/// How to soak.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long connections are opened.
    pub length: Duration,
    /// Size of the log's ring, bytes.
    pub ring_bytes: u64,
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of a connection at most.
    pub most: u64,
}

impl Plan {
    /// With the ring of an ordinary lab.
    pub fn new(length: Duration) -> Self {
        Self { length, ring_bytes: 128 << 20, connections: 16, most: 128 << 20 }
    }
}

/// Soaks, and makes rows of what came of it.
pub(super) fn measure(lab: &Lab, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    pin()?;
    Ok(run(lab.name(), plan, progress)?.rows(EAGER))
}

/// Soaks in a lab whose name begins with `base`.
pub fn run(base: &str, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Verdict> {
    let lab = up(base, plan)?;
    let log = cluster::runtime::segment_log(lab.name(), Node::Logger.name());
    let readers = (0..=EAGER).map(|place| ReaderProcess::start(&log, place == EAGER));
    let mut readers = readers.collect::<Result<Vec<_>>>()?;
    let ends = Ends::new(SocketAddrV4::new(Node::B1.address(), SERVICE_PORT));
    let started = Instant::now();
    exchange(&lab, plan, &ends, &mut Watch::new(&log, plan, progress)?)?;
    let took = started.elapsed();
    let last = settled(&log)?;
    readers.iter_mut().try_for_each(|reader| reader.end_at(last))?;
    let mut accounts = readers.into_iter().map(ReaderProcess::account).collect::<Result<Vec<_>>>()?;
    let slow = accounts.pop().context("no reader")?;
    let written = Reader::open(&log)?.stats()?.payload_bytes;
    let counters = lab.netns(Node::Logger).within(|| Ok(queue_counters(LOGGER_QUEUE)?))?;
    let (clients, servers) = (ends.clients.into_inner(), ends.servers.into_inner());
    let (clients, servers) = (clients.unwrap_or_default(), servers.unwrap_or_default());
    Ok(Verdict {
        took,
        turns: written as f64 / plan.ring_bytes as f64,
        dropped: counters.map_or(0, |counters| counters.queue_dropped + counters.user_dropped),
        ..Verdict::of(&clients, &servers, &accounts, &slow)
    })
}

/// A lab in which only the logger runs, and nothing listens on the server.
fn up(base: &str, plan: &Plan) -> Result<OwnedLab> {
    let nodes = vec![Node::Client, Node::Proxy, Node::Logger, Node::B1];
    let set = vec![format!("logger.logger.ring_bytes={}", plan.ring_bytes)];
    let settings = Settings { front: Front::None, nodes, set, ..Settings::default() };
    let lab = OwnedLab::up(&format!("{base}-soak"), &settings)?;
    lab.fail(Node::B1, Fault::Kill)?;
    lab.install_rules(Node::Logger)?;
    lab.start_daemon(Daemon::NfqLogger)?;
    Ok(lab)
}

/// Lets the ends exchange as planned, and tells how it goes meanwhile.
fn exchange(lab: &Lab, plan: &Plan, ends: &Ends, watch: &mut Watch<'_>) -> Result<()> {
    let listening = Barrier::new(2);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| ends.run_server(lab, &listening));
        listening.wait();
        let clients = scope.spawn(|| ends.run_clients(lab, plan.connections, plan.most, plan.length));
        while !clients.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            watch.tell(ends.exchanged.load(Ordering::Relaxed))?;
        }
        let results = [clients.join(), server.join()];
        results.into_iter().try_for_each(|done| done.map_err(|_| anyhow::anyhow!("an end panicked"))?)
    })
}

/// Tells now and then how far it is.
struct Watch<'a> {
    reader: Reader,
    length: Duration,
    started: Instant,
    told: Instant,
    progress: &'a mut dyn FnMut(&str),
}

impl<'a> Watch<'a> {
    fn new(log: &Path, plan: &Plan, progress: &'a mut dyn FnMut(&str)) -> Result<Self> {
        let now = Instant::now();
        Ok(Self { reader: Reader::open(log)?, length: plan.length, started: now, told: now, progress })
    }

    fn tell(&mut self, exchanged: u64) -> Result<()> {
        if self.told.elapsed() < STEP {
            return Ok(());
        }
        self.told = Instant::now();
        let (passed, stats) = (self.started.elapsed().as_secs_f64(), self.reader.stats()?);
        let lags = self
            .reader
            .readers()
            .iter()
            .map(|reader| format!("{}", reader.lag_bytes >> 20))
            .collect::<Vec<_>>();
        (self.progress)(&format!(
            "{passed:.0} of {:.0} s: {:.1} GB exchanged, {:.0} MB/s, ring written {:.1} times, readers' lag {} MiB",
            self.length.as_secs_f64(),
            exchanged as f64 / 1e9,
            exchanged as f64 / 1e6 / passed,
            stats.payload_bytes as f64 / stats.ring_bytes as f64,
            lags.join(" "),
        ));
        Ok(())
    }
}

/// The number of the last record, once no more come.
fn settled(log: &Path) -> Result<u64> {
    let reader = Reader::open(log)?;
    let (mut last, mut since) = (reader.stats()?.newest, Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(QUIET / 10);
        let newest = reader.stats()?.newest;
        if newest != last {
            (last, since) = (newest, Instant::now());
        }
    }
    Ok(last)
}
