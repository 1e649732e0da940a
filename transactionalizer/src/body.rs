//! Hashes of a body's stretches: what the log has whole is hashed here, of what it leaves out the logger has hashed.

use std::collections::VecDeque;

use cluster::control::Stretch;
use packet::Seq;
use segment_log::LeftOut;
use xxhash_rust::xxh3::Xxh3;

/// Stretches at most: each change between whole and left out begins one. Beyond it nothing can be compared.
const MAX_STRETCHES: usize = 4096;

/// Hashes of the consecutive stretches of a body from its beginning.
#[derive(Default)]
pub(crate) struct BodyHashes {
    done: Vec<Stretch>,
    open: Open,
    /// The logger's hashes do not fit what was read: they are of other bytes too.
    lost: bool,
}

#[derive(Default)]
#[allow(clippy::large_enum_variant, reason = "there is one of it a body")]
enum Open {
    #[default]
    Nothing,
    /// Read from the log.
    Whole { hash: Xxh3, bytes: u64 },
    /// Left out of it from this sequence number on: the running hash behind each segment that may still be asked for.
    LeftOut { since: u32, marks: VecDeque<Stretch> },
}

impl BodyHashes {
    /// The next bytes.
    pub(crate) fn push(&mut self, part: &[u8]) {
        if !matches!(self.open, Open::Whole { .. }) {
            self.close();
            self.open = Open::Whole { hash: Xxh3::default(), bytes: 0 };
        }
        if let Open::Whole { hash, bytes } = &mut self.open {
            hash.update(part);
            *bytes += part.len() as u64;
        }
    }

    /// The next bytes, from `seq` on, were left out.
    pub(crate) fn skip(&mut self, seq: Seq, left_out: LeftOut) {
        let end = seq + left_out.bytes;
        let bytes = match &self.open {
            Open::LeftOut { since, marks } if *since == left_out.since => {
                marks.back().map_or(0, |last| last.bytes) + u64::from(left_out.bytes)
            }
            _ => {
                self.close();
                self.open = Open::LeftOut { since: left_out.since, marks: VecDeque::new() };
                u64::from(left_out.bytes)
            }
        };
        // A hash may cover more than 4 GiB.
        self.lost |= end.since(Seq(left_out.since)) as u32 != bytes as u32;
        if let Open::LeftOut { marks, .. } = &mut self.open {
            marks.push_back(Stretch { bytes, hash: left_out.hash });
        }
    }

    fn close(&mut self) {
        let done = match std::mem::take(&mut self.open) {
            Open::Nothing => return,
            Open::Whole { hash, bytes } => Some(Stretch { bytes, hash: hash.digest128() }),
            Open::LeftOut { mut marks, .. } => marks.pop_back(),
        };
        self.lost |= self.done.len() >= MAX_STRETCHES;
        if self.lost {
            self.done = Vec::new();
        } else {
            self.done.extend(done);
        }
    }

    /// Nobody will ask for fewer than the first `bytes` bytes any more.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let before: u64 = self.done.iter().map(|stretch| stretch.bytes).sum();
        if let Open::LeftOut { marks, .. } = &mut self.open {
            while marks.get(1).is_some_and(|second| before + second.bytes <= bytes) {
                marks.pop_front();
            }
        }
    }

    /// Those within the first `bytes` bytes. What they do not reach cannot be compared.
    pub(crate) fn within(&self, bytes: u64) -> Vec<Stretch> {
        if self.lost {
            return Vec::new();
        }
        let mut reached = 0;
        let mut fits = |stretch: &Stretch| {
            let end = reached + stretch.bytes;
            let fits = end <= bytes;
            reached = if fits { end } else { reached };
            fits
        };
        let mut found: Vec<Stretch> = self.done.iter().copied().take_while(&mut fits).collect();
        if found.len() < self.done.len() {
            return found;
        }
        match &self.open {
            Open::Nothing => {}
            Open::Whole { hash, bytes } => {
                found.extend(Some(Stretch { bytes: *bytes, hash: hash.digest128() }).filter(fits));
            }
            Open::LeftOut { marks, .. } => {
                found.extend(marks.iter().rev().find(|mark| reached + mark.bytes <= bytes));
            }
        }
        found
    }

    /// Memory taken.
    pub(crate) fn kept(&self) -> usize {
        let marks = match &self.open {
            Open::LeftOut { marks, .. } => marks.len(),
            _ => 0,
        };
        (self.done.len() + marks) * size_of::<Stretch>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_128;

    proptest! {
        /// Whole and left out in any order: each stretch given has the hash of its bytes, and as many bytes as can be are covered.
        #[test]
        fn every_stretch_is_hashed(parts in prop::collection::vec((1_usize..50, any::<bool>()), 1..40), start in any::<u32>()) {
            let body: Vec<u8> = (0..2000).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut hashes = BodyHashes::default();
            let (mut at, mut since) = (0, None);
            let mut boundaries = vec![];
            for (length, leave_out) in parts {
                let end = at + length;
                if leave_out {
                    let from = *since.get_or_insert(at);
                    let left_out = LeftOut {
                        bytes: length as u32,
                        since: start.wrapping_add(from as u32),
                        hash: xxh3_128(&body[from..end]),
                    };
                    hashes.skip(Seq(start) + at as u32, left_out);
                } else {
                    since = None;
                    hashes.push(&body[at..end]);
                }
                at = end;
                boundaries.push((end, leave_out));
            }
            for bytes in 0..=at {
                let mut reached = 0;
                for stretch in hashes.within(bytes as u64) {
                    let end = reached + stretch.bytes as usize;
                    prop_assert_eq!(stretch.hash, xxh3_128(&body[reached..end]));
                    reached = end;
                }
                prop_assert!(reached <= bytes);
                if bytes == at {
                    prop_assert_eq!(reached, at);
                }
            }
            // Behind a segment of the stretch that was left out last the hash is known, until it is trimmed.
            let last = boundaries.iter().rev().take_while(|(_, left_out)| *left_out).map(|(end, _)| *end);
            for end in last.collect::<Vec<_>>().into_iter().rev() {
                let covered = |hashes: &BodyHashes| hashes.within(end as u64).iter().map(|s| s.bytes).sum::<u64>();
                prop_assert_eq!(covered(&hashes), end as u64);
                hashes.trim(end as u64);
                prop_assert_eq!(covered(&hashes), end as u64);
            }
        }
    }

    #[test]
    fn hashes_of_other_bytes_are_not_used() {
        let mut hashes = BodyHashes::default();
        hashes.push(b"abc");
        hashes.skip(Seq(13), LeftOut { bytes: 5, since: 12, hash: 1 });
        assert_eq!(hashes.within(8), []);
    }

    #[test]
    fn stretches_are_bounded() {
        let mut hashes = BodyHashes::default();
        for at in 0..MAX_STRETCHES as u32 {
            hashes.push(b"a");
            hashes.skip(Seq(2 * at + 1), LeftOut { bytes: 1, since: 2 * at + 1, hash: 1 });
        }
        assert_eq!(hashes.within(u64::MAX), []);
        assert!(hashes.kept() < 100);
    }
}
