//! Uploads many times larger than what is kept in memory: the server dies while they come, and the alternate gets what the client
//! will not repeat from the segment log (paper §4.3), once.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, End, hex};
use lab::nginx::Nginx;
use lab::php::Php;
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::topology::Node;
use lab::{Fault, Lab};
use sha2::{Digest, Sha256};

const SIZE: usize = 50_000_000;
/// A recovery writes what it replays into the log again.
const RING: u64 = 256 << 20;

fn settings(path: Path) -> Settings {
    let set = vec![format!("logger.logger.ring_bytes={RING}")];
    Settings { path, php: true, set, ..Settings::default() }
}

fn body() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    std::iter::repeat_with(|| next().to_le_bytes()).take(SIZE / 4).flatten().collect()
}

/// Another one in every run; a failure names it.
fn anywhere() -> usize {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as usize % SIZE
}

/// Sends a request whose server dies when `offset` bytes of the body have been sent; the answer's body, and who died.
fn upload(lab: &Lab, head: &str, body: &[u8], offset: usize) -> Result<(u16, Node)> {
    let mut connection = lab.open(Behaviour::default())?;
    let head = format!("{head} HTTP/1.1\r\nHost: lab\r\nContent-Length: {SIZE}\r\n\r\n");
    connection.send(head.as_bytes())?;
    connection.send(&body[..offset])?;
    let node = lab.serving(connection.local()?)?;
    lab.fail(node, Fault::Kill)?;
    connection.send(&body[offset..]).with_context(|| format!("{node} failed at byte {offset}"))?;
    let answer = connection.receive(false, &mut |_| Ok(()))?;
    ensure!(answer.end == End::Complete, "{node} failed at byte {offset}: {answer:?}");
    Ok((answer.status, node))
}

fn heal(lab: &Lab, node: Node) -> Result<()> {
    lab.heal(node)?;
    lab.await_backends()
}

fn stored(lab: &Lab, node: Node, name: &str) -> Option<String> {
    let bytes = fs::read(Nginx::new(lab, node).stored(name)).ok()?;
    Some(hex(&Sha256::digest(&bytes)))
}

/// A file that nginx stores, on the alternate alone.
fn is_stored(lab: &Lab, body: &[u8], offset: usize) -> Result<()> {
    let name = format!("at-{offset}");
    let (status, failed) = upload(lab, &format!("PUT /store/{name}"), body, offset)?;
    ensure!(status == 201, "status {status}, {failed} failed at byte {offset}");
    let other = Node::BACKENDS.into_iter().find(|node| *node != failed).context("no other backend")?;
    let found = (stored(lab, failed, &name), stored(lab, other, &name));
    ensure!(found == (None, Some(hex(&Sha256::digest(body)))), "{found:?}, {failed} failed at byte {offset}");
    heal(lab, failed)
}

/// An update that may not be repeated: half sent, it has not been applied.
fn is_applied_once(lab: &Lab, body: &[u8], offset: usize) -> Result<()> {
    let (status, failed) = upload(lab, "POST /app/increment", body, offset)?;
    ensure!(status == 200, "status {status}, {failed} failed at byte {offset}");
    let updates = Php::updates(lab);
    ensure!(updates.len() == 1, "{updates:?}, {failed} failed at byte {offset}");
    heal(lab, failed)
}

#[test]
fn fifty_megabytes_reach_the_alternate_from_the_log() -> Result<()> {
    in_lab(&settings(Path::Kernel), |lab| {
        let body = body();
        is_stored(lab, &body, anywhere())?;
        is_applied_once(lab, &body, anywhere().max(2_000_000))?;
        let recoveries = lab.manager_status()?.recoveries;
        ensure!(recoveries.len() == 2 && recoveries.iter().all(|it| it.ok), "{recoveries:?}");
        let pieces = lab.manager_status()?.counters.get("pieces_asked").copied();
        ensure!(pieces.is_some_and(|pieces| pieces > 4), "{pieces:?} pieces came from the log");
        Ok(())
    })
}

/// Better a reset than a client that hangs: its server's bytes are gone.
#[test]
fn without_room_in_the_ring_the_client_is_reset() -> Result<()> {
    let set = vec!["logger.logger.ring_bytes=16777216".to_owned()];
    in_lab(&Settings { set, ..Settings::default() }, |lab| {
        let mut connection =
            lab.open(Behaviour { patience: Duration::from_secs(5), ..Behaviour::default() })?;
        let head = format!("PUT /store/lost HTTP/1.1\r\nHost: lab\r\nContent-Length: {SIZE}\r\n\r\n");
        connection.send(head.as_bytes())?;
        // No faster than the log is read: a connection whose records were overwritten before is another case.
        for piece in vec![7; SIZE / 2].chunks(1 << 20) {
            connection.send(piece)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        lab.fail(lab.serving(connection.local()?)?, Fault::Kill)?;
        let answer = connection.receive(false, &mut |_| Ok(()))?;
        ensure!(answer.end == End::Reset && answer.status == 0, "{answer:?}");
        let recoveries = lab.manager_status()?.recoveries;
        let reason = recoveries.last().map(|record| record.outcome.clone()).unwrap_or_default();
        ensure!(reason.contains("request bytes were overwritten"), "{reason}");
        Ok(())
    })
}
