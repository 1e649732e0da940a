//! The commit and overwrite protocol under every order of memory accesses that the language's memory model allows.
//!
//! `control.rs` is compiled here with loom's atomics. The ring is two records of two words; the words are relaxed atomics,
//! as a `pread` or a plain copy beside a running writer is at best.

#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the file is a library's; the model has no use for sleeping readers and epochs"
)]

mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}
#[path = "../src/control.rs"]
mod control;

use atomics::{AtomicU64, Ordering};
use control::{Committed, Control};
use loom::sync::Arc;
use loom::thread;

const SLOTS: usize = 2;
/// Payload bytes that the model's records claim to have.
const PAYLOAD: u64 = 10;

/// Changes of thread where none is forced; stale reads are explored without a bound.
const PREEMPTIONS: usize = 2;

/// Positions count records here: record `n` is at position `n - 1`.
#[derive(Default)]
struct Log {
    control: Control,
    ring: [[AtomicU64; 2]; SLOTS],
}

impl Log {
    /// As `Writer::reserve` and `Writer::commit` do.
    fn write(&self, number: u64) {
        let position = number - 1;
        if number > SLOTS as u64 {
            self.control.give_up(position - SLOTS as u64 + 1);
        }
        for word in &self.ring[position as usize % SLOTS] {
            word.store(number, Ordering::Relaxed);
        }
        self.control.commit(Committed { number, end: number, payload_bytes: number * PAYLOAD });
    }

    /// As `Reader` does: what is committed, a copy, whether the copy was whole.
    fn read(&self, position: u64) -> Read {
        let state = self.control.committed();
        assert_eq!(state.end, state.number, "the mark of another commit");
        assert_eq!(state.payload_bytes, state.number * PAYLOAD, "half of another commit's mark");
        if position >= state.end {
            return Read::Nothing;
        }
        let copy = self.ring[position as usize % SLOTS].each_ref().map(|word| word.load(Ordering::Relaxed));
        let intact = self.control.intact_from();
        if intact > position { Read::Lapped(intact) } else { Read::Copy(copy) }
    }
}

enum Read {
    Nothing,
    Lapped(u64),
    Copy([u64; 2]),
}

/// Follows the log for a few reads; nothing that it takes for whole may be anything else.
fn follow(log: &Log, reads: usize) {
    let mut position = 0;
    for _ in 0..reads {
        match log.read(position) {
            Read::Nothing => thread::yield_now(),
            Read::Lapped(intact) => position = intact,
            Read::Copy(words) => {
                assert_eq!(words, [position + 1; 2], "torn, stale or overwritten");
                position += 1;
            }
        }
    }
}

fn explore(records: u64, reads: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || {
        let log = Arc::new(Log::default());
        let reader = {
            let log = Arc::clone(&log);
            thread::spawn(move || follow(&log, reads))
        };
        (1..=records).for_each(|number| log.write(number));
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_takes_nothing_for_whole_that_is_not() {
    explore(3, 2);
}

#[test]
fn a_reader_that_is_lapped_again_and_again_goes_on() {
    explore(4, 1);
}

/// The check can fail: without the writer's promise before overwriting, torn records are found.
#[test]
#[should_panic(expected = "torn, stale or overwritten")]
fn without_giving_up_first_the_model_finds_torn_records() {
    loom::model(|| {
        let log = Arc::new(Log::default());
        let reader = {
            let log = Arc::clone(&log);
            thread::spawn(move || follow(&log, 1))
        };
        log.write(1);
        log.write(2);
        // As `write`, the promise after the overwriting.
        for word in &log.ring[0] {
            word.store(3, Ordering::Relaxed);
        }
        log.control.give_up(1);
        reader.join().unwrap();
    });
}
