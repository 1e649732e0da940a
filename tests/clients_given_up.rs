//! Clients that nobody can help: with `recovery.give_up = "answer"` those that have nothing of a response get a whole one
//! that says so, the others are reset at once.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab, Node};

const PATIENCE: Duration = Duration::from_secs(5);
/// A person would not wait much longer for an answer.
const PROMPT: Duration = Duration::from_secs(3);

/// All clients go to b1.
fn settings() -> Settings {
    let set = ["backend.b2.state='drain'", "recovery.give_up='answer'"];
    Settings { set: set.map(str::to_owned).to_vec(), ..Settings::default() }
}

#[test]
fn who_has_nothing_yet_is_answered() -> Result<()> {
    in_lab(&settings(), |lab| {
        an_update_in_flight_is_answered_502(lab)?;
        lab.heal(Node::B1)?;
        lab.fail(Node::B2, Fault::Kill)?;
        await_condition("b1 is up, b2 is down", 4 * PATIENCE, || Ok(down(lab)? == [Node::B2.name()]))?;
        without_an_alternate(lab)
    })
}

fn down(lab: &Lab) -> Result<Vec<String>> {
    let backends = lab.proxy_status()?.backends;
    Ok(backends.into_iter().filter(|backend| backend.down).filter_map(|backend| backend.name).collect())
}

fn an_update_in_flight_is_answered_502(lab: &Lab) -> Result<()> {
    lab.fail(Node::B1, Fault::Freeze)?;
    let curl = lab.curl(&["-d", "hello", &lab.url("/form")])?;
    await_condition("the request has arrived", PATIENCE, || {
        Ok(lab.connections(Node::B1)?.iter().any(|served| served.unread > 0))
    })?;
    lab.fail(Node::B1, Fault::Kill)?;
    let since = Instant::now();
    let fetched = curl.finish()?;
    ensure!(fetched.exit == 0 && fetched.status == 502 && fetched.connects == 1, "{fetched:?}");
    ensure!(since.elapsed() < PROMPT, "after {:?}", since.elapsed());
    Ok(())
}

fn without_an_alternate(lab: &Lab) -> Result<()> {
    let waiting = lab.curl(&[&lab.url("/wait?s=30")])?;
    let mut begun = lab.curl(&[&lab.url("/files/300m")])?;
    begun.read_to(10_000)?;
    await_condition("both are served", PATIENCE, || Ok(lab.connections(Node::B1)?.len() >= 2))?;
    lab.fail(Node::B1, Fault::Kill)?;
    let since = Instant::now();
    let (waiting, begun) = (waiting.finish()?, begun.finish()?);
    // 502: b2 was asked nevertheless, because it had been called down only for its silence.
    ensure!(waiting.exit == 0 && matches!(waiting.status, 502 | 503), "{waiting:?}");
    ensure!(waiting.connects == 1, "{waiting:?}");
    ensure!(begun.exit == 56 && begun.bytes < 300_000_000, "{begun:?}");
    ensure!(since.elapsed() < PROMPT, "after {:?}", since.elapsed());
    Ok(())
}
