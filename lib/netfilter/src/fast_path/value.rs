//! What the map says of one direction of a connection: places in the value, shared by the program and its owner.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::Passed;

/// Beside the client: address, and below its port, in network byte order; likewise what replaces them.
pub(super) const PEER: i16 = 0;
pub(super) const PEER_PORT: i16 = 4;
pub(super) const NEW_PORT: i16 = 6;
pub(super) const NEW: i16 = 8;
/// Four numbers, added to sequence number, acknowledgement, TSval and TSecr.
pub(super) const ADD: i16 = 12;
/// The window scale as it comes, and as it leaves.
pub(super) const SCALE_FROM: i16 = 28;
pub(super) const SCALE_TO: i16 = 29;
/// Not 0: it is recorded what passes. 0: conntrack is shown each new acknowledgement.
pub(super) const RECORDED: i16 = 30;
/// Up to here the owner decides, behind it the program.
const DECIDED: usize = 31;
/// Not 0: there is a record.
pub(super) const FILLED: i16 = 31;
/// The acknowledgement that conntrack was shown last, as it came.
pub(super) const SHOWN_ACK: i16 = 32;
/// One after the last byte, and the acknowledgement.
pub(super) const END: i16 = 36;
pub(super) const ACK: i16 = 40;
/// As they came.
pub(super) const WINDOW: i16 = 44;
pub(super) const STAMP: i16 = 48;
pub(super) const STAMP_ECHO: i16 = 52;
/// When a segment is shown to conntrack or the owner again, and how long after that, nanoseconds.
pub(super) const SHOW_AT: i16 = 56;
pub(super) const SHOW_EVERY: i16 = 64;
/// Bytes of a value.
pub(super) const VALUE: usize = 72;

/// The segments of one direction that are taken, and how they are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Direction {
    /// Beside the client.
    pub(super) peer: SocketAddrV4,
    /// In its place.
    pub(super) new: SocketAddrV4,
    /// Added to sequence number, acknowledgement, TSval and TSecr.
    pub(super) add: [u32; 4],
    /// Of windows, from and to.
    pub(super) scales: (u8, u8),
    pub(super) recorded: bool,
}

impl Direction {
    /// The first segment is shown at `show_at` (`CLOCK_MONOTONIC`), later ones `every` so often.
    pub(super) fn bytes(&self, show_at: Duration, every: Duration) -> [u8; VALUE] {
        let mut bytes = [0; VALUE];
        let add = self.add.map(u32::to_ne_bytes).concat();
        let parts: [(i16, &[u8]); 8] = [
            (PEER, &self.peer.ip().octets()),
            (PEER_PORT, &self.peer.port().to_be_bytes()),
            (NEW_PORT, &self.new.port().to_be_bytes()),
            (NEW, &self.new.ip().octets()),
            (ADD, &add),
            (SCALE_FROM, &[self.scales.0.min(14), self.scales.1.min(14), u8::from(self.recorded)]),
            (SHOW_AT, &nanos(show_at)),
            (SHOW_EVERY, &nanos(every)),
        ];
        for (at, part) in parts {
            if let Some(place) = bytes.get_mut(at as usize..at as usize + part.len()) {
                place.copy_from_slice(part);
            }
        }
        bytes
    }
}

fn nanos(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes()
}

/// Both say the same of translation.
pub(super) fn agree(one: &[u8; VALUE], other: &[u8; VALUE]) -> bool {
    one.get(..DECIDED) == other.get(..DECIDED)
}

/// What was recorded; `None`: nothing yet.
pub(super) fn passed(value: &[u8; VALUE]) -> Option<Passed> {
    let filled = value.get(FILLED as usize).is_some_and(|filled| *filled != 0);
    filled.then(|| Passed {
        end: u32::from_ne_bytes(part(value, END)),
        ack: u32::from_ne_bytes(part(value, ACK)),
        window: u16::from_be_bytes(part(value, WINDOW)),
        timestamps: (u32::from_be_bytes(part(value, STAMP)), u32::from_be_bytes(part(value, STAMP_ECHO))),
    })
}

fn part<const N: usize>(value: &[u8; VALUE], at: i16) -> [u8; N] {
    value.get(at as usize..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
