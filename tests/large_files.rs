//! The large-file rule (paper §3.1): downloads many times the ring's size leave it with its beginning still readable, and are
//! continued where their client has them although the log never had their bytes.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::topology::Node;
use lab::{Fault, Lab};
use segment_log::Reader;

const FILE: &str = "/files/300m";
const SIZE: u64 = 300_000_000;
const RING: u64 = 4 << 20;

fn settings(path: Path) -> Settings {
    let tag = "{method=['GET'], deterministic=true, read_only=true, idempotent=true, large_file=true}";
    let set = vec![format!("tag=[{tag}]"), format!("logger.logger.ring_bytes={RING}")];
    Settings { path, set, ..Settings::default() }
}

/// Another one in every run; a failure names it.
fn anywhere() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 % SIZE
}

fn left_out(lab: &Lab) -> Result<u64> {
    lab.logger_status()?.counters.get("left_out_bytes").copied().context("not counted")
}

/// The server dies when curl has been given this many bytes.
fn survives(lab: &Lab, fault: Fault, offset: u64) -> Result<()> {
    let mut curl = lab.curl(&[&lab.url(FILE)])?;
    curl.read_to(offset.max(1))?;
    let node = lab.serving_any()?;
    lab.fail(node, fault)?;
    curl.finish()?.check(FILE).with_context(|| format!("{node} failed at byte {offset}"))?;
    lab.heal(node)?;
    lab.await_backends()
}

#[test]
fn a_small_ring_lasts_and_downloads_survive() -> Result<()> {
    in_lab(&settings(Path::Kernel), |lab| {
        survives(lab, Fault::Kill, anywhere())?;
        let reader = Reader::open(cluster::runtime::segment_log(lab.name(), Node::Logger.name()))?;
        let stats = reader.stats()?;
        ensure!(stats.ring_bytes == RING && stats.oldest == Some(1), "the ring wrapped: {stats:?}");
        let left_out = left_out(lab)?;
        ensure!(left_out > SIZE / 10 * 9, "only {left_out} bytes were left out of the log");
        for offset in [1, 100_000, SIZE - 1_000_000] {
            survives(lab, Fault::Kill, offset)?;
        }
        survives(lab, Fault::Silent, anywhere())?;
        let recoveries = lab.manager_status()?.recoveries;
        ensure!(!recoveries.is_empty() && recoveries.iter().all(|it| it.ok), "{recoveries:?}");
        Ok(())
    })
}

#[test]
fn so_does_one_over_the_userspace_path() -> Result<()> {
    in_lab(&settings(Path::Userspace), |lab| survives(lab, Fault::Kill, anywhere()))
}
