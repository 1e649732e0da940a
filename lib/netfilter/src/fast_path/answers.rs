//! How the program answers clients that begin a connection. Shared by the program and its owner.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::siphash;

/// Until when it does, what the monotonic clock will say, nanoseconds.
pub(super) const UNTIL: i16 = 0;
/// The service: address and port in network byte order.
pub(super) const SERVICE: i16 = 8;
pub(super) const SERVICE_PORT: i16 = 12;
/// The window scale announced.
pub(super) const SCALE: i16 = 14;
/// Not 0: acknowledgements that complete a handshake are taken, and the first data handed over.
pub(super) const TAKES_ACKS: i16 = 15;
/// Announced MSS and window, in network byte order.
pub(super) const MSS: i16 = 16;
pub(super) const WINDOW: i16 = 18;
/// Added to clocks.
pub(super) const LEAD: i16 = 20;
/// Of the keyed hash, before its first block.
pub(super) const STATE: i16 = 24;
/// Until when the owner takes what is handed to him, likewise.
pub(super) const OWNED_UNTIL: i16 = 56;
/// Bytes.
pub(super) const ANSWERS: usize = 64;

/// Counts, 64 bits each: SYNs answered, acknowledgements taken, packets handed over.
pub(super) const SYNS: i16 = 0;
pub(super) const ACKS: i16 = 8;
pub(super) const HANDED_OVER: i16 = 16;
/// Bytes.
pub(super) const COUNTS: usize = 24;

/// What a client's SYN is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// Where they come to.
    pub service: SocketAddrV4,
    /// The key of sequence numbers and clocks.
    pub key: [u8; 16],
    /// Added to the clock of milliseconds, beside what the key gives for each client.
    pub lead: u32,
    /// MSS announced, bytes.
    pub mss: u16,
    /// Window scale announced.
    pub window_scale: u8,
    /// Window announced, not scaled.
    pub window: u16,
    /// The acknowledgement that completes a handshake is not needed: the client speaks first, and its first data are handed over.
    pub takes_acks: bool,
    /// From then on (`CLOCK_MONOTONIC`) SYNs are no longer answered.
    pub until: Duration,
    /// From then on (`CLOCK_MONOTONIC`) nobody takes a reset that is handed over; he does so before he knows how SYNs are to be answered.
    pub owned_until: Duration,
}

/// What the program has done so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answered {
    /// SYNs that it answered.
    pub syns: u64,
    /// Acknowledgements of handshakes that it took.
    pub acks: u64,
    /// Packets that it handed over.
    pub handed_over: u64,
}

impl Answers {
    pub(super) fn bytes(&self) -> [u8; ANSWERS] {
        let mut bytes = [0; ANSWERS];
        let [until, owned_until] = [self.until, self.owned_until]
            .map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes());
        let state = siphash::initial(self.key).map(u64::to_ne_bytes);
        let parts: [(i16, &[u8]); 9] = [
            (UNTIL, &until),
            (SERVICE, &self.service.ip().octets()),
            (SERVICE_PORT, &self.service.port().to_be_bytes()),
            (SCALE, &[self.window_scale.min(14), u8::from(self.takes_acks)]),
            (MSS, &self.mss.to_be_bytes()),
            (WINDOW, &self.window.to_be_bytes()),
            (LEAD, &self.lead.to_ne_bytes()),
            (STATE, state.as_flattened()),
            (OWNED_UNTIL, &owned_until),
        ];
        for (at, part) in parts {
            if let Some(place) = bytes.get_mut(at as usize..at as usize + part.len()) {
                place.copy_from_slice(part);
            }
        }
        bytes
    }
}

pub(super) fn answered(bytes: &[u8; COUNTS]) -> Answered {
    let count = |at: i16| {
        bytes
            .get(at as usize..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |count| u64::from_ne_bytes(*count))
    };
    Answered { syns: count(SYNS), acks: count(ACKS), handed_over: count(HANDED_OVER) }
}
