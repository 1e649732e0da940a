//! The protocol between the writer and the readers: what is committed, and what is still intact.
//!
//! `tests/memory_order.rs` compiles this file with model-checked atomics.

use crate::atomics::{AtomicU32, AtomicU64, Ordering, fence};

/// Where the committed records end.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Mark {
    /// Position after the last record.
    pub end: AtomicU64,
    /// Payload bytes of all records of the file, also those overwritten.
    pub payload_bytes: AtomicU64,
}

/// Written by the writer only.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Control {
    /// Number of the last committed record, 0: none. Selects `marks[committed & 1]`.
    pub committed: AtomicU64,
    /// See [`Mark`].
    pub marks: [Mark; 2],
    /// Position of the first record that is not, and is not about to be, overwritten.
    pub oldest: AtomicU64,
    /// How many writers this file has had.
    pub epoch: AtomicU32,
    /// Increases with every flush; sleeping readers wait for it (shared futex).
    pub wake: AtomicU32,
}

/// A consistent view of what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Number of the last record.
    pub number: u64,
    /// Position after it.
    pub end: u64,
    /// Payload bytes of all records.
    pub payload_bytes: u64,
}

impl Control {
    /// Writer: makes everything written so far, and the mark, visible.
    pub fn commit(&self, state: Committed) {
        // Who sees a changed mark must also see that the commit before it has selected the other one.
        fence(Ordering::Release);
        let mark = &self.marks[(state.number & 1) as usize];
        mark.end.store(state.end, Ordering::Relaxed);
        mark.payload_bytes.store(state.payload_bytes, Ordering::Relaxed);
        self.committed.store(state.number, Ordering::Release);
    }

    /// Reader: what is committed. Tries again while the writer overtakes it.
    pub fn committed(&self) -> Committed {
        loop {
            let number = self.committed.load(Ordering::Acquire);
            let mark = &self.marks[(number & 1) as usize];
            let end = mark.end.load(Ordering::Relaxed);
            let payload_bytes = mark.payload_bytes.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if self.committed.load(Ordering::Relaxed) == number {
                return Committed { number, end, payload_bytes };
            }
        }
    }

    /// Writer: everything before `position` is about to be overwritten. Returns before any of it is.
    pub fn give_up(&self, position: u64) {
        self.oldest.store(position, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Reader, after copying: everything from here on was whole when it was copied.
    pub fn intact_from(&self) -> u64 {
        fence(Ordering::Acquire);
        self.oldest.load(Ordering::Relaxed)
    }
}
