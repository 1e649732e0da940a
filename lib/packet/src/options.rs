//! TCP options (RFC 9293 §3.2, RFC 7323).

use serde::{Deserialize, Serialize};

/// The options of a SYN that bind the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SynOptions {
    /// Maximum segment size, bytes; absent means 536 (IPv4) or 1220 (IPv6).
    pub mss: Option<u16>,
    /// Window scale, at most 14 (RFC 7323 §2.3).
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018).
    pub sack_permitted: bool,
    /// TSval of the SYN, if timestamps are used (RFC 7323 §3).
    pub timestamp: Option<u32>,
}
