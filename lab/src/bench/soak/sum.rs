//! What a direction of a connection carried, as each of those who saw it says.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// How many bytes, and their hash (XXH3, 64 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) hash: u64,
}

/// A [`Sum`] that grows.
#[derive(Default)]
pub(super) struct Summing {
    bytes: u64,
    hash: Box<Xxh3>,
}

impl Summing {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.hash.update(data);
    }

    pub(super) fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, hash: self.hash.digest() }
    }
}

/// Both directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Carried {
    /// From the client to the server.
    pub(super) up: Sum,
    pub(super) down: Sum,
    /// Records were overwritten while it was open: who says this has not seen all.
    pub(super) lapped: bool,
}

/// Connections by the client's port; several of one port in the order in which they were opened.
pub(super) type ByPort = BTreeMap<u16, Vec<Carried>>;

/// What a reader of the log says at its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Account {
    /// Records that it read, and their bytes, counted one by one.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// How often it was lapped, and what it was told that it lost.
    pub(super) laps: u64,
    pub(super) lost_records: u64,
    pub(super) lost_bytes: u64,
    /// Segments that repeated bytes with other content.
    pub(super) conflicts: u64,
    pub(super) connections: ByPort,
}
