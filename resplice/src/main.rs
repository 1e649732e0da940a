//! `resplice`: the operator's command. It asks the daemons of a node how they are, checks configurations and puts them in
//! force, and takes backends out of service.

mod ask;
mod certificates;
mod check;
mod explain;
mod json;
mod mismatches;
mod operate;
mod status;
mod table;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use cluster::config::BackendState;

/// See what resplice is doing on this node, and check its configuration.
#[derive(Debug, Parser)]
#[command(name = "resplice", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show connections, backends, the last recoveries and counters of the daemons on this node.
    ///
    /// Exit status 0 if at least one daemon runs and each that runs has answered within two seconds, 1 otherwise.
    Status(StatusArgs),
    /// Show what alternates answered differently from what clients had been sent, so that they were reset.
    ///
    /// By kind of request, and of the last ones the first byte that differs, on both sides. Where such requests need not be
    /// continued, or only fields differ that may, a tag rule says so.
    Mismatches(StatusArgs),
    /// Work with configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Have the daemons of this node read their configuration anew; so does SIGHUP to each of them.
    ///
    /// It is checked first; if anything is wrong the old one stays. Connections are not touched. Where a backend is added,
    /// reload the loggers' nodes before the proxies'. Exit status 0 if every daemon that runs here took it, 1 otherwise.
    Reload(RunDir),
    /// Take a backend out of service, or put it back. Holds over reloads and restarts of the daemons, not of the host.
    Backend(BackendArgs),
    /// Make the certificates by which the hosts of the cluster know each other on their control connections.
    ///
    /// Keeps the authority that is there, and certificates that are valid for a month at least. Copy ca.crt, NODE.crt and
    /// NODE.key into the configuration's `cluster.certificates` on each NODE, then reload its daemons; keep ca.key to yourself.
    Certificates(CertificatesArgs),
    /// Show what the tag rules say of a request.
    ///
    /// Tags tell recovery what may be done again: an update that is not idempotent never is.
    Tag(TagArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: RunDir,
}

#[derive(Debug, Args)]
struct RunDir {
    /// Directory of the daemons' sockets.
    #[arg(long, value_name = "DIR", default_value = "/run/resplice", value_hint = ValueHint::DirPath)]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct BackendArgs {
    /// What is wanted of it.
    #[arg(value_enum)]
    state: Wanted,
    /// Its name in the configuration.
    name: String,
    #[command(flatten)]
    node: RunDir,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// It serves.
    Up,
    /// No new connections; existing ones go on. An alternate in recoveries only where no other is left.
    Drain,
    /// No new connections, and never an alternate; existing ones go on.
    Maintenance,
}

impl From<Wanted> for BackendState {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Up => Self::Up,
            Wanted::Drain => Self::Drain,
            Wanted::Maintenance => Self::Maintenance,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file: print everything that is wrong with it, or a summary.
    ///
    /// Exit status 0 if it is right, 1 if not.
    Check {
        /// The file.
        #[arg(value_name = "FILE", default_value = "/etc/resplice/cluster.toml", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TagArgs {
    /// The request: method, then path or URL.
    #[arg(long, value_name = "METHOD TARGET")]
    explain: String,
    /// Its `Host`, if the target does not name one.
    #[arg(long, value_name = "HOST", default_value = "")]
    host: String,
    /// A field of it, like "Cookie: a=1"; may be given several times.
    #[arg(long, value_name = "FIELD")]
    header: Vec<String>,
    /// Status of its response, for rules that depend on it.
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(100..=599))]
    status: Option<u16>,
    /// `Content-Type` of its response.
    #[arg(long, value_name = "TYPE", requires = "status")]
    content_type: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml", value_hint = ValueHint::FilePath)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CertificatesArgs {
    /// Where to make them [default: `cluster.certificates` of the configuration].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: Option<PathBuf>,
    /// How long they are valid, days.
    #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u64).range(31..=3650))]
    days: u64,
    /// New ones for all nodes, also where the old ones are still good.
    #[arg(long)]
    renew: bool,
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml", value_hint = ValueHint::FilePath)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Status(args) => status_command(&args),
        Command::Mismatches(args) => mismatches::mismatches(&args.node.run_dir, args.json, now_ms()),
        Command::Config(ConfigCommand::Check { file }) => check::check(&file),
        Command::Reload(node) => operate::reload(&node.run_dir),
        Command::Backend(args) => operate::want(&args.node.run_dir, &args.name, args.state.into()),
        Command::Certificates(args) => certificates::provide(&args),
        Command::Tag(args) => explain::explain(&args),
    };
    match outcome {
        Ok((output, success)) => {
            print(&output);
            if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What to print, and whether all is well.
type Outcome = anyhow::Result<(String, bool)>;

fn status_command(args: &StatusArgs) -> Outcome {
    let status = status::Status::ask(&args.node.run_dir);
    let output = if args.json { json::render(&status)? } else { text::render(&status, now_ms()) };
    Ok((output, status.good()))
}

/// Unix time, milliseconds.
fn now_ms() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}

/// The reader may have gone away, like `head`: that is not worth a panic.
fn print(output: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", output.trim_end());
}
