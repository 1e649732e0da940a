//! `lab demo`: the main job, and what others make of the same failure.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::daemons::binary;
use crate::faults::Fault;
use crate::fetch::{Options, Report, Target, fetch};
use crate::http::End;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::{Front, Settings};
use crate::testing::hash_of;
use crate::topology::Node;

const DOCUMENT: &str = "/files/300m";
const SIZE: u64 = 300_000_000;
/// Bytes a second that the client takes: so that one can watch.
const RATE: u64 = 60_000_000;
const FAILS_AT: u64 = 100_000_000;
/// A small one, that it hides no stall: about 2 ms at that rate.
const RECEIVE_BUFFER: usize = 256 << 10;
const CONTENDERS: [(&str, Front); 3] =
    [("resplice", Front::Resplice), ("nginx", Front::Nginx), ("HAProxy", Front::Haproxy)];
const FAULTS: [(&str, Fault); 2] = [("killed", Fault::Kill), ("silent", Fault::Silent)];

/// One line of the table.
struct Row {
    fault: &'static str,
    contender: &'static str,
    report: Report,
}

/// Runs all downloads, shows their progress on `out`, then the table.
pub fn demo(lab: &Lab, out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "A client downloads 300 MB at 60 MB/s over one TCP connection. At 100 MB its web server is killed\n\
         (SIGKILL), or its host falls silent (drops every packet). A second server has the same document.\n"
    )?;
    let mut rows = Vec::new();
    let mut story = String::new();
    for (contender, front) in CONTENDERS {
        let settings = Settings { front, ..Settings::default() };
        let own = OwnedLab::up(&format!("{}-demo", lab.name()), &settings)?;
        for (fault_name, fault) in FAULTS {
            let report = download(&own, front, fault, &format!("{contender}, {fault_name}"), out)?;
            rows.push(Row { fault: fault_name, contender, report });
        }
        if front == Front::Resplice {
            story = status(&own)?;
        }
    }
    rows.sort_by_key(|row| FAULTS.iter().position(|(name, _)| *name == row.fault));
    writeln!(out, "\n$ resplice status\n{}\n", story.trim_end())?;
    table(&rows, out)?;
    let kept = |row: &Row| row.contender != "resplice" || row.report.complete;
    ensure!(rows.iter().all(kept), "resplice did not keep the client's download");
    Ok(())
}

/// One download with its failure, on healthy servers; they are healthy again afterwards.
fn download(lab: &Lab, front: Front, fault: Fault, what: &str, out: &mut dyn Write) -> Result<Report> {
    if front == Front::Resplice {
        lab.await_backends()?;
    }
    let options = Options {
        target: Target::parse(DOCUMENT)?,
        rate: Some(RATE),
        receive_buffer: Some(RECEIVE_BUFFER),
        patience: Duration::from_secs(30),
        fail: Some((fault, FAILS_AT)),
    };
    let mut shown = Instant::now();
    let report = fetch(lab, &options, &mut |bytes| {
        if shown.elapsed() > Duration::from_millis(50) {
            shown = Instant::now();
            // What cannot be shown does not stop the measurement.
            let _ = bar(what, bytes, out);
        }
    })?;
    bar(what, report.bytes, out)?;
    writeln!(out)?;
    lab.heal(report.failed.context("nothing failed")?)?;
    Ok(report)
}

fn bar(what: &str, bytes: u64, out: &mut dyn Write) -> Result<()> {
    const WIDTH: u64 = 40;
    let done = (bytes * WIDTH / SIZE) as usize;
    let left = WIDTH as usize - done;
    write!(out, "\r  {what:<18} [{}{}] {:>3} MB ", "#".repeat(done), ".".repeat(left), bytes / 1_000_000)?;
    Ok(out.flush()?)
}

fn status(lab: &Lab) -> Result<String> {
    let mut command = Command::new(binary("resplice")?);
    command.args(["status", "--run-dir"]).arg(lab.run_dir(Node::Proxy));
    let said = lab.netns(Node::Proxy).run(&mut command)?;
    Ok(said.split("\nCounters").next().unwrap_or_default().to_owned())
}

fn table(rows: &[Row], out: &mut dyn Write) -> Result<()> {
    let expected = hash_of(DOCUMENT)?;
    writeln!(
        out,
        "{:<8} {:<9} {:>14} {:>12}  {:<9} the client sees",
        "server", "proxy", "longest stall", "bytes", "SHA-256"
    )?;
    for Row { fault, contender, report } in rows {
        let equal = if report.sha256 == expected { "equal" } else { "differs" };
        let stall = match report.end {
            End::Complete => format!("{:.1} ms", report.longest_gap_ms),
            _ => "never goes on".to_owned(),
        };
        writeln!(
            out,
            "{fault:<8} {contender:<9} {stall:>14} {:>12}  {equal:<9} {}",
            report.bytes,
            seen(report)
        )?;
    }
    writeln!(
        out,
        "\nStalls are measured at the client. nginx and HAProxy retry as far as they can, and give a silent\n\
         server up after {} s (nginx's default is 60 s).",
        crate::fronts::RESPONSE_TIMEOUT_S
    )?;
    Ok(())
}

fn seen(report: &Report) -> String {
    let waited = report.longest_gap_ms / 1e3;
    match report.end {
        End::Complete => "a complete download on one connection".to_owned(),
        End::Closed | End::Reset if waited > 1.0 => format!("a download cut after {waited:.1} s of silence"),
        End::Closed | End::Reset => "a download cut at once".to_owned(),
        End::Stalled => format!("silence, until it gave up after {waited:.1} s"),
    }
}
