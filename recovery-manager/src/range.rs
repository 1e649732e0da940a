//! When a large body can be continued with a `Range` request (RFC 9110 §14) instead of being served again
//! from its first byte.

use cluster::control::{PartialResponse, PendingRequest, TakeIn};

/// Bytes that a replayed request may grow by: `Range: bytes=N-` and `If-Range` with the longest validator.
pub(crate) const HEAD_GROWTH: usize = 512;

/// Longest validator that is repeated in `If-Range`, bytes.
const VALIDATOR_BYTES: usize = 256;

/// The continuation of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// The request for the rest.
    pub(crate) request: Vec<u8>,
    /// What its answer must look like.
    pub(crate) take_in: TakeIn,
}

pub(crate) fn resume(_first: &PendingRequest, _partial: &PartialResponse, _from: u64) -> Option<Resumption> {
    None
}
