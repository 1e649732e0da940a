//! The two servers deliberately disagree about a byte that the client already has: it is reset at once, and
//! the operator can read why. The alternative would be a document that neither server has.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::documents::DIFFERING_BYTE;
use lab::http::{Behaviour, End};
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::{Daemon, Fault};

/// Time from the failure to the reset, generously: nobody waits for a timeout.
const AT_ONCE: Duration = Duration::from_secs(3);

fn is_reset(path: &str, offset: u64, set: &[&str]) -> Result<()> {
    ensure!(offset > DIFFERING_BYTE);
    let set = set.iter().map(|&set| set.to_owned()).collect();
    let settings = Settings { send_buffer: Some(16 << 10), set, ..Settings::default() };
    in_lab(&settings, |lab| {
        let behaviour = Behaviour { receive_buffer: Some(16 << 10), ..Behaviour::default() };
        let mut connection = lab.open(behaviour)?;
        let client = connection.local()?;
        let (response, _) = lab.get_failing(&mut connection, path, Fault::Kill, offset)?;
        ensure!(response.end == End::Reset, "{response:?}");
        ensure!(response.longest_gap < AT_ONCE, "{response:?}");
        await_condition("the recovery is on record", Duration::from_secs(5), || {
            Ok(!lab.manager_status()?.recoveries.is_empty())
        })?;
        let recoveries = lab.manager_status()?.recoveries;
        let record = recoveries.last().context("no record")?;
        ensure!(!record.ok && record.flow.client == client, "{record:?}");
        ensure!(record.outcome.contains("differ"), "the outcome does not say why: {record:?}");
        let log = lab.log_tail(Daemon::RecoveryManager, 50);
        ensure!(log.contains("differ"), "the log does not say why:\n{log}");
        let found = lab.mismatches()?;
        let last = found.last.last().context("the mismatch is not kept")?;
        ensure!(last.flow.client == client && last.request == format!("GET {path}"), "{last:?}");
        ensure!(found.kinds.get(&last.kind) == Some(&1), "{found:?}");
        Ok(())
    })
}

/// The servers' validators agree: only comparing the bytes shows it, which an operator who does not trust them can have of all.
#[test]
fn in_a_byte_behind_the_same_validators() -> Result<()> {
    is_reset("/differs/1m", 150_000, &["recovery.range_from_bytes=1000000000"])
}

/// Beyond the length up to which responses are replayed from their first byte: the validators show it.
#[test]
fn in_a_document_that_was_edited() -> Result<()> {
    is_reset("/differs/10m", 3_000_000, &[])
}
