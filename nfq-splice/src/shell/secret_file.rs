//! The key of initial sequence numbers and timestamp clocks, and behind it how many daemons had it before, little-endian. It outlives
//! the daemon, so that the clock that clients see goes on after a restart; nobody else may read it.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the file")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nfq_splice::Secret;

const KEY_BYTES: usize = 16;

/// Reads the key, or makes one, and counts this daemon.
pub(super) fn load(path: &Path) -> Result<Secret> {
    let (key, life) = match fs::read(path).ok().as_deref().and_then(parse) {
        Some((key, life)) => (key, life.wrapping_add(1)),
        None => (random()?, 0),
    };
    // In one write and not shortened first: whenever this is interrupted, a whole key is there.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    let content = [&key[..], &life.to_le_bytes()].concat();
    file.write_all(&content).with_context(|| format!("writing the key to {}", path.display()))?;
    Ok(Secret::of_life(key, life))
}

/// `None`: no whole key. Without a count it is of a version that did not count.
fn parse(content: &[u8]) -> Option<([u8; KEY_BYTES], u32)> {
    let (key, life) = content.split_first_chunk()?;
    Some((*key, life.first_chunk().copied().map_or(0, u32::from_le_bytes)))
}

fn random() -> Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut key))
        .context("reading /dev/urandom")?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_counted_and_the_key_stays() {
        let path = std::env::temp_dir().join(format!("nfq-splice-secret-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let daemons = [(); 4].map(|()| load(&path).map(|_| fs::read(&path).unwrap()));
        fs::remove_file(&path).unwrap();
        let daemons = daemons.map(|content| parse(&content.unwrap()).unwrap());
        assert_eq!(daemons.map(|(_, life)| life), [0, 1, 2, 3]);
        assert!(daemons.iter().all(|(key, _)| *key == daemons[0].0));
    }

    #[test]
    fn what_other_versions_and_crashes_left_is_read() {
        assert_eq!(parse(&[7; KEY_BYTES]), Some(([7; KEY_BYTES], 0)));
        assert_eq!(parse(&[7; KEY_BYTES - 1]), None);
    }
}
