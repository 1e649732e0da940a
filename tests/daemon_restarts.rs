//! Daemons are killed and started again under load: spliced connections go on.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use anyhow::{Context, Result, ensure};
use lab::settings::Settings;
use lab::testing::in_lab;
use lab::{Daemon, Fault, Lab};
use rustix::process::Signal;

/// A download during which `disturb` is done.
fn download_during(lab: &Lab, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
    curl.read_to(50_000_000)?;
    disturb()?;
    curl.finish()?.check("/files/300m")
}

fn killed_and_restarted(daemon: Daemon, signal: Signal) -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        download_during(lab, || {
            lab.stop_daemon(daemon, signal)?;
            lab.start_daemon(daemon).map(drop)
        })
        .with_context(|| format!("{} ended by {signal:?} during a download", daemon.name()))?;
        lab.curl(&[&lab.url("/files/1m")])?
            .finish()?
            .check("/files/1m")
            .context("a new connection afterwards")?;
        // And failures are noticed as before.
        lab.await_backends()?;
        download_during(lab, || lab.fail(lab.serving_any()?, Fault::Kill)).context("a failure afterwards")
    })
}

#[test]
fn the_splice_killed() -> Result<()> {
    killed_and_restarted(Daemon::NfqSplice, Signal::KILL)
}

#[test]
fn the_splice_ended() -> Result<()> {
    killed_and_restarted(Daemon::NfqSplice, Signal::TERM)
}

#[test]
fn the_logger_killed() -> Result<()> {
    killed_and_restarted(Daemon::NfqLogger, Signal::KILL)
}

#[test]
fn the_transactionalizer_killed() -> Result<()> {
    killed_and_restarted(Daemon::Transactionalizer, Signal::KILL)
}

#[test]
fn the_recovery_manager_killed() -> Result<()> {
    killed_and_restarted(Daemon::RecoveryManager, Signal::KILL)
}

/// The kernel carries the connection alone, once it is old enough: the whole rest of a download passes with no splice daemon.
#[test]
fn a_download_ends_without_the_splice_daemon() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        download_during(lab, || {
            lab.await_kernel_splice()?;
            lab.stop_daemon(Daemon::NfqSplice, Signal::KILL)
        })?;
        ensure!(lab.daemon(Daemon::NfqSplice).is_none());
        Ok(())
    })
}

/// The server fails while the splice daemon is away; the recovery waits for it.
#[test]
fn a_daemon_that_returns_recovers_what_failed_meanwhile() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        download_during(lab, || {
            lab.stop_daemon(Daemon::NfqSplice, Signal::KILL)?;
            lab.fail(lab.serving_any()?, Fault::Kill)?;
            lab.start_daemon(Daemon::NfqSplice).map(drop)
        })
    })
}
