//! Streams to transactions, tags, failure detection.
