//! `lab bench`: figures with their spread, all contenders interleaved on the same machine.

mod rows;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rows::{Bound, Row, Samples};
use serde::Serialize;

use crate::daemons::Daemon;
use crate::faults::Fault;
use crate::fetch::{Options, Target, fetch};
use crate::http::End;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::{Front, Path, Settings};
use crate::topology::{DIRECT_PORT, Node};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Throughput through resplice, beside plain routing and `HAProxy`'s TCP splice.
    Splice,
    /// The client's longest stall when its server fails.
    Recovery,
}

/// All that a benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The figures.
    pub rows: Vec<Row>,
    /// Where they were measured.
    pub machine: Machine,
    /// Of which version.
    pub commit: String,
}

/// Where something was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Processors.
    pub processors: usize,
    /// Their name.
    pub processor: String,
}

/// Measures; `progress` is told each step.
pub fn bench(lab: &Lab, which: Bench, rounds: usize, progress: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let rows = match which {
        Bench::Splice => splice(lab, rounds, progress)?,
        Bench::Recovery => recovery(lab, rounds, progress)?,
    };
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(Outcome { rows, machine: machine()?, commit: commit.unwrap_or_default() })
}

fn machine() -> Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        processor: name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
    })
}

/// One way from the client to a web server.
struct Contender {
    name: &'static str,
    lab: usize,
    base: String,
    bulk: Samples,
    requests: Samples,
}

fn splice(lab: &Lab, rounds: usize, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let userspace = Settings { path: Path::Userspace, ..Settings::default() };
    let rival = Settings { front: Front::HaproxyTcp, ..Settings::default() };
    let plain = Settings { front: Front::None, ..Settings::default() };
    let name = |suffix: &str| format!("{}-{suffix}", lab.name());
    let labs = [
        OwnedLab::up(&name("plain"), &plain)?,
        OwnedLab::up(&name("kernel"), &Settings::default())?,
        OwnedLab::up(&name("user"), &userspace)?,
        OwnedLab::up(&name("haproxy"), &rival)?,
    ];
    let vip = lab.url("");
    let direct = format!("http://{}:{DIRECT_PORT}", Node::B1.address());
    let contender = |name, lab, base: &str| Contender {
        name,
        lab,
        base: base.to_owned(),
        bulk: Samples::default(),
        requests: Samples::default(),
    };
    let mut contenders = [
        contender("plain", 0, &direct),
        contender("kernel path", 1, &vip),
        contender("userspace path", 2, &vip),
        contender("HAProxy TCP splice", 3, &vip),
    ];
    for round in 1..=rounds {
        for contender in &mut contenders {
            let lab = labs.get(contender.lab).context("no such lab")?;
            progress(&format!("round {round} of {rounds}: {}", contender.name));
            contender.bulk.push(bulk(lab, &contender.base));
            contender.requests.push(requests(lab, &contender.base));
        }
    }
    let mut rows = compare(&contenders);
    rows.extend(memory(labs.get(1).map(|own| &**own)));
    Ok(rows)
}

/// Megabytes per second of one download.
fn bulk(lab: &Lab, base: &str) -> Result<f64> {
    let url = format!("{base}/files/300m");
    let arguments = ["-sS", "-f", "--max-time", "60", "-o", "/dev/null", "-w", "%{speed_download}", &url];
    Ok(lab.on_client("curl", &arguments)?.trim().parse::<f64>()? / 1e6)
}

/// Requests per second on 16 keep-alive connections.
fn requests(lab: &Lab, base: &str) -> Result<f64> {
    let url = format!("{base}/files/1k");
    let said = lab.on_client("wrk", &["-t1", "-c16", "-d2s", "--timeout", "5s", &url])?;
    ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "wrk reports errors: {said}");
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    Ok(rate.with_context(|| format!("wrk says no rate: {said}"))?.trim().parse()?)
}

fn compare(contenders: &[Contender; 4]) -> Vec<Row> {
    let [plain, kernel, userspace, haproxy] = contenders;
    let mut rows = Vec::new();
    for contender in contenders {
        rows.push(contender.bulk.row(&format!("bulk, {}", contender.name), "MB/s", None));
        rows.push(contender.requests.row(&format!("requests, {}", contender.name), "1/s", None));
    }
    let bound = |must, aim| Some(Bound { must, aim, least: true });
    let ratio = |what: &str, of: &Samples, to: &Samples, bound| of.ratio(to).row(what, "ratio", bound);
    rows.push(ratio("bulk, kernel path / plain", &kernel.bulk, &plain.bulk, bound(0.9, 0.98)));
    rows.push(ratio("bulk, userspace path / plain", &userspace.bulk, &plain.bulk, None));
    rows.push(ratio("bulk, kernel path / HAProxy", &kernel.bulk, &haproxy.bulk, bound(1.0, 3.0)));
    rows.push(ratio("requests, kernel path / plain", &kernel.requests, &plain.requests, bound(0.9, 0.98)));
    rows.push(ratio("requests, userspace path / plain", &userspace.requests, &plain.requests, None));
    rows.push(ratio("requests, kernel path / HAProxy", &kernel.requests, &haproxy.requests, bound(1.0, 1.5)));
    rows
}

/// Resident memory of each daemon after all that.
fn memory(lab: Option<&Lab>) -> Vec<Row> {
    let row = |daemon: Daemon| {
        let mut samples = Samples::default();
        samples.push(lab.context("no lab").and_then(|lab| resident(lab, daemon)));
        samples.row(&format!("resident memory, {}", daemon.name()), "MB", None)
    };
    Daemon::ALL.into_iter().map(row).collect()
}

fn resident(lab: &Lab, daemon: Daemon) -> Result<f64> {
    let process = lab.daemon(daemon).context("it does not run")?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1e3)
}

fn recovery(lab: &Lab, rounds: usize, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let own = OwnedLab::up(&format!("{}-recovery", lab.name()), &Settings::default())?;
    let faults = [("kill", Fault::Kill, 20.0), ("silent", Fault::Silent, 300.0)];
    let mut stalls = faults.map(|_| Samples::default());
    for round in 1..=rounds {
        for ((name, fault, _), samples) in faults.into_iter().zip(&mut stalls) {
            progress(&format!("round {round} of {rounds}: {name}"));
            samples.push(stall(&own, fault));
        }
    }
    let bound = |aim| Some(Bound { must: 940.0, aim, least: false });
    let row = |((name, _, aim), samples): ((&str, _, f64), &Samples)| {
        samples.row(&format!("client's longest stall, {name}"), "ms", bound(aim))
    };
    Ok(faults.into_iter().zip(&stalls).map(row).collect())
}

fn stall(lab: &Lab, fault: Fault) -> Result<f64> {
    lab.await_backends()?;
    let options = Options {
        target: Target::parse("/files/300m")?,
        rate: Some(100_000_000),
        receive_buffer: Some(256 << 10),
        patience: Duration::from_secs(20),
        fail: Some((fault, 50_000_000)),
    };
    let report = fetch(lab, &options, &mut |_| ())?;
    if let Some(node) = report.failed {
        lab.heal(node)?;
    }
    ensure!(
        report.end == End::Complete,
        "the download ended by {:?} after {} bytes",
        report.end,
        report.bytes
    );
    Ok(report.longest_gap_ms)
}
