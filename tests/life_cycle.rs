//! Connections that live oddly: dribbled and pipelined requests, half-closed and idle ones.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::net::Shutdown;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection, get_request};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::topology::{PORT, VIP};
use lab::{Daemon, Fault, Lab, Node};
use netfilter::conntrack::Conntrack;
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(5);
/// Conntrack has seen several segments of each side by then.
const SHOWN: Duration = Duration::from_millis(3500);
const PATHS: [Path; 2] = [Path::Kernel, Path::Userspace];

fn on_both_paths(test: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    for path in PATHS {
        in_lab(&Settings { path, ..Settings::default() }, &test).with_context(|| format!("{path:?}"))?;
    }
    Ok(())
}

#[test]
fn a_request_byte_by_byte() -> Result<()> {
    on_both_paths(|lab| {
        let mut connection = lab.open(Behaviour::default())?;
        for byte in get_request("/files/64k").chunks(1) {
            connection.send(byte)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        connection.receive(false, &mut |_| Ok(()))?.check("/files/64k")
    })
}

/// The second and third answer after a failure in the first one.
#[test]
fn pipelined_requests() -> Result<()> {
    on_both_paths(|lab| {
        let mut connection =
            lab.open(Behaviour { receive_buffer: Some(16 << 10), ..Behaviour::default() })?;
        let documents = ["/files/1m", "/files/1k", "/files/64k"];
        connection.send(&documents.map(get_request).concat())?;
        let client = connection.local()?;
        let mut failed = false;
        for document in documents {
            let answer = connection.receive(false, &mut |bytes| {
                if !failed && bytes > 1000 {
                    failed = true;
                    lab.fail(lab.serving(client)?, Fault::Kill)?;
                }
                Ok(())
            })?;
            answer.check(document)?;
        }
        Ok(())
    })
}

/// A client that has said everything closes its side before the answer comes. (nginx gives up on such a client where an
/// answer does not fit its socket's buffer; the failure of its backend is simulated.)
#[test]
fn a_half_closed_connection() -> Result<()> {
    on_both_paths(|lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.send(&get_request("/files/1k"))?;
        connection.stream().shutdown(Shutdown::Write)?;
        connection.receive(false, &mut |_| Ok(()))?.check("/files/1k")
    })
}

/// The client's window is closed when its backend dies, and for some of its probes after.
#[test]
fn a_closed_window() -> Result<()> {
    on_both_paths(|lab| {
        let mut connection = lab.open(Behaviour { receive_buffer: Some(8 << 10), ..Behaviour::default() })?;
        let client = connection.local()?;
        let mut failed = false;
        let answer = connection.get_watched("/files/1m", &mut |bytes| {
            if !failed && bytes > 100_000 {
                failed = true;
                std::thread::sleep(Duration::from_millis(700));
                lab.fail(lab.serving(client)?, Fault::Kill)?;
                std::thread::sleep(Duration::from_millis(700));
            }
            Ok(())
        })?;
        answer.check("/files/1m")
    })
}

/// Conntrack, which sees few acknowledgements of either side, does not know that reset for a valid one: `nfq-splice` does.
fn a_reset_ends_a_kernel_splice(
    failover: bool,
    reset: impl Fn(&Lab, Connection, Node) -> Result<()>,
) -> Result<()> {
    in_lab(&Settings { failover, ..Settings::default() }, |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.get("/files/1k")?.check("/files/1k")?;
        let (client, server) = (connection.local()?, lab.serving(connection.local()?)?);
        lab.await_kernel_splice()?;
        for _ in 0..5 {
            connection.get("/files/1k")?.check("/files/1k")?;
        }
        reset(lab, connection, server)?;
        await_condition("the proxy forgets it", PATIENCE, || Ok(lab.proxy_status()?.total == 0))?;
        await_condition("the server does", PATIENCE, || {
            Ok(sockets(lab, server, &["-Htn"], client.port())?.is_empty())
        })
    })
}

/// What `ss` says of the server's side of a connection, or does with it.
fn sockets(lab: &Lab, server: Node, arguments: &[&str], port: u16) -> Result<String> {
    let mut sockets = Command::new("ss");
    lab.netns(server).run(sockets.args(arguments).args(["dport", "=", &format!(":{port}")]))
}

/// Conntrack, which sees a segment now and then, forgets what nobody has acknowledged as far as it knows, and what seems to be repeated, after
/// five minutes, unless it is told otherwise.
#[test]
fn an_idle_kernel_splice_is_remembered_for_hours() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        let client = connection.local()?;
        let known =
            || lab.netns(Node::Proxy).within(|| Ok(Conntrack::open()?.get(client, (VIP, PORT).into())?));
        await_condition("conntrack has it", PATIENCE, || {
            connection.get("/files/1k")?.check("/files/1k")?;
            Ok(known()?.is_some())
        })?;
        let begun = Instant::now();
        while begun.elapsed() < SHOWN {
            connection.get("/files/1k")?.check("/files/1k")?;
        }
        let left = known()?.context("no entry")?.entry.timeout_s;
        ensure!(left > 7000, "it is forgotten after {left} s");
        Ok(())
    })
}

fn reset_by_client(mut connection: Connection) -> Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(connection.stream(), Some(Duration::ZERO))?)
}

#[test]
fn a_clients_reset_ends_its_connection_on_a_kernel_splice() -> Result<()> {
    a_reset_ends_a_kernel_splice(true, |_, connection, _| reset_by_client(connection))
}

/// Nothing has passed that the second daemon's program could have seen.
#[test]
fn a_clients_reset_after_a_restart_ends_its_connection_on_a_kernel_splice() -> Result<()> {
    a_reset_ends_a_kernel_splice(true, |lab, connection, _| {
        lab.daemon(Daemon::NfqSplice).context("no nfq-splice")?.signal(Signal::KILL);
        await_condition("it ends", PATIENCE, || Ok(lab.daemon(Daemon::NfqSplice).is_none()))?;
        lab.start_daemon(Daemon::NfqSplice)?;
        reset_by_client(connection)
    })
}

/// With a logger, such a reset does not come so far: the client goes on at another server.
#[test]
fn a_servers_reset_ends_its_connection_on_a_kernel_splice() -> Result<()> {
    a_reset_ends_a_kernel_splice(false, |lab, mut connection, server| {
        sockets(lab, server, &["-HtnK"], connection.local()?.port())?;
        let answered = connection.get("/files/1k").and_then(|answer| answer.check("/files/1k"));
        ensure!(answered.is_err(), "the client was not reset");
        Ok(())
    })
}

/// 4.5 GB on one connection: sequence numbers and log offsets pass 2³². `cargo test -p lab --test life_cycle -- --ignored`
#[test]
#[ignore = "takes a minute"]
fn more_than_four_gigabytes() -> Result<()> {
    on_both_paths(|lab| {
        let mut connection = lab.open(Behaviour::default())?;
        for number in 0..15 {
            connection
                .get("/files/300m")?
                .check("/files/300m")
                .with_context(|| format!("answer {number}"))?;
        }
        lab.get_failing(&mut connection, "/files/300m", Fault::Kill, 150_000_000)?.0.check("/files/300m")
    })
}
