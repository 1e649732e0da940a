//! Coordinates one recovery, from failure notice to re-splice.

mod shell;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use cluster::config::Cluster;
use cluster::lock::DaemonLock;
use cluster::runtime::Runtime;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use shell::Shell;

/// Runs on a proxy: hears of failed backends from the loggers, plans each connection's recovery and has
/// nfq-splice carry it out.
#[derive(Debug, Parser)]
#[command(name = "recovery-manager", version)]
struct Arguments {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml")]
    config: PathBuf,
    /// Which [proxy.NAME] of the configuration this host is [default: the host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where this node's sockets and lock files are.
    #[arg(long, value_name = "DIR", default_value = "/run/resplice")]
    run_dir: PathBuf,
    /// How log lines look; the environment's `RUST_LOG` chooses which appear.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    let cluster = Cluster::load(&arguments.config)?;
    cluster.find_proxy(&arguments.node.unwrap_or_else(host_name))?;
    let runtime = Runtime::new(&arguments.run_dir);
    let lock = DaemonLock::acquire(&runtime, "recovery-manager")?;
    Shell::new(&cluster, &runtime, &lock, stop_signal()?)?.run()
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
