//! ECN between kernels, marks set by a hop on the way: data is ECN-capable, marks arrive, and their echoes reach the sender,
//! in both directions, on both paths, and at the alternate after a failure.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::{Fault, Lab, Node};

/// Small, so that a server that fails has not sent everything yet.
const BUFFER: usize = 64 << 10;
/// Connections until each thread of the proxy has met each backend, and more.
const ENOUGH: usize = 64;

/// Whether the client's connection on this node, if it is there, speaks ECN.
fn speaks_ecn(lab: &Lab, node: Node, client: SocketAddr) -> Result<Option<bool>> {
    Ok(lab.socket(node, client)?.map(|line| line.split_whitespace().any(|word| word == "ecn")))
}

/// A counter of the node's kernel.
fn counted(lab: &Lab, node: Node, name: &str) -> Result<u64> {
    let text = lab.netns(node).run(Command::new("nstat").args(["-asz", name]))?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| text.clone())?;
    line.split_whitespace().nth(1).context("no count")?.parse().context("no number")
}

fn open(lab: &Lab) -> Result<Connection> {
    lab.open(Behaviour { receive_buffer: Some(BUFFER), ..Behaviour::default() })
}

/// Connections until one is promised ECN.
fn promised(lab: &Lab) -> Result<Connection> {
    for _ in 0..ENOUGH {
        let mut connection = open(lab)?;
        let client = connection.local()?;
        connection.get("/files/1k")?.check("/files/1k")?;
        let ours = speaks_ecn(lab, Node::Client, client)?;
        let theirs = [Node::B1, Node::B2].map(|node| speaks_ecn(lab, node, client));
        let [b1, b2] = theirs;
        let theirs = b1?.or(b2?);
        ensure!(ours == theirs, "{client}: the client's ECN is {ours:?}, the server's {theirs:?}");
        if ours == Some(true) {
            return Ok(connection);
        }
    }
    anyhow::bail!("no client was promised ECN")
}

/// Such a connection where all wish for ECN; who serves it, and who does not.
fn promised_by(lab: &Lab) -> Result<(Connection, [Node; 2])> {
    for node in [Node::Client, Node::B1, Node::B2] {
        lab.netns(node).sysctl("net/ipv4/tcp_ecn", "1")?;
    }
    let connection = promised(lab)?;
    let first = lab.serving(connection.local()?)?;
    let alternate = if first == Node::B1 { Node::B2 } else { Node::B1 };
    Ok((connection, [first, alternate]))
}

/// A download in whose middle its server fails.
fn fail(lab: &Lab, connection: &mut Connection, server: Node) -> Result<()> {
    let (answer, failed) = lab.get_failing(connection, "/files/1m", Fault::Reset, 300_000)?;
    ensure!(failed == server, "{failed} failed, not {server}");
    answer.check("/files/1m")
}

/// One in four of the packets that the logger's host forwards, and that allow it, meets congestion.
fn mark(lab: &Lab) -> Result<()> {
    let ruleset = "add table ip congestion\n\
                   add chain ip congestion hop { type filter hook prerouting priority -150; }\n\
                   add rule ip congestion hop ip ecn ect0 numgen inc mod 4 0 ip ecn set ce\n";
    lab.netns(Node::Logger).run(Command::new("nft").arg(ruleset)).map(drop)
}

fn carried(path: Path) -> Result<()> {
    let settings = Settings { path, send_buffer: Some(BUFFER as u64), ..Settings::default() };
    in_lab(&settings, |lab| {
        let (mut connection, [first, alternate]) = promised_by(lab)?;
        let client = connection.local()?;
        mark(lab)?;
        fail(lab, &mut connection, first)?;
        ensure!(speaks_ecn(lab, alternate, client)? == Some(true), "the alternate does not speak ECN");
        upload(&mut connection)?;
        ensure!(counted(lab, Node::Client, "IpExtInCEPkts")? > 0, "no mark reached the client");
        for node in [first, alternate, Node::Client] {
            ensure!(counted(lab, node, "TcpExtTCPDeliveredCE")? > 0, "no echo reached {node}");
        }
        ensure!(counted(lab, alternate, "IpExtInCEPkts")? > 0, "no mark reached the server");
        Ok(())
    })
}

fn upload(connection: &mut Connection) -> Result<()> {
    connection.post_echoed(&std::fs::read(lab::documents::tree()?.join("files/1m"))?)
}

#[test]
fn on_the_kernel_path() -> Result<()> {
    carried(Path::Kernel)
}

#[test]
fn on_the_userspace_path() -> Result<()> {
    carried(Path::Userspace)
}

/// A client that is promised ECN goes on at an alternate that does not speak it; new ones are promised it no more.
#[test]
fn an_alternate_without_ecn() -> Result<()> {
    let settings = Settings { send_buffer: Some(BUFFER as u64), ..Settings::default() };
    in_lab(&settings, |lab| {
        let (mut connection, [first, alternate]) = promised_by(lab)?;
        let client = connection.local()?;
        lab.netns(alternate).sysctl("net/ipv4/tcp_ecn", "0")?;
        fail(lab, &mut connection, first)?;
        ensure!(speaks_ecn(lab, alternate, client)? == Some(false), "the alternate speaks ECN");
        upload(&mut connection)
    })
}
