//! Every kind of mistake in `cluster.toml`: each program refuses to start, exits with an error, and names
//! the file, the key and what to do.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lab::Daemon;
use lab::cluster_file;
use lab::daemons::binary;
use lab::settings::Settings;

/// A mistake: what to replace in a good file by what, and a word that the message must contain.
const MISTAKES: [(&str, &str, &str, &str); 14] = [
    ("not TOML", "[cluster]", "[cluster", "cluster"),
    ("misspelt key", "mss = 1460", "msss = 1460", "msss"),
    ("wrong type", "mss = 1460", "mss = \"big\"", "mss"),
    ("out of the type's range", "mss = 1460", "mss = 70000", "mss"),
    ("MSS too small", "mss = 1460", "mss = 1", "mss"),
    ("window scale too large", "window_scale = ", "window_scale = 15 # ", "window_scale"),
    ("no address", "address = \"10.77.0.1:80\"", "address = \"10.77.0.1\"", "address"),
    ("unknown path", "path = \"kernel\"", "path = \"magic\"", "path"),
    ("ring not a power of two", "ring_bytes = 134217728", "ring_bytes = 100000000", "ring_bytes"),
    ("a pool's backend is missing", "backends = [\"b1\", \"b2\"]", "backends = [\"b1\", \"b9\"]", "b9"),
    ("an empty pool", "backends = [\"b1\", \"b2\"]", "backends = []", "backends"),
    ("a route's pool is missing", "pool = \"web\"", "pool = \"wob\"", "wob"),
    ("a bad cluster name", "name = \"bad\"", "name = \"../bad\"", "name"),
    ("a table is missing", "[service]\naddress = \"10.77.0.1:80\"", "", "service"),
];

const PROGRAMS: [(&str, &[&str], &str); 5] = [
    ("nfq-logger", &["run"], "logger"),
    ("transactionalizer", &[], "logger"),
    ("nfq-splice", &[], "proxy"),
    ("recovery-manager", &[], "proxy"),
    ("nft-rules", &["check", "--role", "proxy"], "proxy"),
];

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("resplice-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(program: &str, verb: &[&str], node: &str, file: &str, run: &str) -> Result<Output> {
    // In case a mistake is accepted: not for ever, and in no namespace that anybody uses.
    let mut command = Command::new("timeout");
    command.args(["10", "unshare", "--net"]).arg(binary(program)?).args(verb);
    command.args(["--config", file, "--node", node, "--run-dir", run]).stdin(Stdio::null());
    command.output().with_context(|| format!("starting {program}"))
}

fn is_refused(output: &Output, program: &str, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{program} accepted it");
    ensure!(output.status.code() != Some(124), "{program} went on: {said}");
    ensure!(output.status.code() != Some(101) && !said.contains("panicked"), "{program} panicked: {said}");
    for word in words {
        ensure!(said.contains(word), "{program} does not name {word}: {said}");
    }
    Ok(())
}

#[test]
fn each_mistake_is_named_by_every_program() -> Result<()> {
    let scratch = Scratch::new("mistakes")?;
    let good = cluster_file::text("bad", scratch.0.clone(), &Settings::default())?;
    for (what, old, new, word) in MISTAKES {
        ensure!(good.contains(old), "{what}: {old:?} is not in the file:\n{good}");
        let file = scratch.0.join("cluster.toml");
        fs::write(&file, good.replacen(old, new, 1))?;
        let (file, run) = (file.display().to_string(), scratch.0.join("run").display().to_string());
        for (program, verb, node) in PROGRAMS {
            let output = start(program, verb, node, &file, &run)?;
            is_refused(&output, program, &[&file, word]).with_context(|| what.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn a_missing_file_and_an_unknown_node_are_named() -> Result<()> {
    let scratch = Scratch::new("missing")?;
    let file = scratch.0.join("cluster.toml").display().to_string();
    let run = scratch.0.join("run").display().to_string();
    for (program, verb, node) in PROGRAMS {
        is_refused(&start(program, verb, node, &file, &run)?, program, &[&file]).context("no file")?;
    }
    fs::write(&file, cluster_file::text("bad", scratch.0.clone(), &Settings::default())?)?;
    for daemon in Daemon::ALL {
        let verb: &[&str] = if daemon == Daemon::NfqLogger { &["run"] } else { &[] };
        let output = start(daemon.name(), verb, "nowhere", &file, &run)?;
        is_refused(&output, daemon.name(), &["nowhere"]).context("an unknown node")?;
    }
    Ok(())
}
