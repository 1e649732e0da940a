//! The key of initial sequence numbers and timestamp clocks. It outlives the daemon, so that the clock that clients see
//! goes on after a restart; nobody else may read it.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the file")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nfq_splice::Secret;

/// Reads the key, or makes one.
pub(super) fn load(path: &Path) -> Result<Secret> {
    let mut key = [0; 16];
    if File::open(path).and_then(|mut file| file.read_exact(&mut key)).is_ok() {
        return Ok(Secret::new(key));
    }
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut key))
        .context("reading /dev/urandom")?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(&key))
        .with_context(|| format!("writing the key to {}", path.display()))?;
    Ok(Secret::new(key))
}
