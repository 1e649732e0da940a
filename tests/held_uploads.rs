//! What a client has sent while it had no backend goes to the alternate, with all that it sends later. That nothing which is sent later passes by
//! before is shown where that order is kept (`nfq-splice/src/batch.rs`).

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::daemons::Daemon;
use lab::http::{Behaviour, Connection, hex};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab, Node};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

const PATHS: [Path; 2] = [Path::Kernel, Path::Userspace];
const PATIENCE: Duration = Duration::from_secs(5);
const ROUNDS: usize = 2;
/// Opens the client's congestion window, but not beyond what is passed on of one client that sends into a fence.
const FIRST: usize = 30_000;
/// More than that window: the rest leaves with the first acknowledgement.
const SECOND: usize = 400_000;

/// Kills the server while no manager can order a recovery, and has the client send a body, of which a window's worth goes into the
/// fence. The alternate answers once the proxy holds all of that.
fn upload_without_backend(lab: &Lab, connection: &mut Connection) -> Result<()> {
    let node = lab.serving(connection.local()?)?;
    let alternate = if node == Node::B1 { Node::B2 } else { Node::B1 };
    let manager = lab.daemon(Daemon::RecoveryManager).context("no manager")?;
    let body: Vec<u8> = (0..SECOND as u32).map(|place| (place / 7) as u8).collect();
    let head = format!("POST /echo HTTP/1.1\r\nHost: lab\r\nContent-Length: {SECOND}\r\n\r\n");
    let whole = [head.as_bytes(), &body].concat();
    let mut stream = connection.stream().try_clone()?;
    let (earlier, taken_before) = (logger_counter(lab, "fences")?, proxy_counter(lab, "swallowed_taken")?);
    manager.signal(Signal::STOP);
    let prepared = answers(lab, alternate, false).and_then(|()| lab.fail(node, Fault::Kill)).and_then(|()| {
        await_condition("the fence holds", PATIENCE, || Ok(logger_counter(lab, "fences")? > earlier))
    });
    let answer = thread::scope(|scope| {
        let swallowed = logger_counter(lab, "fenced_logged")?;
        let sending = scope.spawn(move || stream.write_all(&whole));
        let fenced = await_condition("it has swallowed some", PATIENCE, || {
            Ok(logger_counter(lab, "fenced_logged")? > swallowed)
        });
        manager.signal(Signal::CONT);
        let is_held = || {
            let fenced = logger_counter(lab, "fenced_logged")? - swallowed;
            Ok(proxy_counter(lab, "swallowed_taken")? - taken_before == fenced)
        };
        let taken =
            prepared.and(fenced).and_then(|()| await_condition("the proxy holds it", PATIENCE, is_held));
        answers(lab, alternate, true)?;
        taken?;
        let answer = connection.receive(false, &mut |_| Ok(()))?;
        sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        anyhow::Ok(answer)
    })?;
    ensure!(answer.status == 200 && answer.sha256 == hex(&Sha256::digest(&body)), "{answer:?}");
    lab.heal(node)?;
    lab.await_backends()
}

/// Whether a server's host answers the SYNs of clients; those of the detector it does.
fn answers(lab: &Lab, node: Node, answers: bool) -> Result<()> {
    let (change, client) = (if answers { "-D" } else { "-A" }, Node::Client.address().to_string());
    let mut iptables = Command::new("iptables");
    iptables.args(["-w", change, "INPUT", "-p", "tcp", "--syn", "-s", &client, "-j", "DROP"]);
    lab.netns(node).run(&mut iptables).map(drop)
}

fn logger_counter(lab: &Lab, name: &str) -> Result<u64> {
    Ok(lab.logger_status()?.counters.get(name).copied().unwrap_or_default())
}

fn proxy_counter(lab: &Lab, name: &str) -> Result<u64> {
    Ok(lab.proxy_status()?.counters.get(name).copied().unwrap_or_default())
}

#[test]
fn an_upload_that_was_held_arrives_whole() -> Result<()> {
    for path in PATHS {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            lab.await_backends()?;
            for _ in 0..ROUNDS {
                let mut connection = lab.open(Behaviour::default())?;
                connection.post_echoed(&vec![7; FIRST])?;
                upload_without_backend(lab, &mut connection)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
