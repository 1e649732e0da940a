//! Initial sequence numbers and timestamp clocks: driven by the clock, keyed, different per client (RFC 6528, RFC 7323 §5.4).

use std::hash::Hasher;
use std::net::SocketAddr;

use packet::{Seq, Time};
use siphasher::sip::SipHasher24;

/// A key that nobody outside knows; fresh at each start.
#[derive(Clone)]
pub struct Secret([u8; 16]);

impl Secret {
    /// `key` must come from the operating system's random source (a simulation may give any).
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    fn hash(&self, purpose: u8, client: SocketAddr) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u8(purpose);
        std::hash::Hash::hash(&client, &mut hasher);
        hasher.finish()
    }

    /// ISN = M + F(client, key): M counts 4 µs steps (RFC 6528 §3).
    pub fn initial_sequence(&self, now: Time, client: SocketAddr) -> Seq {
        let clock = (now.as_nanos() / 4000) as u32;
        Seq(clock.wrapping_add(self.hash(1, client) as u32))
    }

    /// What is added to the millisecond clock to give this client's TSval.
    pub fn timestamp_offset(&self, client: SocketAddr) -> u32 {
        self.hash(2, client) as u32
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}
