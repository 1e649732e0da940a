//! What a client sent to a backend that had failed, between the fence and the un-splice: nobody but the log has it, and of one
//! segment alone the client learns only by its retransmission timer that it is lost.

use serde::{Deserialize, Serialize};

use super::Flow;

/// Bytes of one connection that are passed on at most; the client repeats the others.
pub const SWALLOWED_BYTES: usize = 64 << 10;

/// The data of a client's segment that no backend has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swallowed {
    /// The failed connection.
    pub flow: Flow,
    /// S as [reported](super::ConnectionReport::client_next): it tells this failure from others of the same flow.
    pub client_next: u32,
    /// Sequence number of its first byte: like S, the client's own.
    pub seq: u32,
    /// The segment's TSval.
    pub timestamp: Option<u32>,
    /// What it carried.
    #[serde(with = "super::bytes")]
    pub bytes: Vec<u8>,
}
