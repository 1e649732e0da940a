//! `nfq-logger`: the logger's daemon, and the dumper of its log.

mod shell;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use cluster::config::Cluster;
use cluster::lock::DaemonLock;
use cluster::runtime::segment_log;
use daemon::{Configuration, DaemonArguments, LogFormat, Place, exit_code, start_log, stop_signal};

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
    Run(DaemonArguments),
    /// Show what is logged, oldest first.
    Dump(Box<DumpArguments>),
}

#[derive(Args)]
struct DumpArguments {
    #[command(flatten)]
    show: shell::dump::Show,
    #[command(flatten)]
    place: Place,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => arguments.run(run),
        Command::Dump(arguments) => {
            start_log(LogFormat::Text);
            exit_code(show(&arguments))
        }
    }
}

fn run(arguments: &DaemonArguments) -> Result<()> {
    let configuration = Configuration::load(&arguments.place.config)?;
    let cluster = configuration.cluster();
    let node = arguments.place.node();
    let ring_bytes = cluster.find_logger(&node)?.ring_bytes;
    let lock = DaemonLock::acquire(&arguments.runtime(), "nfq-logger")?;
    let stop = stop_signal()?;
    let log = segment_log(&cluster.cluster.name, &node);
    shell::Shell::start(configuration, &lock, &log, ring_bytes)?.run(&stop)
}

fn show(arguments: &DumpArguments) -> Result<()> {
    let file = arguments.show.read.clone().map_or_else(|| configured_log(&arguments.place), Ok)?;
    shell::dump::run(&arguments.show, &file)
}

fn configured_log(place: &Place) -> Result<PathBuf> {
    let cluster = Cluster::load(&place.config)?;
    let node = place.node();
    cluster.find_logger(&node)?;
    Ok(segment_log(&cluster.cluster.name, &node))
}
