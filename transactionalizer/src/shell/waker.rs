//! Wakes the poll loop when the segment log grows: poll(2) cannot wait for a futex, so a thread does, and only while the
//! loop sleeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use segment_log::Reader;

/// The thread looks so often whether it is still wanted.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    asleep: AtomicBool,
    stop: AtomicBool,
    /// Number of the last record that the loop has read.
    read: AtomicU64,
}

/// The loop's end of it.
#[derive(Debug)]
pub(crate) struct Waker {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Waker {
    /// Watches the log through a reader of its own.
    pub(crate) fn start(reader: Reader) -> Result<Self> {
        let event =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
        let shared = Arc::new(Shared {
            event,
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            read: AtomicU64::new(0),
        });
        let watched = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("log-waker".to_owned())
            .spawn(move || watch(reader, &watched))
            .context("cannot start a thread")?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Readable when the log has more than the record `read`.
    pub(crate) fn arm(&self, read: u64) -> BorrowedFd<'_> {
        self.shared.read.store(read, Ordering::Relaxed);
        self.shared.asleep.store(true, Ordering::Release);
        self.thread.unpark();
        self.shared.event.as_fd()
    }

    /// The loop is awake.
    pub(crate) fn disarm(&self) {
        if !self.shared.asleep.swap(false, Ordering::AcqRel) {
            // Not readable is no error here: it means that the thread has not written yet.
            let _ = rustix::io::read(&self.shared.event, &mut [0_u8; 8]);
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

fn watch(mut reader: Reader, shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        if !shared.asleep.load(Ordering::Acquire) {
            thread::park_timeout(PATIENCE);
            continue;
        }
        // Whatever came before this line shows in the number, whatever comes after it ends the wait.
        reader = reader.at_end();
        let newest = reader.stats().map_or(u64::MAX, |stats| stats.newest);
        let more = newest != shared.read.load(Ordering::Relaxed) || reader.wait(PATIENCE);
        if more && shared.asleep.swap(false, Ordering::AcqRel) {
            let _ = rustix::io::write(&shared.event, &1_u64.to_ne_bytes());
        }
    }
}
