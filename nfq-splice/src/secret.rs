//! What nobody outside can compute: offsets and codes made with a key (RFC 6528, RFC 7323 §5.4).

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use packet::Seq;
use siphasher::sip::SipHasher24;

/// A key that nobody outside knows. It outlives the daemon, so that set-ups and clocks go on after a restart.
#[derive(Clone)]
pub struct Secret([u8; 16]);

impl Secret {
    /// `key` must come from the operating system's random source (a simulation may give any).
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    fn hash(&self, purpose: u8, about: impl Hash) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
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

    /// The message authentication code of a [`crate::cookie`].
    pub(crate) fn cookie(&self, client: SocketAddr, irs: Seq, scale: u8, period: u64) -> u64 {
        self.hash(3, (client, irs, scale, period))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}
