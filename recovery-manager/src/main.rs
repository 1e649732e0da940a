//! Coordinates one recovery, from failure notice to re-splice.

mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cluster::lock::DaemonLock;
use daemon::{Configuration, DaemonArguments, stop_signal};

use shell::Shell;

/// Runs on a proxy: hears of failed backends from the loggers, plans each connection's recovery and has
/// nfq-splice carry it out.
#[derive(Debug, Parser)]
#[command(name = "recovery-manager", version)]
struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

fn main() -> ExitCode {
    Arguments::parse().daemon.run(run)
}

fn run(arguments: &DaemonArguments) -> Result<()> {
    let configuration = Configuration::load(&arguments.place.config)?;
    let node = arguments.place.node();
    configuration.cluster().find_proxy(&node)?;
    let runtime = arguments.runtime();
    let lock = DaemonLock::acquire(&runtime, "recovery-manager")?;
    Shell::new(configuration, &node, &runtime, &lock, stop_signal()?)?.run()
}
