//! The splice daemon is killed, or ended for an upgrade, under many transfers and new connections: nobody notices.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::http::{Behaviour, Connection, get_request};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::{Daemon, Lab};
use rustix::process::Signal;

const TRANSFERS: usize = 200;
/// Connected before the daemon dies; their requests are sent while nobody is there.
const SETUPS: usize = 20;
/// Connections begun while nobody is there.
const NEWCOMERS: usize = 20;
const DOCUMENT: &str = "/files/1m";
/// Read before the daemon dies; the rest does not fit the client's buffer.
const BEFORE: u64 = 10_000;
const AWAY: Duration = Duration::from_millis(300);

/// Two meetings: all transfers run, then the daemon is dead. The connection stays open, to be found by the next daemon.
fn transfer(mut connection: Connection, meeting: &Barrier) -> Result<Connection> {
    let mut met = false;
    let response = connection.get_watched(DOCUMENT, &mut |bytes| {
        if !met && bytes >= BEFORE {
            met = true;
            meeting.wait();
            meeting.wait();
        }
        Ok(())
    });
    if !met {
        meeting.wait();
        meeting.wait();
    }
    response?.check(DOCUMENT)?;
    Ok(connection)
}

fn ask(mut connection: Connection) -> Result<Connection> {
    connection.send(&get_request("/files/1k"))?;
    connection.receive(false, &mut |_| Ok(()))?.check("/files/1k")?;
    Ok(connection)
}

fn restart(lab: &Lab, signal: Signal) -> Result<()> {
    thread::sleep(AWAY);
    ensure!(lab.daemon(Daemon::NfqSplice).is_none(), "{signal:?} did not end it");
    lab.start_daemon(Daemon::NfqSplice).map(drop)
}

fn nobody_notices(settings: &Settings, signal: Signal) -> Result<()> {
    in_lab(settings, |lab| {
        let open = || lab.open(Behaviour::default());
        let transfers: Vec<Connection> = (0..TRANSFERS).map(|_| open()).collect::<Result<_>>()?;
        let setups: Vec<Connection> = (0..SETUPS).map(|_| open()).collect::<Result<_>>()?;
        let meeting = Barrier::new(TRANSFERS + 1);
        thread::scope(|scope| {
            let mut all: Vec<_> = transfers
                .into_iter()
                .map(|connection| (scope.spawn(|| transfer(connection, &meeting)), "a transfer"))
                .collect();
            meeting.wait();
            let stopped = lab.stop_daemon(Daemon::NfqSplice, signal);
            meeting.wait();
            stopped?;
            all.extend(setups.into_iter().map(|setup| (scope.spawn(|| ask(setup)), "a set-up")));
            all.extend((0..NEWCOMERS).map(|_| (scope.spawn(|| ask(open()?)), "a new connection")));
            restart(lab, signal)?;
            for (thread, what) in all {
                thread.join().map_err(|_| anyhow!("{what} panicked"))?.context(what)?;
            }
            anyhow::Ok(())
        })?;
        let counters = lab.proxy_status()?.counters;
        let fast = counters.get("fast_path_interfaces").is_some_and(|number| *number > 0);
        ensure!(fast == settings.set.is_empty(), "{counters:?}");
        let restored = counters.get("connections_restored").copied().unwrap_or(0);
        ensure!(restored >= TRANSFERS as u64, "{counters:?}");
        ensure!(counters.get("connections_lost").is_none_or(|lost| *lost == 0), "{counters:?}");
        Ok(())
    })
}

#[test]
fn killed() -> Result<()> {
    nobody_notices(&Settings::default(), Signal::KILL)
}

#[test]
fn killed_on_the_userspace_path() -> Result<()> {
    nobody_notices(&Settings { path: Path::Userspace, ..Settings::default() }, Signal::KILL)
}

#[test]
fn ended_without_the_fast_path() -> Result<()> {
    let set = vec!["splice.fast_path=false".into()];
    nobody_notices(&Settings { path: Path::Userspace, set, ..Settings::default() }, Signal::TERM)
}
