//! An update whose effect is unknown is never run a second time: its client is reset, with a clear line in
//! the log.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Fault;
use lab::http::{Behaviour, End};
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};

#[test]
fn a_post_without_answer_is_not_repeated() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        ensure!(connection.get("/files/1k")?.status == 200);
        let client = connection.local()?;
        let node = lab.serving(client)?;
        lab.fail(node, Fault::Freeze)?;
        connection.send(b"POST /form HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\nhello")?;
        await_condition("the request has arrived", Duration::from_secs(5), || {
            Ok(lab.connections(node)?.iter().any(|served| served.peer == client && served.unread > 0))
        })?;
        lab.fail(node, Fault::Kill)?;
        let response = connection.receive(false, &mut |_| Ok(()))?;
        ensure!(response.end == End::Reset && response.status == 0, "{response:?}");
        await_condition("the recovery is on record", Duration::from_secs(5), || {
            Ok(!lab.manager_status()?.recoveries.is_empty())
        })?;
        let recoveries = lab.manager_status()?.recoveries;
        let record = recoveries.last().context("no record")?;
        ensure!(!record.ok && record.request.as_deref() == Some("POST /form"), "{record:?}");
        Ok(())
    })
}

/// Its answer was complete: the connection goes on elsewhere.
#[test]
fn a_post_that_was_answered_is_no_obstacle() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.send(b"POST /form HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\nhello")?;
        let answer = connection.receive(false, &mut |_| Ok(()))?;
        ensure!(answer.end == End::Complete && answer.body_bytes == 5, "{answer:?}");
        lab.fail(lab.serving(connection.local()?)?, Fault::Kill)?;
        connection.get("/files/1m")?.check("/files/1m")
    })
}
