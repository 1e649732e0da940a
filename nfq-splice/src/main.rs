//! `nfq-splice`: the proxy's daemon. The engine decides; this binary owns the sockets, the clock and the log.

mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cluster::lock::DaemonLock;
use daemon::{Configuration, DaemonArguments, stop_signal};

/// Accepts the clients of the virtual address, routes their requests, and splices each connection to a backend.
///
/// The rules that hand packets to this daemon are installed with `nft-rules install --role proxy`. Connections that
/// the kernel translates go on when the daemon stops.
#[derive(Debug, Parser)]
#[command(name = "nfq-splice", version)]
struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

fn main() -> ExitCode {
    Arguments::parse().daemon.run(run)
}

fn run(arguments: &DaemonArguments) -> Result<()> {
    let configuration = Configuration::load(&arguments.place.config)?;
    configuration.cluster().find_proxy(&arguments.place.node())?;
    let lock = DaemonLock::acquire(&arguments.runtime(), "nfq-splice")?;
    let stop = stop_signal()?;
    shell::Shell::start(configuration, &lock)?.run(&stop)
}
