//! What every daemon does at its start: arguments, log, stop signal, clock. Shell side; decides nothing.

#![allow(clippy::disallowed_methods, reason = "this crate is a shell: it owns the clock")]

mod configuration;
mod epoch;

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cluster::runtime::Runtime;
use packet::Time;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

pub use configuration::Configuration;
pub use epoch::Epoch;

/// Which part of which cluster a program is.
#[derive(Debug, Args)]
pub struct Place {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml")]
    pub config: PathBuf,
    /// Which node of the configuration this host is [default: the host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Place {
    /// The node's name.
    pub fn node(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.node.clone().unwrap_or_else(host)
    }
}

/// The arguments of every daemon.
#[derive(Debug, Args)]
pub struct DaemonArguments {
    /// Cluster and node.
    #[command(flatten)]
    pub place: Place,
    /// Where this node's sockets and lock files are.
    #[arg(long, value_name = "DIR", default_value = "/run/resplice")]
    run_dir: PathBuf,
    /// How log lines look; the environment's `RUST_LOG` chooses which appear.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

impl DaemonArguments {
    /// The node's sockets and lock files.
    pub fn runtime(&self) -> Runtime {
        Runtime::new(&self.run_dir)
    }

    /// Begins the log on standard error, then runs the daemon and says why it ended.
    pub fn run(&self, daemon: impl FnOnce(&Self) -> Result<()>) -> ExitCode {
        start_log(self.log_format);
        exit_code(daemon(self))
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Begins the log on standard error.
pub fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Failure with a line in the log, or success.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes readable with SIGTERM or SIGINT.
pub fn stop_signal() -> Result<OwnedFd> {
    let (ours, signals) = UnixStream::pair().context("could not make a socket pair")?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, signals.try_clone()?)
            .context("could not register the signal handler")?;
    }
    Ok(ours.into())
}

/// This moment on the host's monotonic clock.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    Time::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The time of day, microseconds since 1970.
pub fn clock_us() -> u64 {
    time_of_day().as_micros() as u64
}

/// The time of day, since 1970.
pub fn time_of_day() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}
