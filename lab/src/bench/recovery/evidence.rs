//! What is kept of a case that shows a failure, and how to repeat it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::record::{Fate, Record, Transferred};
use crate::daemons::Daemon;
use crate::lab::Lab;
use crate::process::{Process, signal_pid};
use crate::topology::Node;

/// Lines of each daemon's log.
const LINES: usize = 400;
/// Where packets are captured.
const CAPTURED: [Node; 2] = [Node::Proxy, Node::Logger];

/// Running captures of a lab's packets.
#[derive(Debug)]
pub(super) struct Capture(Vec<(Node, Child)>);

impl Capture {
    /// Captures on all interfaces of proxy and logger, until it is stopped.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let start = |node: Node| {
            let mut tcpdump = Command::new("tcpdump");
            tcpdump
                .args(["-i", "any", "--immediate-mode", "-s", "160", "-B", "65536", "-U", "-w"])
                .arg(file(lab, node));
            tcpdump.stdin(Stdio::null()).stderr(Stdio::null());
            Ok((node, lab.netns(node).spawn(&mut tcpdump)?))
        };
        let running = CAPTURED.into_iter().map(start).collect::<Result<_>>().map(Self);
        // tcpdump says nothing when it has begun.
        std::thread::sleep(Duration::from_millis(500));
        running
    }

    /// Nobody is interested.
    pub(super) fn end(mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, tcpdump)| end(tcpdump))
    }

    fn stop(self, lab: &Lab, into: &Path) -> Result<()> {
        for (node, mut tcpdump) in self.0 {
            end(&mut tcpdump)?;
            let name = format!("{node}.pcap");
            fs::copy(file(lab, node), into.join(&name)).with_context(|| format!("keeping {name}"))?;
        }
        Ok(())
    }
}

fn end(tcpdump: &mut Child) -> Result<()> {
    signal_pid(tcpdump.id(), Signal::INT);
    tcpdump.wait()?;
    Ok(())
}

fn file(lab: &Lab, node: Node) -> std::path::PathBuf {
    lab.dir().join(format!("{node}.pcap"))
}

/// Writes the record, the daemons' logs, their counters and the captures into a directory.
pub(super) fn keep(lab: &Lab, into: &Path, record: &Record, capture: Option<Capture>) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("making {}", into.display()))?;
    fs::write(into.join("record.json"), serde_json::to_vec_pretty(record)?)?;
    for daemon in Daemon::ALL {
        fs::write(into.join(format!("{}.log", daemon.name())), lab.log_tail(daemon, LINES))?;
        if lab.daemon(daemon).is_none_or(|process: Process| !process.alive()) {
            fs::write(into.join(format!("{}.dead", daemon.name())), "it does not run any more\n")?;
        }
    }
    let counters = (
        lab.proxy_status().map(|status| status.counters),
        lab.manager_status().map(|status| status.counters),
    );
    fs::write(into.join("counters.txt"), format!("{counters:#?}\n"))?;
    capture.map_or(Ok(()), |capture| capture.stop(lab, into))
}

/// One line for each thing that is wrong, and the command that repeats it.
pub(super) fn in_words(record: &Record, seed: u64) -> String {
    let Record { number, front, condition, fault, .. } = record;
    let what = match &record.outcome {
        Err(reason) => reason.clone(),
        Ok(transfers) => {
            let wrong = transfers.iter().filter(|transfer| !transfer.fine());
            wrong.map(one).collect::<Vec<_>>().join("; ")
        }
    };
    let again = format!("scripts/bench recovery --seed {seed} --failures {number} --case {number}");
    format!(
        "case {number} ({front:?}, {}, {fault:?}): {what}. Again, with captures: {again}",
        condition.name()
    )
}

fn one(transfer: &Transferred) -> String {
    let Transferred { kind, client, miscounted, recoveries, .. } = transfer;
    let fate = match &transfer.fate {
        Fate::Right | Fate::OtherChunks | Fate::Reset { recoverable: false, .. } => "miscounted".to_owned(),
        Fate::Wrong(why) => format!("WRONG BYTES, {why}"),
        Fate::Reset { after, .. } => format!("reset though recoverable, {after}"),
        Fate::Hung(why) => format!("HUNG, {why}"),
        Fate::Refused(why) => format!("refused, {why}"),
    };
    let outcomes: Vec<&str> = recoveries.iter().map(|recovered| recovered.outcome.as_str()).collect();
    format!("{kind:?} of {client}: {fate} {miscounted:?} {outcomes:?}")
}
