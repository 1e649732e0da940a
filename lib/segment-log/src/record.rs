//! What is said of a segment, and where it is.

use std::fmt;

use crate::layout::{LEFT_OUT_BYTES, RecordHeader};

/// Properties of a logged segment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(u16);

impl Flags {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// At least one of its sequence numbers was logged before.
    pub const RETRANSMISSION: Self = Self(1);
    /// A hole in the sequence numbers precedes it.
    pub const OUT_OF_ORDER: Self = Self(2);
    /// Not forwarded yet when it was logged: [`RecordMeta::hold`] waits for a judgement.
    pub const HELD: Self = Self(4);
    /// Several segments in one packet, as the kernel's segmentation offload keeps them.
    pub const GSO: Self = Self(8);
    /// From a backend to a client; otherwise from a client to a backend.
    pub const FROM_BACKEND: Self = Self(16);
    /// Headers only: [`Record::left_out`] stands for the payload.
    pub const PAYLOAD_LEFT_OUT: Self = Self(32);
    /// A client's, dropped by the fence of its failed backend: no backend has got it.
    pub const SWALLOWED: Self = Self(64);
    /// No segment: from here on the logger lets nothing pass of the flow that the packet, which never was on a wire, names.
    pub const FENCED: Self = Self(128);
    /// A client's SYN that has lifted the fence of its flow.
    pub const UNFENCED: Self = Self(256);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::RETRANSMISSION, "retransmission"),
        (Self::OUT_OF_ORDER, "out-of-order"),
        (Self::HELD, "held"),
        (Self::GSO, "gso"),
        (Self::FROM_BACKEND, "from-backend"),
        (Self::PAYLOAD_LEFT_OUT, "payload-left-out"),
        (Self::SWALLOWED, "swallowed"),
        (Self::FENCED, "fenced"),
        (Self::UNFENCED, "unfenced"),
    ];

    /// All of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The record begins or ends a fence.
    pub const fn tells_of_fence(self) -> bool {
        self.contains(Self::FENCED) || self.contains(Self::UNFENCED)
    }

    /// With `other` if `condition`.
    #[must_use]
    pub const fn with(self, other: Self, condition: bool) -> Self {
        if condition { Self(self.0 | other.0) } else { self }
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

/// Where a record is: bytes since the ring's beginning, never wrapping. Of use only for the file it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub(crate) u64);

impl Position {
    /// Bytes since the ring's beginning.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// What the writer says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordMeta {
    /// When it was logged: nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Its properties.
    pub flags: Flags,
    /// The number under which the logger holds it; 0: not held.
    pub hold: u64,
}

/// What stands for a payload that is not kept, because it can be had again from where it came (paper §3.1: of a large file the
/// location is saved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Payload bytes of the segment, all of which are missing.
    pub bytes: u32,
    /// Sequence number of the first byte that `hash` covers; all from there to the segment's end were left out.
    pub since: u32,
    /// Running xxh3-128.
    pub hash: u128,
}

impl LeftOut {
    pub(crate) fn to_bytes(self) -> [u8; LEFT_OUT_BYTES] {
        let mut out = [0; LEFT_OUT_BYTES];
        let fields = [&self.bytes.to_ne_bytes()[..], &self.since.to_ne_bytes(), &self.hash.to_ne_bytes()];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    fn from_bytes(bytes: [u8; LEFT_OUT_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, hash @ ..] = bytes;
        Self {
            bytes: u32::from_ne_bytes([a, b, c, d]),
            since: u32::from_ne_bytes([e, f, g, h]),
            hash: u128::from_ne_bytes(hash),
        }
    }
}

/// One logged segment, in the reader's memory.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    header: RecordHeader,
    payload: &'a [u8],
    left_out: Option<LeftOut>,
}

impl<'a> Record<'a> {
    /// `message` is what the header says that follows it; see [`RecordHeader::leaves_out`].
    pub(crate) fn new(header: RecordHeader, message: &'a [u8]) -> Self {
        let parts = message.split_last_chunk().filter(|_| header.leaves_out());
        let (payload, left_out) =
            parts.map_or((message, None), |(headers, last)| (headers, Some(LeftOut::from_bytes(*last))));
        Self { header, payload, left_out }
    }

    /// Its number: 1 is the first record of the file, each next one is 1 more.
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// Where it is, for [`Reader::read_at`](crate::Reader::read_at).
    pub fn position(&self) -> Position {
        Position(self.header.position)
    }

    /// When it was logged: nanoseconds of the monotonic clock.
    pub fn time_ns(&self) -> u64 {
        self.header.time_ns
    }

    /// Its properties.
    pub fn flags(&self) -> Flags {
        Flags::from_bits(self.header.flags)
    }

    /// The number under which the logger holds it; 0: not held.
    pub fn hold(&self) -> u64 {
        self.header.hold
    }

    /// Which writer wrote it: 1 is the file's creator, each later one counts 1 more. Holds of an earlier epoch are void.
    pub fn epoch(&self) -> u32 {
        self.header.epoch
    }

    /// Payload bytes of all records before it.
    pub fn payload_before(&self) -> u64 {
        self.header.payload_before
    }

    /// What stands for the segment's payload, if that was left out.
    pub fn left_out(&self) -> Option<LeftOut> {
        self.left_out
    }

    /// The whole IP packet; where its payload was [left out](Self::left_out), its IP and TCP header.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
