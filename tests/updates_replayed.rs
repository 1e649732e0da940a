//! Backends that share no state: the updates of a connection are run again on the alternate, in order and once, before the page in
//! progress goes on there (paper §4.3, `[T_R, T_L]`).

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection, End, Response, hex};
use lab::php::{Php, SEPARATE};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::topology::Node;
use lab::{Fault, Lab};
use sha2::{Digest, Sha256};

const SESSION: &str = "keptbyeach";
const FILLING: usize = 2_000_000;

fn settings(path: Path) -> Settings {
    // A small one: the page must not be out when its server is killed.
    Settings {
        path,
        php: true,
        set: vec![SEPARATE.to_owned()],
        send_buffer: Some(16_384),
        ..Settings::default()
    }
}

/// As the application makes it, where `counter` updates were run.
fn page(counter: usize, filling: usize) -> String {
    let line = hex(&Sha256::digest(format!("{SESSION} {counter}"))) + "\n";
    let filling: String = line.chars().cycle().take(filling).collect();
    hex(&Sha256::digest(format!("counter {counter}\n{filling}")))
}

fn ask(connection: &mut Connection, line: &str, fields: &str) -> Result<()> {
    let head = format!("{line} HTTP/1.1\r\nHost: lab\r\nCookie: PHPSESSID={SESSION}\r\n{fields}\r\n");
    connection.send(head.as_bytes())
}

fn is_page(response: &Response, counter: usize, filling: usize) -> Result<()> {
    let right = response.end == End::Complete && response.status == 200;
    ensure!(right && response.sha256 == page(counter, filling), "not page {counter}: {response:?}");
    Ok(())
}

fn increment(connection: &mut Connection, counter: usize) -> Result<()> {
    ask(connection, "POST /app/increment", &format!("X-Update: u{counter}\r\nContent-Length: 0\r\n"))?;
    is_page(&connection.receive(false, &mut |_| Ok(()))?, counter, 0)
}

fn view(connection: &mut Connection, counter: usize) -> Result<()> {
    ask(connection, "GET /app/view", "")?;
    is_page(&connection.receive(false, &mut |_| Ok(()))?, counter, 0)
}

/// Asks for a large page, whose server dies while it comes. Which one that was.
fn view_failing(lab: &Lab, connection: &mut Connection, counter: usize) -> Result<Node> {
    let client = connection.local()?;
    let mut failed = None;
    ask(connection, "GET /app/view", &format!("X-Filling: {FILLING}\r\n"))?;
    let response = connection.receive(false, &mut |bytes| {
        if failed.is_none() && bytes >= FILLING as u64 / 3 {
            let node = lab.serving(client)?;
            lab.fail(node, Fault::Kill)?;
            failed = Some(node);
        }
        Ok(())
    })?;
    is_page(&response, counter, FILLING)?;
    failed.context("the page was complete before its server died")
}

fn applied(lab: &Lab, node: Node) -> Result<Vec<String>> {
    let updates = Php::new(lab, node).updates_here()?;
    ensure!(updates.iter().all(|(session, _)| session == SESSION), "{updates:?}");
    Ok(updates.into_iter().map(|(_, name)| name).collect())
}

fn updates_follow_the_client(path: Path) -> Result<()> {
    in_lab(&settings(path), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        for counter in 1..=3 {
            increment(&mut connection, counter)?;
            view(&mut connection, counter)?;
        }
        let failed = view_failing(lab, &mut connection, 3)?;
        let other = Node::BACKENDS.into_iter().find(|node| *node != failed).context("no other backend")?;
        increment(&mut connection, 4)?;
        let found = (applied(lab, failed)?, applied(lab, other)?);
        let expected = |last| (1..=last).map(|n| format!("u{n}")).collect::<Vec<_>>();
        ensure!(found == (expected(3), expected(4)), "{found:?}");
        let replayed = lab.proxy_status()?.counters.get("connections_replayed").copied();
        ensure!(replayed == Some(1), "{replayed:?} connections were replayed");
        Ok(())
    })
}

#[test]
fn an_alternate_without_the_session_runs_its_updates_first() -> Result<()> {
    updates_follow_the_client(Path::Kernel)
}

#[test]
fn so_it_does_where_the_daemon_translates() -> Result<()> {
    updates_follow_the_client(Path::Userspace)
}
