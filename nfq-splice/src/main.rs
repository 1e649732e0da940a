//! `nfq-splice`: the proxy's daemon. The engine decides; this binary owns the sockets, the clock and the log.

mod shell;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use cluster::config::Cluster;
use cluster::lock::DaemonLock;
use cluster::runtime::Runtime;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

/// Accepts the clients of the virtual address, routes their requests, and splices each connection to a backend.
///
/// The rules that hand packets to this daemon are installed with `nft-rules install --role proxy`. Connections that
/// the kernel translates go on when the daemon stops.
#[derive(Parser)]
#[command(name = "nfq-splice", version)]
struct Arguments {
    /// The cluster's description.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml")]
    config: PathBuf,
    /// Which `[proxy.NAME]` this is; the host's name if absent.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where sockets and lock files are.
    #[arg(long, value_name = "DIR", default_value = "/run/resplice")]
    run_dir: PathBuf,
    /// Format of the log on standard error; `RUST_LOG` sets its level.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    match run(&arguments) {
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

fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::load(&arguments.config)?;
    let node = arguments.node.clone().unwrap_or_else(host_name);
    cluster.find_proxy(&node)?;
    let runtime = Runtime::new(&arguments.run_dir);
    let lock = DaemonLock::acquire(&runtime, "nfq-splice")?;
    let stop = stop_signal()?;
    shell::Shell::start(&cluster, &lock)?.run(&stop)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
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
