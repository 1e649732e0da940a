//! A segment log that is truncated, foreign or changed underneath: nothing panics, clients are served.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
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

/// Both programs of the logger are started on a file that is not theirs.
fn started_on(content: &[u8]) -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        for daemon in [Daemon::Transactionalizer, Daemon::NfqLogger] {
            lab.stop_daemon(daemon, Signal::TERM)?;
        }
        fs::remove_file(log_file(lab)).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::write(log_file(lab), content)?;
        for daemon in [Daemon::NfqLogger, Daemon::Transactionalizer] {
            lab.start_daemon(daemon)?;
        }
        still_works(lab)
    })
}

#[test]
fn an_empty_file() -> Result<()> {
    started_on(b"")
}

#[test]
fn a_file_of_something_else() -> Result<()> {
    started_on(&b"this is somebody's letter\n".repeat(10_000))
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
        for daemon in [Daemon::Transactionalizer, Daemon::NfqLogger] {
            lab.stop_daemon(daemon, Signal::TERM)?;
        }
        for daemon in [Daemon::NfqLogger, Daemon::Transactionalizer] {
            lab.start_daemon(daemon)?;
        }
        still_works(lab)
    })
}

/// `nfq-logger dump` refuses what is not a log.
#[test]
fn dump_refuses_a_foreign_file() -> Result<()> {
    in_lab(&Settings { front: lab::settings::Front::None, ..Settings::default() }, |lab| {
        for content in [&b""[..], b"short", &[0; 10_000]] {
            fs::write(log_file(lab), content)?;
            let mut dump = lab.program("nfq-logger", &["dump"], Node::Logger)?;
            let output = lab.netns(Node::Logger).output(&mut dump)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && !said.contains("panicked"), "{said}");
            ensure!(said.contains("segments"), "it does not name the file: {said}");
        }
        Ok(())
    })
}
