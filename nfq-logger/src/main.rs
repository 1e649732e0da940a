//! `nfq-logger`: the logger's daemon, and the dumper of its log.

mod shell;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::config::Cluster;
use cluster::lock::DaemonLock;
use cluster::runtime::{Runtime, segment_log};
use nfq_logger::dump;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

/// Logs every segment between clients and backends to shared memory before it passes, and shows that log.
#[derive(Parser)]
#[command(name = "nfq-logger", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon. The rules that hand packets to it are installed with `nft-rules install --role logger`.
    Run(RunArguments),
    /// Print what is logged, oldest first.
    Dump(DumpArguments),
}

#[derive(Args)]
struct Place {
    /// The cluster's description.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml")]
    config: PathBuf,
    /// Which `[logger.NAME]` this is; the host's name if absent.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    place: Place,
    /// Where sockets and lock files are.
    #[arg(long, value_name = "DIR", default_value = "/run/resplice")]
    run_dir: PathBuf,
    /// Format of the log on standard error; `RUST_LOG` sets its level.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Args)]
struct DumpArguments {
    /// A segment log, live or copied; the one of `--config` and `--node` if absent.
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Go on with what is logged from now on, until interrupted.
    #[arg(long)]
    follow: bool,
    /// Only how full the log is.
    #[arg(long, conflicts_with = "follow")]
    stats: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => {
            start_log(arguments.log_format);
            run(&arguments)
        }
        Command::Dump(arguments) => {
            start_log(LogFormat::Text);
            show(&arguments)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn node(place: &Place) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    place.node.clone().unwrap_or_else(host)
}

fn run(arguments: &RunArguments) -> Result<()> {
    let cluster = Cluster::load(&arguments.place.config)?;
    let node = node(&arguments.place);
    let ring_bytes = cluster.find_logger(&node)?.ring_bytes;
    let lock = DaemonLock::acquire(&Runtime::new(&arguments.run_dir), "nfq-logger")?;
    let stop = stop_signal()?;
    let log = segment_log(&cluster.cluster.name, &node);
    shell::Shell::start(&cluster, &lock, &log, ring_bytes)?.run(&stop)
}

fn show(arguments: &DumpArguments) -> Result<()> {
    let file = arguments.file.clone().map_or_else(|| configured_log(&arguments.place), Ok)?;
    let format = if arguments.json { dump::Format::Json } else { dump::Format::Text };
    shell::dump::run(&file, format, arguments.follow, arguments.stats)
}

fn configured_log(place: &Place) -> Result<PathBuf> {
    let cluster = Cluster::load(&place.config)?;
    let node = node(place);
    cluster.find_logger(&node)?;
    Ok(segment_log(&cluster.cluster.name, &node))
}

/// Becomes readable with SIGTERM or SIGINT.
fn stop_signal() -> Result<OwnedFd> {
    let (ours, signals) = UnixStream::pair().context("could not make a socket pair")?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, signals.try_clone()?)
            .context("could not register the signal handler")?;
    }
    Ok(ours.into())
}
