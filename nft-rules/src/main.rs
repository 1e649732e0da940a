//! `nft-rules`: the rulesets of proxy and logger on the command line.

mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::config::Cluster;
use nft_rules::{LoggerRules, ProxyRules, QueueForm, Ruleset, check, install};

use output::Output;

/// Checks, prints, installs and removes the nft rules of a role, in the present network namespace.
#[derive(Parser)]
#[command(name = "nft-rules", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Says whether the wanted rules are installed, and whether the kernel takes them. Exit status 1: no.
    Check(Common),
    /// Prints the rules as one `nft -f` transaction; changes nothing.
    ///
    /// In the target form the chain `to_queue` stays empty in this text: nft's syntax cannot say its rule.
    Print(Common),
    /// Installs the rules, or replaces installed ones, in one transaction. Held packets and set elements stay.
    Install(Common),
    /// Removes the table. The kernel then drops every packet held in every queue of this network namespace.
    Remove {
        #[command(flatten)]
        common: Common,
        /// Also while a daemon uses the queue: its connections break, and what it holds is lost.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
struct Common {
    /// Whose rules.
    #[arg(long, value_enum)]
    role: Role,
    /// The cluster's description.
    #[arg(long, value_name = "FILE", default_value = "/etc/resplice/cluster.toml")]
    config: PathBuf,
    /// Which `[proxy.NAME]` or `[logger.NAME]` this is; if given, the configuration must have it.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Accepted as every program of resplice does; rules need no run directory.
    #[arg(long, value_name = "DIR", hide = true)]
    run_dir: Option<PathBuf>,
    /// How packets are queued; `auto` asks the kernel whether it has the native expression.
    #[arg(long, value_enum, default_value = "auto")]
    form: Form,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Proxy,
    Logger,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Auto,
    Native,
    Target,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nft-rules: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything is as it should be.
fn run(verb: &Verb) -> Result<bool> {
    let (Verb::Check(common) | Verb::Print(common) | Verb::Install(common) | Verb::Remove { common, .. }) =
        verb;
    let rules = common.rules()?;
    let rules = rules.as_ref();
    let output = Output::new(rules, common.json);
    match verb {
        Verb::Print(_) => output.printed(common.form_to_print(), rules),
        Verb::Install(_) => {
            let form = common.form()?;
            install::install(rules, form).with_context(|| format!("installing {}", rules.table()))?;
            output.installed(form);
        }
        Verb::Remove { force, .. } => {
            let removed =
                install::remove(rules, *force).with_context(|| format!("removing {}", rules.table()))?;
            output.removed(removed);
        }
        Verb::Check(_) => {
            let report = check::check(rules, common.form()?)?;
            output.checked(&report);
            return Ok(report.is_good());
        }
    }
    Ok(true)
}

impl Common {
    fn rules(&self) -> Result<Box<dyn Ruleset + Sync>> {
        let cluster = Cluster::load(&self.config)?;
        match (&self.node, self.role) {
            (Some(node), Role::Proxy) => cluster.find_proxy(node).map(drop)?,
            (Some(node), Role::Logger) => cluster.find_logger(node).map(drop)?,
            (None, _) => {}
        }
        Ok(match self.role {
            Role::Proxy => Box::new(ProxyRules::from_cluster(&cluster)?),
            Role::Logger => Box::new(LoggerRules::from_cluster(&cluster)?),
        })
    }

    fn form(&self) -> Result<QueueForm> {
        match self.form {
            Form::Auto => QueueForm::probe().context("asking the kernel for the queue expression"),
            Form::Native => Ok(QueueForm::Native),
            Form::Target => Ok(QueueForm::Target),
        }
    }

    /// Printing needs no privileges: without them the native form is shown.
    fn form_to_print(&self) -> QueueForm {
        self.form().unwrap_or_else(|error| {
            eprintln!("nft-rules: {error:#}; printing the native form");
            QueueForm::Native
        })
    }
}
