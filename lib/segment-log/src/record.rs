//! What is said of a segment, and where it is.

use std::fmt;

use crate::layout::RecordHeader;

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

    const NAMES: [(Self, &'static str); 5] = [
        (Self::RETRANSMISSION, "retransmission"),
        (Self::OUT_OF_ORDER, "out-of-order"),
        (Self::HELD, "held"),
        (Self::GSO, "gso"),
        (Self::FROM_BACKEND, "from-backend"),
    ];

    /// All of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
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

/// One logged segment, in the reader's memory.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    header: RecordHeader,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn new(header: RecordHeader, payload: &'a [u8]) -> Self {
        Self { header, payload }
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

    /// The whole IP packet.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
