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

/// Which of a node's sockets have this address as their peer, or as their own, and speak ECN.
fn speaks_ecn(lab: &Lab, node: Node, client: SocketAddr) -> Result<Option<bool>> {
    let text = lab.netns(node).run(Command::new("ss").args(["-tinoHO", "state", "established"]))?;
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word == client.to_string()));
    Ok(line.map(|line| line.split_whitespace().any(|word| word == "ecn")))
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
        for node in [Node::Client, Node::B1, Node::B2] {
            lab.netns(node).sysctl("net/ipv4/tcp_ecn", "1")?;
        }
        let mut connection = promised(lab)?;
        let client = connection.local()?;
        let first = if speaks_ecn(lab, Node::B1, client)?.is_some() { Node::B1 } else { Node::B2 };
        let alternate = if first == Node::B1 { Node::B2 } else { Node::B1 };
        mark(lab)?;
        let mut failed = false;
        let answer = connection.get_watched("/files/1m", &mut |bytes| {
            if bytes >= 300_000 && !failed {
                failed = true;
                lab.fail(first, Fault::Reset)?;
            }
            Ok(())
        });
        answer?.check("/files/1m")?;
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
    let body = std::fs::read(lab::documents::tree()?.join("files/1m"))?;
    let head = format!("POST /echo HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(head.as_bytes())?;
    connection.send(&body)?;
    let answer = connection.receive(false, &mut |_| Ok(()))?;
    ensure!(answer.sha256 == lab::testing::hash_of("/files/1m")?, "echoed: {answer:?}");
    Ok(())
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
        for node in [Node::Client, Node::B1, Node::B2] {
            lab.netns(node).sysctl("net/ipv4/tcp_ecn", "1")?;
        }
        let mut connection = promised(lab)?;
        let client = connection.local()?;
        let first = if speaks_ecn(lab, Node::B1, client)?.is_some() { Node::B1 } else { Node::B2 };
        let alternate = if first == Node::B1 { Node::B2 } else { Node::B1 };
        lab.netns(alternate).sysctl("net/ipv4/tcp_ecn", "0")?;
        let mut failed = false;
        let answer = connection.get_watched("/files/1m", &mut |bytes| {
            if bytes >= 300_000 && !failed {
                failed = true;
                lab.fail(first, Fault::Reset)?;
            }
            Ok(())
        });
        answer?.check("/files/1m")?;
        ensure!(speaks_ecn(lab, alternate, client)? == Some(false), "the alternate speaks ECN");
        upload(&mut connection)
    })
}
