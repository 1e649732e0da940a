//! A daemon started twice: the second is refused with a clear message, the first is not disturbed.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use anyhow::{Result, ensure};
use lab::Daemon;
use lab::settings::Settings;
use lab::testing::in_lab;

#[test]
fn every_daemon_refuses_a_twin() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(1_000_000)?;
        for daemon in Daemon::ALL {
            let first = lab.daemon(daemon);
            let verb: &[&str] = if daemon == Daemon::NfqLogger { &["run"] } else { &[] };
            let mut twin = lab.program(daemon.name(), verb, daemon.node())?;
            let output = lab.netns(daemon.node()).output(&mut twin)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "a second {} was let in", daemon.name());
            ensure!(said.contains("already") || said.contains("running"), "{} says: {said}", daemon.name());
            ensure!(!said.contains("panicked"), "{said}");
            ensure!(first.is_some() && lab.daemon(daemon) == first, "the first {} is gone", daemon.name());
        }
        curl.finish()?.check("/files/300m")?;
        lab.curl(&[&lab.url("/files/1m")])?.finish()?.check("/files/1m")
    })
}
