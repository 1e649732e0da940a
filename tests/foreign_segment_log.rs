//! A segment log that is truncated, foreign or changed underneath: nothing panics, clients are served.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use lab::daemons::binary;
use lab::settings::Settings;
use lab::testing::in_lab;
use lab::{Daemon, Fault, Lab, Node};
use rustix::process::Signal;

fn log_file(lab: &Lab) -> PathBuf {
    cluster::runtime::segment_log(lab.name(), Node::Logger.name())
}

fn no_panic(lab: &Lab) -> Result<()> {
    for daemon in Daemon::ALL {
        let log = fs::read_to_string(lab.log(daemon.name())).unwrap_or_default();
        ensure!(!log.contains("panicked"), "{}:\n{log}", daemon.name());
    }
    Ok(())
}

fn still_works(lab: &Lab) -> Result<()> {
    lab.await_backends()?;
    lab.curl(&[&lab.url("/files/10m")])?.finish()?.check("/files/10m")?;
    let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
    curl.read_to(1_000_000)?;
    lab.fail(lab.serving_any()?, Fault::Kill)?;
    curl.finish()?.check("/files/300m")?;
    no_panic(lab)
}

/// The logger refuses a file that is not its own, and says what to do; doing that helps.
fn refused(content: &[u8]) -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        restart_on(lab, content)?;
        still_works(lab)
    })
}

fn restart_on(lab: &Lab, content: &[u8]) -> Result<()> {
    for daemon in [Daemon::Transactionalizer, Daemon::NfqLogger] {
        lab.stop_daemon(daemon, Signal::TERM)?;
    }
    fs::write(log_file(lab), content)?;
    let Err(refusal) = lab.start_daemon(Daemon::NfqLogger) else { bail!("a foreign file was accepted") };
    let said = refusal.to_string();
    let named = said.contains(&log_file(lab).display().to_string());
    ensure!(named && said.contains("remove"), "it does not name the file and the remedy: {said}");
    fs::remove_file(log_file(lab))?;
    for daemon in [Daemon::NfqLogger, Daemon::Transactionalizer] {
        lab.start_daemon(daemon)?;
    }
    Ok(())
}

#[test]
fn an_empty_file() -> Result<()> {
    refused(b"")
}

#[test]
fn a_file_of_something_else() -> Result<()> {
    refused(&b"this is somebody's letter\n".repeat(10_000))
}

/// The file is overwritten with rubbish under running programs; a new logger makes a new one.
#[test]
fn rubbish_under_running_readers() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        lab.curl(&[&lab.url("/files/1m")])?.finish()?.check("/files/1m")?;
        let file = OpenOptions::new().write(true).open(log_file(lab))?;
        let length = file.metadata()?.len();
        for at in (0..length.min(4 << 20)).step_by(4096) {
            file.write_all_at(&[0xa5; 4096], at)?;
        }
        // Whatever they do with it, clients get their bytes or nothing, and nothing panics.
        lab.curl(&["--max-time", "10", &lab.url("/files/1m")])?.finish()?;
        no_panic(lab)?;
        restart_on(lab, b"")?;
        still_works(lab)
    })
}

/// `nfq-logger dump` refuses what is not a log.
#[test]
fn dump_refuses_a_foreign_file() -> Result<()> {
    in_lab(&Settings { front: lab::settings::Front::None, ..Settings::default() }, |lab| {
        for content in [&b""[..], b"short", &[0; 10_000]] {
            let file = lab.dir().join("foreign.segments");
            fs::write(&file, content)?;
            let output = Command::new(binary("nfq-logger")?).args(["dump", "--read"]).arg(&file).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && !said.contains("panicked"), "{said}");
            ensure!(said.contains("foreign.segments"), "it does not name the file: {said}");
        }
        Ok(())
    })
}
