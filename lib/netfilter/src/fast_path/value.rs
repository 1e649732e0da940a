//! What the map says of a connection: for each direction the same places, first those to the backend, then those to the client.
//! Shared by the program and its owner.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::{Kept, Passed};
use crate::conntrack::SpliceEntry;

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
/// Bits: how the connection is kept. None: conntrack has an entry of it.
pub(super) const KIND: i16 = 30;
/// It is recorded what passes.
pub(super) const RECORDED: u8 = 1;
/// That includes the end of each side's data (FIN).
pub(super) const TO_ITS_END: u8 = 2;
/// Both ends permit SACK: for a later owner.
pub(super) const SACK: u8 = 4;
/// Alone, beside a peer's address of zero, and nothing is translated: this client's packets are queued before conntrack; it has a
/// connection that conntrack or its owner translates, or ends.
pub(super) const QUEUED: u8 = 8;
pub(super) const ENDING: u8 = 16;
/// Up to here the owner decides, behind it the program.
const DECIDED: usize = 31;
/// Bits: there is a record; a FIN is in it.
pub(super) const FILLED: i16 = 31;
pub(super) const HAS_RECORD: u8 = 1;
pub(super) const HAS_FIN: u8 = 2;
/// What this side acknowledged last, as it came, of a connection that conntrack has an entry of; 0: nothing yet.
pub(super) const LAST_ACK: i16 = 32;
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
/// What the owner wants to be told again.
pub(super) const REST: i16 = 72;
/// One after the FIN.
pub(super) const FIN_END: i16 = 76;
/// Bytes of one direction.
pub(super) const VALUE: usize = 80;
/// Bytes of a value.
pub(super) const BOTH: usize = 2 * VALUE;

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
    /// [`RECORDED`] and what follows it.
    pub(super) kind: u8,
    pub(super) rest: u32,
}

impl Direction {
    /// The first segment is shown at `show_at` (`CLOCK_MONOTONIC`), later ones `every` so often.
    pub(super) fn bytes(&self, show_at: Duration, every: Duration) -> [u8; VALUE] {
        let mut bytes = [0; VALUE];
        let add = self.add.map(u32::to_ne_bytes).concat();
        let parts: [(i16, &[u8]); 9] = [
            (PEER, &self.peer.ip().octets()),
            (PEER_PORT, &self.peer.port().to_be_bytes()),
            (NEW_PORT, &self.new.port().to_be_bytes()),
            (NEW, &self.new.ip().octets()),
            (ADD, &add),
            (SCALE_FROM, &[self.scales.0.min(14), self.scales.1.min(14), self.kind]),
            (SHOW_AT, &nanos(show_at)),
            (SHOW_EVERY, &nanos(every)),
            (REST, &self.rest.to_ne_bytes()),
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

/// With what an earlier program knows the sides to have acknowledged, if that says the same of translation.
pub(super) fn taken_over(earlier: &[u8; BOTH], own: &[u8; BOTH]) -> Option<[u8; BOTH]> {
    let (earlier, mut own) = (split(earlier), split(own));
    let alike = earlier.iter().zip(&own).all(|(one, other)| agree(one, other));
    for (to, from) in own.iter_mut().zip(&earlier) {
        let place = to.get_mut(LAST_ACK as usize..END as usize)?;
        place.copy_from_slice(&part::<4>(from, LAST_ACK));
    }
    alike.then(|| join(&own))
}

/// What was recorded; `None`: nothing yet.
pub(super) fn passed(value: &[u8; VALUE]) -> Option<Passed> {
    let [filled] = part(value, FILLED);
    let end = part(value, END);
    (filled & HAS_RECORD != 0).then(|| Passed {
        end: u32::from_ne_bytes(end),
        fin: filled & HAS_FIN != 0 && part(value, FIN_END) == end,
        ack: u32::from_ne_bytes(part(value, ACK)),
        window: u16::from_be_bytes(part(value, WINDOW)),
        timestamps: (u32::from_be_bytes(part(value, STAMP)), u32::from_be_bytes(part(value, STAMP_ECHO))),
    })
}

/// What is kept of a connection whose client is given, with the values of its two directions; `None`: conntrack has an entry of it.
pub(super) fn kept(client: SocketAddrV4, [to_backend, to_client]: &[[u8; VALUE]; 2]) -> Option<Kept> {
    let [kind] = part(to_client, KIND);
    let address = |at, port| {
        let ip = std::net::Ipv4Addr::from(part::<4>(to_client, at));
        SocketAddrV4::new(ip, u16::from_be_bytes(part(to_client, port)))
    };
    let number = |at| u32::from_ne_bytes(part(to_client, at));
    let ([client_scale], [server_scale]) = (part(to_backend, SCALE_TO), part(to_client, SCALE_FROM));
    let entry = SpliceEntry {
        client: client.into(),
        service: address(NEW, NEW_PORT).into(),
        backend: address(PEER, PEER_PORT).into(),
        server_offset: number(ADD),
        client_offset: 0,
        timestamp_offset: number(ADD + 8).wrapping_neg(),
        has_timestamps: true,
        mark: 0,
        timeout_s: 0,
        window_scales: Some((client_scale, server_scale)),
        sack_permitted: kind & SACK != 0,
    };
    let passed = [passed(to_backend), passed(to_client)];
    (kind & RECORDED != 0).then(|| Kept { entry, rest: number(REST), passed })
}

/// How the connection of a value is kept.
pub(super) fn kind([to_backend, _]: &[[u8; VALUE]; 2]) -> u8 {
    let [kind] = part(to_backend, KIND);
    kind
}

/// What is there after a connection of this kind was taken off; `None`: nothing. What has no record is conntrack's.
pub(super) fn in_its_place(kind: u8) -> Option<u8> {
    match kind {
        QUEUED | ENDING => Some(kind),
        _ if kind & RECORDED == 0 => None,
        _ if kind & TO_ITS_END == 0 => Some(QUEUED),
        _ => Some(ENDING),
    }
}

/// A value that says nothing but this. No peer has the address of zero in it.
pub(super) fn kept_off(kind: u8) -> [[u8; VALUE]; 2] {
    let mut direction = [0; VALUE];
    if let Some(place) = direction.get_mut(KIND as usize) {
        *place = kind;
    }
    [direction; 2]
}

/// The two directions of a value.
pub(super) fn split(both: &[u8; BOTH]) -> [[u8; VALUE]; 2] {
    let half = |at: usize| both.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; VALUE]);
    [half(0), half(VALUE)]
}

/// And together.
pub(super) fn join(directions: &[[u8; VALUE]; 2]) -> [u8; BOTH] {
    let mut both = [0; BOTH];
    for (to, from) in both.iter_mut().zip(directions.as_flattened()) {
        *to = *from;
    }
    both
}

fn part<const N: usize>(value: &[u8; VALUE], at: i16) -> [u8; N] {
    value.get(at as usize..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
