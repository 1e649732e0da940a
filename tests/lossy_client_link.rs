//! The client's own link is bad while its server fails.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::Duration;

use anyhow::Result;
use lab::Fault;
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::in_lab;

fn survives(path: Path, fault: Fault) -> Result<()> {
    let link =
        LinkSettings { rtt: Duration::from_millis(4), loss: 0.01, reorder: 0.01, ..LinkSettings::default() };
    let settings = Settings { link, path, nodes: nodes(&[], true), ..Settings::default() };
    in_lab(&settings, |lab| {
        for offset in [1, 4_000_000] {
            let mut curl = lab.curl(&[&lab.url("/files/10m")])?;
            curl.read_to(offset)?;
            let node = lab.serving_any()?;
            lab.fail(node, fault)?;
            curl.finish()?.check("/files/10m")?;
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

#[test]
fn killed() -> Result<()> {
    survives(Path::Kernel, Fault::Kill)
}

#[test]
fn silent() -> Result<()> {
    survives(Path::Kernel, Fault::Silent)
}

#[test]
fn pulled() -> Result<()> {
    survives(Path::Kernel, Fault::Link)
}

#[test]
fn frozen() -> Result<()> {
    survives(Path::Kernel, Fault::Freeze)
}

#[test]
fn killed_on_the_userspace_path() -> Result<()> {
    survives(Path::Userspace, Fault::Kill)
}
