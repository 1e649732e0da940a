//! wrk with 32 connections does not notice that a server is killed.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Node};

/// A second of what these documents are served at here: on two processors, everybody is late now and then.
const RING: u64 = 1 << 30;

fn no_error(path: Path, document: &str) -> Result<()> {
    let set = vec![format!("logger.logger.ring_bytes={RING}")];
    in_lab(&Settings { path, set, ..Settings::default() }, |lab| {
        let url = lab.url(document);
        let mut wrk = Command::new("wrk");
        wrk.args(["-t2", "-c32", "-d6s", "--timeout", "5s", &url]);
        wrk.stdout(std::process::Stdio::piped());
        let wrk = lab.netns(Node::Client).spawn(&mut wrk)?;
        let connections = || -> Result<[usize; 2]> {
            Ok([lab.connections(Node::B1)?.len(), lab.connections(Node::B2)?.len()])
        };
        await_condition("32 connections", Duration::from_secs(5), || {
            Ok(connections()?.iter().sum::<usize>() >= 32)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let [first, second] = connections()?;
        lab.fail(if first >= second { Node::B1 } else { Node::B2 }, Fault::Kill)?;
        let output = wrk.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{said}");
        ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        ensure!(said.contains("requests in"), "{said}");
        Ok(())
    })
}

#[test]
fn with_small_documents() -> Result<()> {
    no_error(Path::Kernel, "/files/1k")
}

#[test]
fn with_larger_documents() -> Result<()> {
    no_error(Path::Kernel, "/files/64k")
}

#[test]
fn on_the_userspace_path() -> Result<()> {
    no_error(Path::Userspace, "/files/1k")
}
