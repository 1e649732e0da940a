//! What happens when: the one queue of a run.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use packet::Time;

struct Scheduled<T> {
    at: Time,
    serial: u64,
    event: T,
}

/// The earliest first; of the same moment, what was scheduled first.
impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Scheduled<T> {}

/// Events in order of time.
pub struct Queue<T> {
    heap: BinaryHeap<Scheduled<T>>,
    serial: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), serial: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: Time, event: T) {
        self.serial += 1;
        self.heap.push(Scheduled { at, serial: self.serial, event });
    }

    pub fn next_time(&self) -> Option<Time> {
        self.heap.peek().map(|scheduled| scheduled.at)
    }

    /// What is due.
    pub fn pop(&mut self, now: Time) -> Option<T> {
        self.heap.peek().filter(|scheduled| scheduled.at <= now)?;
        self.heap.pop().map(|scheduled| scheduled.event)
    }
}
