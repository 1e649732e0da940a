//! The documents that both backends serve: pseudo-random bytes from a seed, made once per machine.
//!
//! Sizes are decimal: `1k` is 1,000 bytes, `300m` is 300,000,000. All files have the same modification
//! time, so the servers' `ETag` and `Last-Modified` agree. Below `differs/` they deliberately do not:
//!
//! * `1m`: one byte differs ([`DIFFERING_BYTE`]), the validators agree: a server that is wrong about itself;
//! * `10m`: the same byte differs and the modification time too: an edited document.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::chance::Chance;
use crate::topology::Node;

/// Name and length of every document below `/files/` and `/chunked/`.
pub const FILES: [(&str, u64); 6] =
    [("0", 0), ("1k", 1_000), ("64k", 64_000), ("1m", 1_000_000), ("10m", 10_000_000), ("300m", 300_000_000)];
/// The byte, counted from 0, in which documents below `/differs/` are different on b2.
pub const DIFFERING_BYTE: u64 = 100_000;

const CACHE: &str = "/var/cache/resplice-lab";
/// Part of the cache's name: another number makes the documents anew.
const VERSION: u32 = 1;
const MODIFIED: Duration = Duration::from_secs(1_700_000_000);

/// The tree's directory, generated if it is not there yet.
pub fn tree() -> Result<PathBuf> {
    let tree = Path::new(CACHE).join(format!("documents-{VERSION}"));
    if tree.exists() {
        return Ok(tree);
    }
    fs::create_dir_all(CACHE).with_context(|| format!("{CACHE}: are you root?"))?;
    let lock = File::create(Path::new(CACHE).join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !tree.exists() {
        let unfinished = tree.with_extension("unfinished");
        generate(&unfinished).with_context(|| format!("generating {}", unfinished.display()))?;
        fs::rename(&unfinished, &tree)?;
    }
    Ok(tree)
}

fn generate(tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    for (seed, (name, length)) in (1..).zip(FILES) {
        write(&tree.join("files").join(name), seed, length, None, MODIFIED)?;
    }
    for node in Node::BACKENDS {
        let edited = (node == Node::B2).then_some(DIFFERING_BYTE);
        let dir = tree.join("differs").join(node.name());
        let later = MODIFIED + Duration::from_secs(u64::from(edited.is_some()));
        write(&dir.join("1m"), 101, 1_000_000, edited, MODIFIED)?;
        write(&dir.join("10m"), 102, 10_000_000, edited, later)?;
    }
    Ok(())
}

/// Writes a document; the byte `flipped` gets another value.
fn write(path: &Path, seed: u64, length: u64, flipped: Option<u64>, modified: Duration) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut chance = Chance::new(seed);
    let mut at = 0;
    while at < length {
        let mut word = chance.next_u64().to_le_bytes();
        let used = (length - at).min(8);
        if let Some(place) = flipped.and_then(|f| f.checked_sub(at)).filter(|place| *place < used)
            && let Some(byte) = word.get_mut(place as usize)
        {
            *byte = !*byte;
        }
        out.write_all(word.get(..used as usize).unwrap_or(&word))?;
        at += used;
    }
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(file.set_modified(SystemTime::UNIX_EPOCH + modified)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_byte_differs() {
        let dir = std::env::temp_dir().join(format!("lab-documents-{}", std::process::id()));
        write(&dir.join("a"), 7, 1003, None, MODIFIED).unwrap();
        write(&dir.join("b"), 7, 1003, Some(1001), MODIFIED).unwrap();
        let (a, b) = (fs::read(dir.join("a")).unwrap(), fs::read(dir.join("b")).unwrap());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(a.len(), 1003);
        let different: Vec<usize> = (0..1003).filter(|i| a[*i] != b[*i]).collect();
        assert_eq!(different, [1001]);
    }
}
