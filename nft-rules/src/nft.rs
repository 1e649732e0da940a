//! The program `nft`, run in the calling thread's network namespace.

use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};

use netfilter::Family;

use crate::Error;

/// Applies a script as one transaction.
pub(crate) fn apply(script: &str) -> Result<(), Error> {
    let mut child = spawn(&["-f", "-"], Stdio::piped())?;
    // A closed pipe is told better by nft's own message.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    succeed(&child.wait_with_output()?).map(drop)
}

/// The table as nft lists it: no counters, no elements of named sets. `None`: there is none.
pub(crate) fn list(family: Family, table: &str) -> Result<Option<String>, Error> {
    let child = spawn(&["-s", "-t", "list", "table", family.name(), table], Stdio::null())?;
    let output = child.wait_with_output()?;
    if !output.status.success() && message(&output).contains("No such file or directory") {
        return Ok(None);
    }
    succeed(&output).map(Some)
}

pub(crate) fn delete(family: Family, table: &str) -> Result<(), Error> {
    let child = spawn(&["delete", "table", family.name(), table], Stdio::null())?;
    succeed(&child.wait_with_output()?).map(drop)
}

fn spawn(arguments: &[&str], stdin: Stdio) -> Result<Child, Error> {
    let child = Command::new("nft")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NftMissing,
        _ => Error::NftRun(error),
    })
}

fn succeed(output: &Output) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::NftRefused(message(output)))
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
