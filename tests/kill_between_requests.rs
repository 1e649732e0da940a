//! A keep-alive connection whose server dies while it is idle, or while a request is half sent.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::Duration;

use anyhow::Result;
use lab::http::{Behaviour, Connection, get_request};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab, Node};

const PATHS: [Path; 2] = [Path::Kernel, Path::Userspace];

/// A connection that has had one answer, and the server that gave it.
fn warmed_up(lab: &Lab) -> Result<(Connection, Node)> {
    let mut connection = lab.open(Behaviour::default())?;
    connection.get("/files/1k")?.check("/files/1k")?;
    let node = lab.serving(connection.local()?)?;
    Ok((connection, node))
}

fn expect(connection: &mut Connection, path: &str) -> Result<()> {
    connection.receive(false, &mut |_| Ok(()))?.check(path)
}

fn on_each_path(test: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    for path in PATHS {
        in_lab(&Settings { path, ..Settings::default() }, &test)?;
    }
    Ok(())
}

#[test]
fn the_next_request_is_answered_by_the_other() -> Result<()> {
    on_each_path(|lab| {
        for fault in [Fault::Kill, Fault::Silent] {
            let (mut connection, node) = warmed_up(lab)?;
            lab.fail(node, fault)?;
            connection.send(&get_request("/files/1m"))?;
            expect(&mut connection, "/files/1m")?;
            // And the connection is as good as before.
            connection.send(&get_request("/chunked/64k"))?;
            expect(&mut connection, "/chunked/64k")?;
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

/// The recovery is over before the client says anything.
#[test]
fn an_idle_connection_is_moved_at_once() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let (mut connection, node) = warmed_up(lab)?;
        let client = connection.local()?;
        lab.fail(node, Fault::Kill)?;
        await_condition("the connection is on another backend", Duration::from_secs(10), || {
            Ok(Node::BACKENDS.into_iter().any(|other| {
                other != node
                    && lab
                        .connections(other)
                        .is_ok_and(|served| served.iter().any(|served| served.peer == client))
            }))
        })?;
        connection.send(&get_request("/files/64k"))?;
        expect(&mut connection, "/files/64k")
    })
}

#[test]
fn a_request_half_sent_is_finished_with_the_other() -> Result<()> {
    on_each_path(|lab| {
        for fault in [Fault::Kill, Fault::Silent] {
            let (mut connection, node) = warmed_up(lab)?;
            let request = get_request("/files/1m");
            let (first, second) = request.split_at(request.len() / 2);
            connection.send(first)?;
            lab.fail(node, fault)?;
            connection.send(second)?;
            expect(&mut connection, "/files/1m")?;
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

/// Three requests are underway at once.
#[test]
fn pipelined_requests_are_all_answered() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let (mut connection, node) = warmed_up(lab)?;
        let paths = ["/files/10m", "/files/1k", "/chunked/1m"];
        connection.send(&paths.map(get_request).concat())?;
        let mut pending = Some(node);
        let first = connection.receive(false, &mut |bytes| {
            if let Some(node) = pending.take_if(|_| bytes > 100_000) {
                lab.fail(node, Fault::Kill)?;
            }
            Ok(())
        })?;
        first.check("/files/10m")?;
        expect(&mut connection, "/files/1k")?;
        expect(&mut connection, "/chunked/1m")
    })
}
