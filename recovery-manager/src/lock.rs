//! One daemon in one run directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Refuses if another process holds `path`, and names it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.with_context(|| format!("could not open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!(
                "recovery-manager runs already in this directory (process {}): stop it, or choose another --run-dir",
                holder(&mut file)
            ),
            Err(error) => return Err(error).with_context(|| format!("could not lock {}", path.display())),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut id = String::new();
    let read = file.take(20).read_to_string(&mut id);
    if read.is_ok_and(|n| n > 0) { id.trim().to_owned() } else { "unknown".to_owned() }
}
