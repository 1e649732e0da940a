//! The lab itself: its verbs, its faults, its emulated link, and that nothing of it is left behind.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection, End};
use lab::nginx::Nginx;
use lab::process::Process;
use lab::settings::{Front, LinkSettings, Settings, nodes};
use lab::testing::{await_condition, hash_of, in_lab};
use lab::topology::{DIRECT_PORT, SERVICE_PORT};
use lab::{Fault, Lab, Node};

fn plain() -> Settings {
    Settings { front: Front::None, ..Settings::default() }
}

fn lab_command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.env("LAB_NAME", lab.name()).args(arguments).stdin(Stdio::null());
    command
}

fn to(node: Node, port: u16) -> std::net::SocketAddrV4 {
    std::net::SocketAddrV4::new(node.address(), port)
}

#[test]
fn both_servers_serve_the_same_documents() -> Result<()> {
    in_lab(&plain(), |lab| {
        for path in ["/files/0", "/files/1k", "/files/64k", "/files/10m", "/chunked/1m", "/padded/1k"] {
            let mut heads = Vec::new();
            for node in Node::BACKENDS {
                let mut connection = Connection::open(lab, to(node, DIRECT_PORT), Behaviour::default())?;
                let response = connection.get(path)?;
                ensure!(response.end == End::Complete && response.status == 200, "{path}: {response:?}");
                ensure!(response.sha256 == hash_of(path)?, "{path} on {node}: {response:?}");
                heads.push(String::from_utf8(response.head)?.replace(char::is_numeric, "0"));
            }
            ensure!(heads[0] == heads[1], "{path}: {heads:?}");
        }
        Ok(())
    })
}

#[test]
fn a_post_comes_back() -> Result<()> {
    in_lab(&plain(), |lab| {
        let file = lab.dir().join("upload");
        std::fs::copy(lab::documents::tree()?.join("files/10m"), &file)?;
        let data = format!("@{}", file.display());
        let fetched = lab.curl(&["--data-binary", &data, &lab.direct_url("/form")])?.finish()?;
        fetched.check("/files/10m")
    })
}

#[test]
fn the_verbs_do_what_they_say() -> Result<()> {
    in_lab(&plain(), |lab| {
        let again = lab_command(lab, &["up", "--no-daemons", "--json"]).output()?;
        ensure!(again.status.success());
        let done: serde_json::Value = serde_json::from_slice(&again.stdout)?;
        ensure!(done["done"].as_array().is_some_and(Vec::is_empty), "a second up did something: {done}");

        let status = lab_command(lab, &["status", "--json"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        ensure!(status["vip"] == "10.77.0.1" && status["port"] == 80, "{status}");
        ensure!(status["nodes"]["logger"] == "10.77.2.2", "{status}");

        let exec =
            lab_command(lab, &["exec", "b2", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).output()?;
        ensure!(
            exec.status.code() == Some(7) && exec.stdout == b"out\n" && exec.stderr == b"err\n",
            "{exec:?}"
        );

        let dump = lab_command(lab, &["dump", "--json"]).output()?;
        let dump: serde_json::Value = serde_json::from_slice(&dump.stdout)?;
        ensure!(dump.as_array().is_some_and(|sections| sections.len() > 20), "{dump}");

        ensure!(!lab_command(lab, &["fail", "client", "kill"]).status()?.success());
        Ok(())
    })
}

#[test]
fn up_repairs_what_is_missing() -> Result<()> {
    in_lab(&plain(), |lab| {
        Nginx::new(lab, Node::B1).kill()?;
        lab.fail(Node::B2, Fault::Silent)?;
        let done = lab.up(&plain(), Process::running(std::process::id()))?;
        ensure!(done == ["started nginx on b1", "healed b2"], "{done:?}");
        for node in Node::BACKENDS {
            let url = format!("http://{}:{SERVICE_PORT}/whoami", node.address());
            ensure!(lab.on_client("curl", &["-sS", "--max-time", "5", &url])? == format!("{node}\n"));
        }
        Ok(())
    })
}

/// What the client of a plain connection sees of each failure, and that healing undoes it.
#[test]
fn faults_are_what_they_are_called() -> Result<()> {
    let expected = [
        (Fault::Kill, End::Closed),
        (Fault::Silent, End::Stalled),
        (Fault::Link, End::Stalled),
        (Fault::Freeze, End::Stalled),
        (Fault::Reset, End::Reset),
    ];
    in_lab(&plain(), |lab| {
        for (fault, end) in expected {
            let patience = Duration::from_millis(700);
            let behaviour = Behaviour { receive_buffer: Some(64 << 10), patience, ..Behaviour::default() };
            let mut connection = Connection::open(lab, to(Node::B1, SERVICE_PORT), behaviour)?;
            ensure!(lab.serving(connection.local()?)? == Node::B1);
            let mut pending = Some(fault);
            let response = connection.get_watched("/files/300m", &mut |bytes| {
                if let Some(fault) = pending.take_if(|_| bytes > 1_000_000) {
                    lab.fail(Node::B1, fault)?;
                }
                Ok(())
            })?;
            ensure!(response.end == end, "{fault:?}: {response:?}");
            ensure!(lab.heal(Node::B1)? && !lab.heal(Node::B1)?);
            let again =
                Connection::open(lab, to(Node::B1, SERVICE_PORT), Behaviour::default())?.get("/files/1m")?;
            ensure!(again.sha256 == hash_of("/files/1m")?, "after healing {fault:?}: {again:?}");
        }
        Ok(())
    })
}

#[test]
fn the_emulated_link_delays_loses_and_limits() -> Result<()> {
    let link = LinkSettings {
        rtt: Duration::from_millis(20),
        loss: 0.01,
        reorder: 0.01,
        rate: Some(200_000_000),
        ..LinkSettings::default()
    };
    let settings = Settings { link, nodes: nodes(&[], true), ..plain() };
    in_lab(&settings, |lab| {
        let started = Instant::now();
        let mut connection = Connection::open(lab, to(Node::B1, DIRECT_PORT), Behaviour::default())?;
        let handshake = started.elapsed();
        // A lost SYN is repeated after a second.
        let late = handshake.as_millis() % 1000;
        ensure!((20..60).contains(&late), "a handshake over 20 ms took {handshake:?}");
        let response = connection.get("/files/10m")?;
        ensure!(response.sha256 == hash_of("/files/10m")?);
        ensure!(
            response.took > Duration::from_millis(400),
            "80 Mbit over 200 Mbit/s took {:?}",
            response.took
        );
        Ok(())
    })
}

#[test]
fn two_labs_run_side_by_side_and_leave_nothing() -> Result<()> {
    let other = Lab::new(&format!("o{}", std::process::id()))?;
    let mut first = None;
    in_lab(&plain(), |lab| {
        other.up(&plain(), Process::running(std::process::id()))?;
        let one = lab.on_client("curl", &["-sS", &lab.direct_url("/whoami")])?;
        let two = other.on_client("curl", &["-sS", &other.direct_url("/whoami")])?;
        ensure!(one == "b1\n" && two == "b1\n");
        first = Some(Lab::new(lab.name())?);
        Ok(())
    })?;
    ensure!(other.netns(Node::B1).exists());
    other.down()?;
    for lab in [other, first.context("no lab")?] {
        ensure!(Node::ALL.iter().all(|node| !lab.netns(*node).exists()), "{} left a namespace", lab.name());
        ensure!(!lab.dir().exists(), "{} left its state", lab.name());
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(lab.name()), "{} left a mount", lab.name());
    }
    Ok(())
}

/// An owner that was killed cannot take its lab down: the sweep does.
#[test]
fn a_lab_without_owner_is_swept_away() -> Result<()> {
    let lab = Lab::new(&format!("s{}", std::process::id()))?;
    let mut owner = Command::new("sleep").arg("600").spawn()?;
    let pid = owner.id().to_string();
    ensure!(lab_command(&lab, &["up", "--no-daemons", "--owner", &pid]).output()?.status.success());
    let server = Nginx::new(&lab, Node::B2).master().context("nginx does not run")?;
    owner.kill()?;
    owner.wait()?;
    lab::operate::sweep()?;
    await_condition("swept", Duration::from_secs(20), || Ok(!lab.dir().exists()))?;
    ensure!(!server.alive(), "its web server still runs");
    ensure!(!Path::new("/run/netns").join(lab.netns(Node::Client).name()).exists());
    Ok(())
}
