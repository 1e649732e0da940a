//! What nobody outside can compute: offsets and codes made with a key (RFC 6528, RFC 7323 §5.4).

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use packet::Seq;
use siphasher::sip::SipHasher24;

/// By so much each daemon's clock is ahead of that of the one before, milliseconds. More than what may be forgotten with a daemon: clocks
/// jump by a few seconds with each recovery of a connection.
pub(crate) const LEAD_MILLIS: u32 = 60_000;

/// A key that nobody outside knows. It outlives the daemon, so that set-ups and clocks go on after a restart.
#[derive(Clone)]
pub struct Secret {
    key: [u8; 16],
    life: u32,
}

impl Secret {
    /// `key` must come from the operating system's random source (a simulation may give any).
    pub fn new(key: [u8; 16]) -> Self {
        Self::of_life(key, 0)
    }

    /// `life`: how many daemons had this key before.
    pub fn of_life(key: [u8; 16], life: u32) -> Self {
        Self { key, life }
    }

    /// What is to be added to clocks beside their offsets, milliseconds: the clock that a client sees never goes back, whatever
    /// earlier daemons added to it. It wraps, as timestamps do.
    pub fn lead(&self) -> u32 {
        self.life.wrapping_mul(LEAD_MILLIS)
    }

    /// For whoever computes the same (`lib/netfilter/src/fast_path/handshake.rs`, which also knows what is hashed, and how).
    pub fn key(&self) -> [u8; 16] {
        self.key
    }

    fn hash(&self, purpose: u8, about: impl Hash) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u8(purpose);
        about.hash(&mut hasher);
        hasher.finish()
    }

    /// What is added to the clock to give this client's initial sequence numbers.
    pub(crate) fn sequence_offset(&self, client: SocketAddr) -> u32 {
        self.hash(1, client) as u32
    }

    /// What is added to the millisecond clock to give this client's TSval.
    pub(crate) fn timestamp_offset(&self, client: SocketAddr) -> u32 {
        self.hash(2, client) as u32
    }

    /// The message authentication code of a [`crate::cookie`]: of client, its number, period.
    pub(crate) fn cookie(&self, about: (SocketAddr, Seq, u64)) -> u64 {
        self.hash(3, about)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}
