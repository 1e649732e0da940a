//! Readers of the log, each a process of its own: `lab read-log`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::setpriority_process;
use segment_log::{Flags, ReadError, Reader};

use super::streams::Streams;
use super::sum::Account;
use crate::daemons::binary;

/// How long a reader sleeps at most before it looks whether it is to end.
const NAP: Duration = Duration::from_millis(100);
/// Records that a slow reader reads between two of its sleeps.
const GULP: usize = 2000;
const READY: &str = "reading";

/// The process: reads the log from now on, up to the record whose number comes on standard input; then prints its
/// account. A slow one sleeps until it is lapped, again and again.
pub fn read_log(log: &Path, slow: bool) -> Result<()> {
    if !slow {
        // The soak is of the log, not of the scheduler: where they starve, they are lapped.
        setpriority_process(None, -10)?;
    }
    let mut reader = Reader::open(log)?.at_end().announced()?;
    println!("{READY}");
    std::io::stdout().flush()?;
    let until = AtomicU64::new(u64::MAX);
    let streams = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut line = String::new();
            // A parent that has died ends its readers, too.
            let told = std::io::stdin().read_line(&mut line).is_ok().then(|| line.trim().parse().ok());
            until.store(told.flatten().unwrap_or(0), Ordering::Relaxed);
        });
        read(&mut reader, slow, &until)
    })?;
    serde_json::to_writer(std::io::stdout().lock(), &streams.finish())?;
    println!();
    Ok(())
}

fn read(reader: &mut Reader, slow: bool, until: &AtomicU64) -> Result<Streams> {
    let mut streams = Streams::default();
    let mut last = reader.stats()?.newest;
    while last < until.load(Ordering::Relaxed) {
        if slow {
            sleep_until_lapped(reader, until)?;
        }
        let most = if slow { GULP } else { usize::MAX };
        for _ in 0..most {
            match reader.next() {
                Ok(Some(record)) => {
                    last = record.number();
                    streams.handle_packet(record.payload(), record.flags().contains(Flags::FROM_BACKEND));
                }
                Ok(None) => break,
                Err(ReadError::Lapped { records, bytes }) => streams.handle_lapped(records, bytes),
                Err(error) => return Err(error.into()),
            }
        }
        reader.wait(NAP);
    }
    Ok(streams)
}

fn sleep_until_lapped(reader: &Reader, until: &AtomicU64) -> Result<()> {
    loop {
        let stats = reader.stats()?;
        if stats.lag_bytes > stats.ring_bytes || until.load(Ordering::Relaxed) != u64::MAX {
            return Ok(());
        }
        std::thread::sleep(NAP / 10);
    }
}

/// A running reader; killed when dropped.
pub(super) struct ReaderProcess {
    child: Child,
    orders: ChildStdin,
    said: BufReader<std::process::ChildStdout>,
}

impl ReaderProcess {
    /// Has opened the log when this returns.
    pub(super) fn start(log: &Path, slow: bool) -> Result<Self> {
        let mut command = Command::new(binary("lab")?);
        command.arg("read-log").arg(log).args(slow.then_some("--slow"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let said = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut process = Self { child, orders, said };
        match process.line()?.as_str() {
            READY => Ok(process),
            other => bail!("a reader of the log said {other:?}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Tells it to read up to this record and to end.
    pub(super) fn end_at(&mut self, record: u64) -> Result<()> {
        writeln!(self.orders, "{record}").context("a reader of the log has ended early")
    }

    pub(super) fn account(mut self) -> Result<Account> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("a reader of the log said {line:?}"))
    }
}

impl Drop for ReaderProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
