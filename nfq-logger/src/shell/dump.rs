//! `nfq-logger dump`: reads a segment log and prints it.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nfq_logger::dump::{Format, Printer, stats_text};
use segment_log::{ReadError, Reader};

/// Wakes at least this often, to notice a reader that went away.
const WAIT: Duration = Duration::from_millis(500);

/// Prints `file` to standard output; ends quietly when nobody reads any more.
pub(crate) fn run(file: &Path, format: Format, follow: bool, stats: bool) -> Result<()> {
    let reader = Reader::open(file)?;
    let out = BufWriter::new(io::stdout().lock());
    match if stats { print_stats(&reader, format, out) } else { print(reader, format, follow, out) } {
        Err(error) if broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn print(reader: Reader, format: Format, follow: bool, mut out: impl Write) -> Result<()> {
    let mut reader = reader.at_start();
    let mut printer = Printer::new(format);
    loop {
        let base = reader.realtime_ns(0);
        match reader.next() {
            Ok(Some(record)) => writeln!(out, "{}", printer.line(&record, base + record.time_ns()))?,
            Ok(None) if follow => {
                out.flush()?;
                reader.wait(WAIT);
            }
            Ok(None) => break,
            Err(ReadError::Lapped { records, bytes }) => writeln!(out, "{}", printer.lapped(records, bytes))?,
            Err(error) => return Err(error).context("reading the segment log"),
        }
    }
    Ok(out.flush()?)
}

fn print_stats(reader: &Reader, format: Format, mut out: impl Write) -> Result<()> {
    let stats = reader.stats().context("reading the segment log")?;
    let oldest = stats.oldest_time_ns.map(|time| reader.realtime_ns(time));
    writeln!(out, "{}", stats_text(&stats, oldest, format))?;
    Ok(out.flush()?)
}
