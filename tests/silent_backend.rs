//! Failures that say nothing: a host that drops everything, a pulled cable, a frozen server.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, get_request};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab};

const SIZE: u64 = 300_000_000;

fn download_survives(lab: &Lab, fault: Fault, offset: u64) -> Result<()> {
    let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
    curl.read_to(offset)?;
    let node = lab.serving_any()?;
    lab.fail(node, fault)?;
    let fetched = curl.finish()?;
    fetched.check("/files/300m").with_context(|| format!("{fault:?} of {node} at byte {offset}"))?;
    lab.heal(node)?;
    lab.await_backends()
}

fn wherever_it_is_hit(fault: Fault) -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        for offset in [1, SIZE / 2, SIZE - 1_000_000] {
            download_survives(lab, fault, offset)?;
        }
        Ok(())
    })
}

#[test]
fn a_silent_host() -> Result<()> {
    wherever_it_is_hit(Fault::Silent)
}

#[test]
fn a_pulled_cable() -> Result<()> {
    wherever_it_is_hit(Fault::Link)
}

/// Nobody asks it for anything, and its next heartbeat is far away: the kernel's word of the lost link is enough to look.
#[test]
fn a_pulled_cable_is_noticed_while_idle() -> Result<()> {
    let settings = Settings { set: vec!["detector.heartbeat_ms=60000".to_owned()], ..Settings::default() };
    in_lab(&settings, |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.get("/files/1k")?.check("/files/1k")?;
        let node = lab.serving(connection.local()?)?;
        lab.fail(node, Fault::Link)?;
        await_condition("its failure declared", Duration::from_secs(10), || {
            Ok(lab.log_status()?.counters.get("backend_downs") == Some(&1))
        })?;
        connection.get("/files/1k")?.check("/files/1k")
    })
}

#[test]
fn a_frozen_server() -> Result<()> {
    wherever_it_is_hit(Fault::Freeze)
}

#[test]
fn a_silent_host_on_the_userspace_path() -> Result<()> {
    let settings = Settings { path: Path::Userspace, ..Settings::default() };
    in_lab(&settings, |lab| download_survives(lab, Fault::Silent, SIZE / 2))
}

/// Nothing leaves a silent host any more, so with a small window the place in the response is exact. What is left after it is
/// little: a client with the least buffer that Linux knows may stay at a window of 320 bytes, less than half of what it offered at first, and gets
/// one segment for each of its server's timers of 200 ms (RFC 9293 §3.8.6.2.1), whoever the server is.
#[test]
fn exact_places_with_a_small_window() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        for (document, offset, buffer) in [
            ("/files/64k", 40_000, 1500),
            ("/files/64k", 1, 2900),
            ("/files/1m", 950_000, 4096),
            ("/files/1m", 999_000, 4096),
        ] {
            let behaviour = Behaviour { receive_buffer: Some(buffer), ..Behaviour::default() };
            let mut connection = lab.open(behaviour)?;
            let (response, node) = lab.get_failing(&mut connection, document, Fault::Silent, offset)?;
            response.check(document).with_context(|| format!("at byte {offset}, buffer {buffer}"))?;
            ensure!(response.took < Duration::from_secs(30), "too slow at {offset}, {buffer}: {response:?}");
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

/// The head is longer than the window: the client has some of it and nothing else.
#[test]
fn in_the_middle_of_the_head() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(small_window())?;
        connection.send(&get_request("/padded/64k"))?;
        connection.await_readable(500)?;
        lab.fail(lab.serving(connection.local()?)?, Fault::Silent)?;
        connection.receive(false, &mut |_| Ok(()))?.check("/padded/64k")
    })
}

fn small_window() -> Behaviour {
    Behaviour { receive_buffer: Some(4 << 10), ..Behaviour::default() }
}

/// An application that is only slow is not a dead host: its connection is left alone.
#[test]
fn a_short_pause_of_the_server_changes_nothing() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(50_000_000)?;
        let node = lab.serving_any()?;
        lab.fail(node, Fault::Freeze)?;
        std::thread::sleep(Duration::from_millis(50));
        lab.heal(node)?;
        curl.finish()?.check("/files/300m")
    })
}

/// It was only frozen for longer than anybody could know: its client does not notice, and the mistake is counted.
#[test]
fn a_wrong_suspicion_is_harmless_and_counted() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(50_000_000)?;
        let node = lab.serving_any()?;
        lab.fail(node, Fault::Freeze)?;
        curl.read_to(200_000_000)?;
        let counter =
            |name: &str| anyhow::Ok(lab.log_status()?.counters.get(name).copied().unwrap_or_default());
        ensure!(counter("failed")? == 1, "the frozen server was not given up");
        ensure!(counter("wrong_suspicions")? == 0, "nobody can know yet");
        lab.heal(node)?;
        curl.finish()?.check("/files/300m")?;
        lab.await_backends()?;
        ensure!(counter("wrong_suspicions")? == 1, "{:?}", lab.log_status()?.counters);
        Ok(())
    })
}
