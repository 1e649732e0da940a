//! All hosts of a cluster as network namespaces on one machine: demo, tests, benchmarks.

#![allow(
    clippy::disallowed_methods,
    reason = "the lab is a shell: it owns namespaces, processes, sockets and a clock"
)]

mod cli;
mod print;

use std::io::{IsTerminal, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::process::Process;
use lab::{Lab, Node, accept_all, bench, demo, dump, fetch, link, operate};
use rustix::process::Signal;

use cli::{Cli, Verb};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let lab = Lab::new(&cli.name)?;
    match &cli.verb {
        Verb::Up(up) => {
            let owner = up.owner.map(|pid| Process::running(pid).context("--owner: no such process"));
            let done = lab.up(&up.settings(), owner.transpose()?)?;
            print::done(cli.json, &done, "everything is up already")?;
        }
        Verb::Down => {
            let existed = lab.down()?;
            let done = if existed { vec![format!("removed lab {}", lab.name())] } else { Vec::new() };
            print::done(cli.json, &done, "there was nothing to remove")?;
        }
        Verb::Sweep => print::done(cli.json, &operate::sweep()?, "no lab without owner")?,
        Verb::Status => print::status(cli.json, &lab.status()?)?,
        Verb::Exec { node, command } => exec(&lab, *node, command)?,
        Verb::Tcpdump { node, arguments } => {
            let given = arguments.iter().any(|argument| argument.starts_with("-i"));
            let start: &[&str] = if given { &["tcpdump", "-n"] } else { &["tcpdump", "-n", "-i", "any"] };
            let command: Vec<String> =
                start.iter().map(|word| (*word).to_owned()).chain(arguments.iter().cloned()).collect();
            exec(&lab, *node, &command)?;
        }
        Verb::Fail { node, fault } => {
            lab.settings()?;
            lab.fail(*node, *fault)?;
            print::done(cli.json, &[format!("{node}: {fault:?}").to_lowercase()], "")?;
        }
        Verb::Heal { node } => {
            let done = if lab.heal(*node)? { vec![format!("healed {node}")] } else { Vec::new() };
            print::done(cli.json, &done, "it had not failed")?;
        }
        Verb::Kill { daemon, signal } => {
            let signal = Signal::from_named_raw(*signal).context("--signal: no such signal")?;
            lab.stop_daemon(*daemon, signal)?;
            print::done(cli.json, &[format!("ended {}", daemon.name())], "")?;
        }
        Verb::Restart { daemon } => {
            lab.stop_daemon(*daemon, Signal::TERM)?;
            lab.start_daemon(*daemon)?;
            print::done(cli.json, &[format!("restarted {}", daemon.name())], "")?;
        }
        Verb::Dump => print::dump(cli.json, &dump::dump(&lab)?)?,
        Verb::Demo => demo::demo(&lab, &mut std::io::stdout())?,
        Verb::Bench(measure) => {
            let outcome = bench::bench(&lab, &measure.order()?, &mut |step| eprintln!("{step}"))?;
            print::bench(cli.json, &outcome)?;
        }
        Verb::Fetch(arguments) => return measure(&lab, arguments),
        Verb::AcceptAll { queue } => accept_all::accept_all(*queue)?,
        Verb::ReadLog { log, slow } => bench::soak::read_log(log, *slow)?,
        Verb::LinkEmulator { settings } => link::emulate(serde_json::from_str(settings)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(lab: &Lab, node: Node, command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("exec NODE -- which command?")?;
    ensure!(lab.netns(node).exists(), "{node} is not up: lab up");
    lab.netns(node).exec(Command::new(program).args(arguments))
}

/// Always JSON: it is for programs.
fn measure(lab: &Lab, arguments: &cli::Fetch) -> Result<ExitCode> {
    let report = fetch::fetch(lab, &arguments.options()?, &mut |_| ())?;
    serde_json::to_writer(std::io::stdout().lock(), &report)?;
    writeln!(std::io::stdout())?;
    Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
