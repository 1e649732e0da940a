//! What a client sends just when its backend has failed is dropped by the logger's fence, and yet answered at once: not only when
//! the client's kernel repeats it, 200 ms later.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::io::Read;
use std::net::Shutdown;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::daemons::Daemon;
use lab::http::{Behaviour, Connection, get_request};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab, Node};
use rustix::process::Signal;

const PATHS: [Path; 2] = [Path::Kernel, Path::Userspace];
/// Less than any retransmission timer (`TCP_RTO_MIN`), more than a recovery takes.
const STALL: Duration = Duration::from_millis(150);
/// A few of those timers.
const CLOSED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 32;

/// A connection that has had one answer, and the server that gave it.
fn warmed_up(lab: &Lab) -> Result<(Connection, Node)> {
    let mut connection = lab.open(Behaviour::default())?;
    connection.get("/files/1k")?.check("/files/1k")?;
    let node = lab.serving(connection.local()?)?;
    Ok((connection, node))
}

fn swallowed(lab: &Lab) -> Result<u64> {
    lab.logger_status()?.counters.get("fenced_logged").copied().context("no counter")
}

/// Kills the server while no manager can order a recovery, has `client` send into the fence, and lets the manager go on: the time
/// from there to the answer.
fn send_into_fence(
    lab: &Lab,
    node: Node,
    connection: &mut Connection,
    bytes: &[u8],
    closes: bool,
) -> Result<Duration> {
    let manager = lab.daemon(Daemon::RecoveryManager).context("no manager")?;
    let before = swallowed(lab)?;
    let fences = || lab.logger_status().map(|status| status.counters.get("fences").copied());
    let earlier = fences()?;
    manager.signal(Signal::STOP);
    let prepared = lab.fail(node, Fault::Kill).and_then(|()| {
        await_condition("the fence holds", PATIENCE, || Ok(fences()? > earlier))?;
        connection.send(bytes)?;
        if closes {
            connection.stream().shutdown(Shutdown::Write)?;
        }
        await_condition("the fence has swallowed it", PATIENCE, || Ok(swallowed(lab)? > before))
    });
    let began = Instant::now();
    manager.signal(Signal::CONT);
    prepared?;
    let answer = connection.receive(false, &mut |_| Ok(()))?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(began.elapsed())
}

/// A request; an update, which the failed server has certainly not run; the end of a request of which that server had the beginning; a
/// request and the client's end behind it, which its kernel says again.
#[test]
fn it_is_answered_at_once() -> Result<()> {
    let update = b"POST /echo HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\nhello";
    for path in PATHS {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            let get = get_request("/files/1k");
            // A manager that is stopped before the log knows it would be none.
            lab.await_backends()?;
            for (begun, sent) in
                [("", get.as_slice()), ("", update), ("POST /echo HTTP/1.1\r\nHost: lab\r\n", &update[32..])]
            {
                let (mut connection, node) = warmed_up(lab)?;
                connection.send(begun.as_bytes())?;
                let took = send_into_fence(lab, node, &mut connection, sent, false)?;
                ensure!(took < STALL, "{path:?}: {took:?} after the order could leave");
                lab.heal(node)?;
                lab.await_backends()?;
            }
            let (mut connection, node) = warmed_up(lab)?;
            let took = send_into_fence(lab, node, &mut connection, &get, true)?;
            ensure!(took < STALL, "{path:?}: {took:?} with the client's end behind it");
            let answered = Instant::now();
            ensure!(connection.stream().read(&mut [0])? == 0, "{path:?}: it goes on");
            ensure!(
                answered.elapsed() < CLOSED,
                "{path:?}: closed {:?} after the answer",
                answered.elapsed()
            );
            lab.heal(node)?;
            lab.await_backends()?;
            let counters = lab.proxy_status()?.counters;
            ensure!(counters.get("swallowed_taken").is_some_and(|taken| *taken >= 4), "{counters:?}");
            ensure!(counters.get("clients_reset").is_none_or(|reset| *reset == 0), "{counters:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections that ask one after the other while their server dies: none of them waits until its kernel repeats its request.
#[test]
fn nobody_waits_for_a_retransmission_timer() -> Result<()> {
    for path in PATHS {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            lab.await_backends()?;
            for _ in 0..2 {
                let mut all = (0..CONNECTIONS).map(|_| warmed_up(lab)).collect::<Result<Vec<_>>>()?;
                let node = all.first().context("no connection")?.1;
                all.retain(|(_, serving)| *serving == node);
                lab.prepare(node, Fault::Kill)?.strike()?;
                let mut asked = Vec::new();
                for (connection, _) in &mut all {
                    asked.push(Instant::now());
                    connection.send(&get_request("/files/1k"))?;
                    sleep(Duration::from_micros(100));
                }
                for ((connection, _), asked) in all.iter_mut().zip(asked) {
                    connection.receive(false, &mut |_| Ok(()))?.check("/files/1k")?;
                    let (took, socket) = (asked.elapsed(), lab.socket(Node::Client, connection.local()?)?);
                    let repeated = socket.as_ref().is_some_and(|socket| socket.contains(" retrans:"));
                    ensure!(took < STALL || !repeated, "{path:?}: answered after {took:?}: {socket:?}");
                }
                lab.fail(node, Fault::Kill)?;
                lab.heal(node)?;
                lab.await_backends()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
