//! Streams to transactions, tags, failure detection: the daemon around [`transactionalizer::engine::Engine`].

mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cluster::lock::DaemonLock;
use daemon::{Configuration, DaemonArguments, stop_signal};

use shell::Shell;

/// Added to the niceness.
const PRECEDENCE: i32 = -10;

/// Runs on a logger: reads the segment log, finds the transactions in it, judges the ends of connections, detects failed
/// backends and tells the recovery managers.
#[derive(Debug, Parser)]
#[command(name = "transactionalizer", version)]
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
    let logger = configuration.cluster().find_logger(&node)?.clone();
    let runtime = arguments.runtime();
    let lock = DaemonLock::acquire(&runtime, "transactionalizer")?;
    take_precedence();
    Shell::new(configuration, &node, &logger, &runtime, &lock, stop_signal()?)?.run()
}

/// What is not read in time is overwritten, while nothing that writes the log waits for its reader: it goes first.
fn take_precedence() {
    if let Err(error) = rustix::process::nice(PRECEDENCE) {
        tracing::warn!(%error, "running with ordinary priority: under load the log may be overwritten before it is read");
    }
}
