//! Readers that can be seen: each holds a shared lock on one byte far beyond the file's end, and which byte that is says who
//! it is and how far it has read. So readers need no more than permission to read, the writer never waits for them, and the
//! kernel forgets a reader however it ends.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::os;

/// Locks from here on are readers'. Below: 22 bits of process id, 7 of its reader, 32 of progress.
const BASE: u64 = 1 << 61;
const PID_SHIFT: u32 = 39;
const NUMBER_SHIFT: u32 = 32;
/// Progress is told in units of 64 KiB, modulo 2³².
const UNIT_SHIFT: u32 = 16;
/// More readers than this are not listed.
const MOST: usize = 256;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A reader of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenReader {
    /// Its process.
    pub process: u32,
    /// Ring bytes between it and the writer, to 64 KiB; more than the ring has: it will be lapped, or it sleeps.
    pub lag_bytes: u64,
}

/// The lock by which this reader is seen.
#[derive(Debug)]
pub(crate) struct Presence {
    identity: u64,
    at: Option<u64>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        let process = u64::from(std::process::id()) & 0x3f_ffff;
        let number = u64::from(NEXT.fetch_add(1, Ordering::Relaxed) & 0x7f);
        Self { identity: BASE | process << PID_SHIFT | number << NUMBER_SHIFT, at: None }
    }

    /// The reader has come to `position`. A system call only where 64 KiB begin.
    pub(crate) fn show(&mut self, file: &File, position: u64) -> io::Result<()> {
        let at = self.identity | (position >> UNIT_SHIFT & 0xffff_ffff);
        if self.at == Some(at) {
            return Ok(());
        }
        os::lock_shared(file, at)?;
        match self.at.replace(at) {
            Some(before) => os::unlock(file, before),
            None => Ok(()),
        }
    }
}

/// All readers but those of this open file, with their distance from `end`.
pub(crate) fn seen(file: &File, end: u64) -> Vec<SeenReader> {
    let mut readers = Vec::new();
    // The kernel names any lock in the range, not the first.
    let mut ranges: Vec<_> = std::iter::once(BASE..BASE << 1).collect();
    while let Some(range) = ranges.pop().filter(|_| readers.len() < MOST) {
        let Some(at) = os::shared_lock_within(file, &range).filter(|at| range.contains(at)) else { continue };
        let behind = (end >> UNIT_SHIFT).wrapping_sub(at) & 0xffff_ffff;
        let process = (at >> PID_SHIFT & 0x3f_ffff) as u32;
        readers.push(SeenReader { process, lag_bytes: behind << UNIT_SHIFT });
        ranges.extend([range.start..at, at + 1..range.end].into_iter().filter(|range| !range.is_empty()));
    }
    readers.sort_unstable_by_key(|reader| (reader.process, reader.lag_bytes));
    readers
}
