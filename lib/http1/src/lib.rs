//! HTTP/1.1 framing (RFC 9112): one parser for the proxy, which routes by it, and the transactionalizer, which
//! finds the boundaries of transactions with it. Pure: no I/O, no clock; bounded; no input makes it panic.
//!
//! It is stricter than a server has to be. A splice cannot rewrite bytes, so what two parsers could understand
//! differently (RFC 9112 §11.2) is refused instead of repaired.
//!
//! * [`parse_request`]: a request head in a growing buffer, for routing.
//! * [`RequestFramer`], [`ResponseFramer`]: where messages begin and end in a stream that arrives in pieces.
//! * [`Chunked`]: a chunked body alone, its content told from its framing.
//! * [`continuation`]: whether the rest of a body can be asked for alone.
//! * [`range_request`]: a request changed to ask for the rest of a response, for recovery.
//! * [`compare_heads`]: whether two executions gave the same response head, but for volatile values.

mod body;
mod chunked;
mod compare;
mod continuation;
mod extension;
mod field;
mod framer;
mod head;
mod host;
mod range;
mod request;
mod response;
mod response_framer;

pub use chunked::{ChunkPlace, Chunked};
pub use compare::compare_heads;
pub use continuation::{Continuation, continuation};
pub use field::Fields;
pub use framer::{Event, RequestFramer, Step};
pub use head::{Refusal, Version};
pub use range::range_request;
pub use request::{RequestFraming, RequestHead, parse_request};
pub use response::{ContentRange, ResponseFraming, ResponseHead, parse_response};
pub use response_framer::{Finish, MAX_OUTSTANDING, ResponseFramer};

/// Fields in a head at most.
pub const MAX_FIELDS: usize = 128;
/// Longest head by default, bytes.
pub const DEFAULT_MAX_HEAD: usize = 64 << 10;
