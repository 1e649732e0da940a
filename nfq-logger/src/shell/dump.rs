//! `nfq-logger dump`: reads a segment log, live or copied, and shows it.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nfq_logger::dump::{
    Capture, Filter, Format, GRAMMAR, Piece, Printer, Side, Stream, Transactions, View, stats_text,
};
use segment_log::{ReadError, Reader, Record};

/// Wakes at least this often, to notice a reader that went away.
const WAIT: Duration = Duration::from_millis(500);

/// What to show, and how.
#[derive(Args)]
#[command(after_help = GRAMMAR)]
pub(crate) struct Show {
    /// Which records to show: words as in tcpdump's filters, listed below.
    filter: Vec<String>,
    /// A segment log, live or copied; the one of `--config` and `--node` if absent.
    #[arg(long, short = 'r', value_name = "FILE")]
    pub(crate) read: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long, conflicts_with_all = ["pcapng", "stream"])]
    json: bool,
    /// A capture file for Wireshark and tshark.
    #[arg(long, conflicts_with_all = ["stream", "stats"])]
    pcapng: bool,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Go on with what is logged from now on, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Only how full the log is.
    #[arg(long, conflicts_with = "follow")]
    stats: bool,
    /// Only this client's connection.
    #[arg(long, value_name = "ADDRESS:PORT")]
    connection: Option<SocketAddr>,
    /// The bytes that one side of the connection sent, as they are.
    #[arg(long, value_enum, value_name = "SIDE", requires = "connection")]
    stream: Option<SideName>,
    /// Colours: on a terminal only, or always, or never.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: When,
}

#[derive(Clone, Copy, ValueEnum)]
enum SideName {
    Client,
    Backend,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

/// Shows `file`; ends quietly when nobody reads any more.
pub(crate) fn run(show: &Show, file: &Path) -> Result<()> {
    let filter = filter(show)?;
    let reader = Reader::open(file)?;
    let reader = if show.follow { reader.announced().context("announcing this reader")? } else { reader };
    let out = output(show)?;
    let done =
        if show.stats { print_stats(&reader, show, out) } else { print(reader, show, &filter, file, out) };
    match done {
        Err(error) if broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn filter(show: &Show) -> Result<Filter> {
    #[allow(clippy::disallowed_methods, reason = "times in filters are relative to now; this is a shell")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let given = Filter::parse(&show.filter.join(" "), u64::try_from(now.as_nanos())?)?;
    Ok(match show.connection {
        Some(client) => Filter::connection(client).and(given),
        None => given,
    })
}

fn output(show: &Show) -> Result<Box<dyn Write>> {
    let out: Box<dyn Write> = if let Some(path) = &show.write {
        Box::new(File::create(path).with_context(|| format!("writing {}", path.display()))?)
    } else {
        ensure!(
            !(show.pcapng && io::stdout().is_terminal()),
            "a capture is no text: give it a file with --write FILE, or a pipe"
        );
        Box::new(io::stdout().lock())
    };
    Ok(Box::new(BufWriter::with_capacity(1 << 16, out)))
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

impl Show {
    fn format(&self) -> Format {
        if self.json {
            return Format::Json;
        }
        let colour = match self.color {
            When::Auto => self.write.is_none() && io::stdout().is_terminal(),
            When::Always => true,
            When::Never => false,
        };
        Format::Text { colour }
    }
}

/// Where the records that pass go.
enum Sink {
    Lines(Printer, Box<dyn Write>),
    Capture(Box<Capture<Box<dyn Write>>>),
    Stream(Box<Stream>, Box<dyn Write>),
}

impl Sink {
    fn open(show: &Show, file: &Path, out: Box<dyn Write>) -> Result<Self> {
        Ok(if let Some(side) = show.stream {
            let side = match side {
                SideName::Client => Side::Client,
                SideName::Backend => Side::Backend,
            };
            Self::Stream(Box::new(Stream::new(side)), out)
        } else if show.pcapng {
            Self::Capture(Box::new(Capture::begin(out, &file.display().to_string())?))
        } else {
            Self::Lines(Printer::new(show.format()), out)
        })
    }

    fn show(&mut self, view: &View<'_>) -> Result<()> {
        match self {
            Self::Lines(printer, out) => writeln!(out, "{}", printer.line(view))?,
            Self::Capture(capture) => capture.write(view)?,
            Self::Stream(stream, out) => match stream.follow(view) {
                Some(Piece::Bytes(bytes)) => out.write_all(&bytes)?,
                Some(Piece::Hole) => bail!("the log lacks bytes of this stream: it ends here"),
                None => {}
            },
        }
        Ok(())
    }

    fn skip(&mut self, view: &View<'_>) {
        if let Self::Lines(printer, _) = self {
            printer.skip(view);
        }
    }

    fn unreadable(&mut self, record: &Record<'_>) -> Result<()> {
        if let Self::Lines(printer, out) = self {
            writeln!(out, "{}", printer.unreadable(record))?;
        }
        Ok(())
    }

    fn lapped(&mut self, records: u64, bytes: u64) -> Result<()> {
        match self {
            Self::Lines(printer, out) => writeln!(out, "{}", printer.lapped(records, bytes))?,
            Self::Capture(_) => tracing::warn!(records, bytes, "overwritten before they were read"),
            Self::Stream(..) => {
                bail!("{records} records were overwritten before they were read: the stream ends here")
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Lines(_, out) | Self::Stream(_, out) => out.flush()?,
            Self::Capture(capture) => capture.get_mut().flush()?,
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self {
            Self::Stream(stream, _) if stream.left_out() > 0 => {
                bail!(
                    "{} bytes of this stream were left out of the log, as a large file's: it ends here before the first of them",
                    stream.left_out()
                )
            }
            Self::Stream(stream, _) if stream.beyond_hole() > 0 => {
                bail!(
                    "the log lacks bytes of this stream: {} bytes beyond the hole were left out",
                    stream.beyond_hole()
                )
            }
            _ => Ok(()),
        }
    }
}

fn print(reader: Reader, show: &Show, filter: &Filter, file: &Path, out: Box<dyn Write>) -> Result<()> {
    let mut sink = Sink::open(show, file, out)?;
    let mut reader = reader.at_start();
    // Telling them apart costs a parser's work for each byte.
    let told_apart = filter.needs_transactions() || show.json || show.pcapng;
    let mut transactions = told_apart.then(Transactions::default);
    loop {
        let base = reader.realtime_ns(0);
        match reader.next() {
            Ok(Some(record)) => {
                let Some(mut view) = View::new(record, base) else {
                    sink.unreadable(&record)?;
                    continue;
                };
                view.transactions = transactions.as_mut().and_then(|transactions| transactions.follow(&view));
                if filter.matches(&view) { sink.show(&view)? } else { sink.skip(&view) }
            }
            Ok(None) if show.follow => {
                sink.flush()?;
                reader.wait(WAIT);
            }
            Ok(None) => return sink.finish(),
            Err(ReadError::Lapped { records, bytes }) => sink.lapped(records, bytes)?,
            Err(error) => return Err(error).context("reading the segment log"),
        }
    }
}

fn print_stats(reader: &Reader, show: &Show, mut out: impl Write) -> Result<()> {
    let stats = reader.stats().context("reading the segment log")?;
    let oldest = stats.oldest_time_ns.map(|time| reader.realtime_ns(time));
    writeln!(out, "{}", stats_text(&stats, &reader.readers(), oldest, show.format()))?;
    Ok(out.flush()?)
}
