//! What all connections keep together, and its bound: requests, response heads, bytes beyond gaps, places in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Debug)]
struct Counts {
    bytes: AtomicUsize,
    max: AtomicUsize,
}

/// Of all connections.
#[derive(Debug, Clone)]
pub struct Total(Arc<Counts>);

impl Total {
    /// At most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Counts { bytes: AtomicUsize::new(0), max: AtomicUsize::new(max) }))
    }

    /// Another bound, for what is kept from now on.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Relaxed);
    }

    /// Bytes kept at present.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    /// One connection's share, nothing yet.
    pub fn share(&self) -> Share {
        Share { total: self.clone(), own: 0 }
    }
}

/// Of one connection; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    total: Total,
    own: usize,
}

impl Share {
    /// The connection keeps so many bytes now. `false`: all together keep more than they may, and this one has just grown.
    pub fn set(&mut self, own: usize) -> bool {
        let before = std::mem::replace(&mut self.own, own);
        let counts = &self.total.0;
        if own <= before {
            counts.bytes.fetch_sub(before - own, Relaxed);
            return true;
        }
        let grown = own - before;
        counts.bytes.fetch_add(grown, Relaxed) + grown <= counts.max.load(Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let total = Total::new(100);
        let (mut a, mut b) = (total.share(), total.share());
        assert!(a.set(60) && b.set(40));
        assert!(!b.set(41), "one too many");
        assert!(b.set(10), "less is always well");
        assert_eq!(total.bytes(), 70);
        drop(a);
        assert_eq!(total.bytes(), 10);
        total.set_max(5);
        assert!(!b.set(11));
    }
}
