//! Servers that do not keep what a connection was promised when another server had it: one on a link that takes less, one without
//! timestamps. Nothing on the way tells the client: the proxy makes up for it.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

mod capture;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use capture::Capture;
use lab::http::{Behaviour, Connection};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::{Fault, Lab, Node};

/// Small, so that a server that fails has not sent everything yet.
const BUFFER: usize = 64 << 10;

/// A connection that this server has.
fn with_server(lab: &Lab, server: Node) -> Result<Connection> {
    for _ in 0..16 {
        let behaviour = Behaviour { receive_buffer: Some(BUFFER), ..Behaviour::default() };
        let mut connection = lab.open(behaviour)?;
        connection.get("/files/1k")?.check("/files/1k")?;
        if lab.socket(server, connection.local()?)?.is_some() {
            return Ok(connection);
        }
    }
    bail!("{server} got no connection")
}

/// A download in whose middle the first server fails, then an upload to the other one.
fn across_a_failure(lab: &Lab, connection: &mut Connection) -> Result<()> {
    let (answer, failed) = lab.get_failing(connection, "/files/1m", Fault::Reset, 300_000)?;
    answer.check("/files/1m")?;
    let went_on = lab.socket(Node::B2, connection.local()?)?.is_some();
    ensure!(failed == Node::B1 && went_on, "{failed} failed, and it did not go on at b2");
    connection.post_echoed(&std::fs::read(lab::documents::tree()?.join("files/1m"))?)?;
    let made_up = lab.proxy_status()?.counters.get("segments_made_up").copied();
    ensure!(made_up.is_some_and(|count| count > 0), "nothing was made up for");
    Ok(())
}

/// The server's own end of the wire drops what is longer than it says, and nobody reports it.
fn smaller_segments(path: Path) -> Result<()> {
    let settings = Settings { path, send_buffer: Some(BUFFER as u64), ..Settings::default() };
    in_lab(&settings, |lab| {
        let shrink = ["link", "set", "eth0", "mtu", "1280"];
        lab.netns(Node::B2).run(Command::new("ip").args(shrink))?;
        let mut connection = with_server(lab, Node::B1)?;
        across_a_failure(lab, &mut connection)?;
        // Who comes now is told what both servers take, once each thread of the proxy has met this one.
        for _ in 0..16 {
            let mut connection = with_server(lab, Node::B2)?;
            connection.get("/files/64k")?.check("/files/64k")?;
            let line = lab.socket(Node::Client, connection.local()?)?.context("no socket")?;
            let mss = line.split_whitespace().find_map(|word| word.strip_prefix("mss:"));
            if mss.and_then(|mss| mss.parse().ok()).is_some_and(|mss: u32| mss <= 1240) {
                return Ok(());
            }
        }
        bail!("clients are still told more")
    })
}

#[test]
fn a_server_that_takes_smaller_segments_on_the_kernel_path() -> Result<()> {
    smaller_segments(Path::Kernel)
}

#[test]
fn a_server_that_takes_smaller_segments_on_the_userspace_path() -> Result<()> {
    smaller_segments(Path::Userspace)
}

/// RFC 7323 §3.2: some stacks drop what comes without the timestamps that were agreed on.
#[test]
fn a_server_without_timestamps() -> Result<()> {
    let settings = Settings { send_buffer: Some(BUFFER as u64), ..Settings::default() };
    in_lab(&settings, |lab| {
        lab.netns(Node::B2).sysctl("net/ipv4/tcp_timestamps", "0")?;
        let mut connection = with_server(lab, Node::B1)?;
        let capture = Capture::start(lab, Node::Client, "eth0")?;
        across_a_failure(lab, &mut connection)?;
        drop(connection);
        let segments = capture.finish()?;
        for segment in segments.iter().filter(|segment| segment.from_server && !segment.rst) {
            ensure!(segment.timestamps.is_some(), "without timestamps: {segment:?}");
        }
        ensure!(segments.len() > 100, "captured {}", segments.len());
        Ok(())
    })
}
