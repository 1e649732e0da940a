//! Streams to transactions, tags, failure detection (paper §3.1, §3.5, §4.2).

pub mod detector;
pub mod direction;
pub mod judge;
pub mod spans;
