//! Streams to transactions, tags, failure detection.

fn main() {}
