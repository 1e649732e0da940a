//! What else goes wrong while a connection is being recovered: each has one outcome, and the client never waits for ever.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::settings::Settings;
use lab::testing::{Curl, await_condition, in_lab};
use lab::{Daemon, Fault, Lab, Node};
use rustix::process::Signal;

/// So long that no kernel's buffers hold what is left of it.
const PATH: &str = "/files/300m";
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a daemon says nothing.
const LATE: Duration = Duration::from_millis(700);

/// A download of which some has come, and who serves it.
fn begin(lab: &Lab) -> Result<(Curl, Node)> {
    let mut curl = lab.curl(&[&lab.url(PATH)])?;
    curl.read_to(1_000_000)?;
    Ok((curl, lab.serving_any()?))
}

/// The log's report, and the manager's order, come late: the client waits that long, and gets its document.
#[test]
fn a_late_answer_is_waited_for() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        for daemon in [Daemon::Transactionalizer, Daemon::RecoveryManager] {
            let (curl, node) = begin(lab)?;
            let process = lab.daemon(daemon).context("it does not run")?;
            process.signal(Signal::STOP);
            lab.fail(node, Fault::Kill)?;
            sleep(LATE);
            process.signal(Signal::CONT);
            curl.finish()?.check(PATH).with_context(|| format!("{} was late", daemon.name()))?;
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

/// The alternate has accepted the connection and says nothing; then it goes on.
#[test]
fn an_alternate_that_pauses_in_mid_recovery_goes_on() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let (curl, node) = begin(lab)?;
        let alternate = stop_alternate(lab, node)?;
        lab.heal(alternate)?;
        curl.finish()?.check(PATH)
    })
}

/// Or it dies, too, and nobody is left.
#[test]
fn an_alternate_that_dies_in_mid_recovery_is_the_end_at_once() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let (curl, node) = begin(lab)?;
        let alternate = stop_alternate(lab, node)?;
        lab.fail(alternate, Fault::Kill)?;
        let since = Instant::now();
        let fetched = curl.finish()?;
        ensure!(fetched.exit == 56, "not reset: {fetched:?}");
        ensure!(since.elapsed() < PATIENCE, "reset after {:?}", since.elapsed());
        Ok(())
    })
}

/// Kills `failed` while the other one is frozen, until that one's kernel has the recovery's request.
fn stop_alternate(lab: &Lab, failed: Node) -> Result<Node> {
    let alternate = if failed == Node::B1 { Node::B2 } else { Node::B1 };
    lab.fail(alternate, Fault::Freeze)?;
    lab.fail(failed, Fault::Kill)?;
    await_condition("the alternate has the request", PATIENCE, || {
        Ok(lab.connections(alternate)?.iter().any(|served| served.unread > 0))
    })?;
    Ok(alternate)
}
