//! A body against the hashes that a log has of it.

use cluster::control::Stretch;
use xxhash_rust::xxh3::Xxh3;

/// A body's stretches as they come.
#[derive(Default)]
pub(crate) struct BodyHash {
    hash: Xxh3,
    /// Bytes in `hash`.
    hashed: u64,
    /// Stretches that were equal, and their bytes.
    equal: (usize, u64),
}

impl BodyHash {
    /// Takes the next bytes of the body; `Err`: the stretch that begins there has other bytes than `expected`.
    pub(crate) fn push(&mut self, mut data: &[u8], expected: &[Stretch]) -> Result<(), u64> {
        while let Some(stretch) = expected.get(self.equal.0) {
            let lacking = usize::try_from(stretch.bytes - self.hashed).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(lacking.min(data.len()));
            self.hash.update(now);
            self.hashed += now.len() as u64;
            data = later;
            if self.hashed < stretch.bytes {
                return Ok(());
            }
            let (count, start) = self.equal;
            if self.hash.digest128() != stretch.hash {
                return Err(start);
            }
            *self = Self { equal: (count + 1, start.saturating_add(stretch.bytes)), ..Self::default() };
        }
        Ok(())
    }

    /// Bytes of the stretch that is being hashed, or differs.
    pub(crate) fn stretch(&self, stretches: &[Stretch]) -> u64 {
        stretches.get(self.equal.0).map_or(0, |stretch| stretch.bytes)
    }
}
