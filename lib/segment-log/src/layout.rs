//! The file's layout, all of it.
//!
//! ```text
//! 0         FileHeader   never changes after creation; checksum
//! 256       Control      atomics: what is committed, what is still intact, wake-ups
//! 4096      ring         records, each a RecordHeader, the kernel's message, padding to 64 bytes
//! ```
//!
//! A *position* counts ring bytes from creation and never wraps; it is found at `4096 + position % ring_bytes`. A record
//! is contiguous: where the ring's end leaves too little room, a [`Kind::Pad`] fills it and the record begins at 0. Pads also
//! fill gaps between records that the kernel put into the ring at a distance.
//!
//! **Payload left out** ([`Flags::PAYLOAD_LEFT_OUT`](crate::Flags::PAYLOAD_LEFT_OUT)): the message is the packet's IP and TCP header,
//! followed by [`LEFT_OUT_BYTES`] that say what is missing. What the kernel put behind it is free again.
//!
//! **Fences.** A record of a fence ([`Flags::FENCED`](crate::Flags::FENCED)) is numbered and overwritten as any other. The next writer
//! hands it back ([`Writer::take_fences`](crate::Writer::take_fences)), so that a logger that dies keeps what is not overwritten yet.
//!
//! **Commit.** `Control::committed` is the number of the last complete record and selects the [`Mark`] that says where it
//! ends; the other mark is the one that the writer changes next. So a writer killed at any instruction leaves a whole mark.
//!
//! **Overwriting.** Before the writer touches ring memory it moves `Control::oldest` beyond every record there. A reader
//! copies first and looks at `oldest` afterwards: if it is not beyond what was copied, the copy is whole.
//!
//! Everything is in the machine's byte order; a file from another order has another magic number.

use crate::Flags;
pub use crate::control::{Committed, Control, Mark};

/// First bytes of every segment log.
pub const MAGIC: u64 = u64::from_le_bytes(*b"resplog\n");
/// Changes with every change of this file, and of what [`Flags`](crate::Flags) say.
pub const VERSION: u32 = 4;
/// Bytes before the ring.
pub const HEADER_BYTES: u64 = 4096;
/// Where [`Control`] is.
pub const CONTROL_OFFSET: usize = 256;
/// Bytes behind the headers of a packet whose payload was left out: payload bytes (32 bits), sequence number at which the hash
/// begins (32 bits), hash (128 bits).
pub const LEFT_OUT_BYTES: usize = 24;
/// Records begin and end at multiples of this.
pub const ALIGN: u64 = 64;
/// A ring is a multiple of this.
pub const PAGE: u64 = 4096;

/// Fixed at creation.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// [`HEADER_BYTES`].
    pub header_bytes: u32,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Different in every file: Unix time of its creation in nanoseconds.
    pub generation: u64,
    /// Unix time in nanoseconds at which the monotonic clock was 0.
    pub realtime_base_ns: u64,
    /// [`check`] of the fields before.
    pub check: u64,
}

/// What follows a [`RecordHeader`].
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A segment.
    Segment = 1,
    /// Nothing. Has the number of the record after it.
    Pad = 2,
}

/// In front of every record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// Its own position.
    pub position: u64,
    /// From 1, without gaps.
    pub number: u64,
    /// Monotonic nanoseconds.
    pub time_ns: u64,
    /// Hold number or 0.
    pub hold: u64,
    /// Payload bytes of all records before.
    pub payload_before: u64,
    /// Whole record, header and padding included.
    pub total_bytes: u32,
    /// From the header's first byte to the payload's.
    pub payload_offset: u32,
    /// Bytes of the packet.
    pub payload_bytes: u32,
    /// Of which writer.
    pub epoch: u32,
    /// [`Flags`](crate::Flags).
    pub flags: u16,
    /// [`Kind`].
    pub kind: u16,
    /// [`check`] of the fields before, lower half.
    pub check: u32,
}

/// Bytes of a [`RecordHeader`].
pub const RECORD_HEADER_BYTES: usize = size_of::<RecordHeader>();
/// Bytes of a [`FileHeader`].
pub const FILE_HEADER_BYTES: usize = size_of::<FileHeader>();

const _: () = assert!(RECORD_HEADER_BYTES == 64 && RECORD_HEADER_BYTES as u64 == ALIGN);
const _: () = assert!(FILE_HEADER_BYTES == 48 && FILE_HEADER_BYTES <= CONTROL_OFFSET);
const _: () = assert!(size_of::<Control>() == 64 && CONTROL_OFFSET.is_multiple_of(align_of::<Control>()));
const _: () = assert!(CONTROL_OFFSET + size_of::<Control>() <= HEADER_BYTES as usize);

/// Checksum of header bytes: notices accidents, not forgery (who may write to the file may forge anything).
pub fn check(bytes: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_ne_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        state ^= state >> 32;
    }
    state
}

impl FileHeader {
    /// With its checksum.
    pub fn sealed(mut self) -> Self {
        self.check = self.computed_check();
        self
    }

    /// What `check` has to be.
    pub fn computed_check(&self) -> u64 {
        check(&self.to_bytes()[..FILE_HEADER_BYTES - 8])
    }

    /// As in the file.
    pub fn to_bytes(self) -> [u8; FILE_HEADER_BYTES] {
        // SAFETY: repr(C) of integers without padding: the asserted size is the sum of the fields.
        #[allow(unsafe_code)]
        unsafe {
            std::mem::transmute(self)
        }
    }

    /// From the file, unchecked.
    pub fn from_bytes(bytes: [u8; FILE_HEADER_BYTES]) -> Self {
        // SAFETY: every bit pattern is a valid FileHeader; the sizes are equal.
        #[allow(unsafe_code)]
        unsafe {
            std::mem::transmute(bytes)
        }
    }
}

impl RecordHeader {
    /// With its checksum.
    pub fn sealed(mut self) -> Self {
        self.check = self.computed_check();
        self
    }

    fn computed_check(&self) -> u32 {
        check(&self.to_bytes()[..RECORD_HEADER_BYTES - 4]) as u32
    }

    /// As in the ring.
    pub fn to_bytes(self) -> [u8; RECORD_HEADER_BYTES] {
        // SAFETY: repr(C) of integers without padding: the asserted size is the sum of the fields.
        #[allow(unsafe_code)]
        unsafe {
            std::mem::transmute(self)
        }
    }

    /// From a copy of ring memory; `room` bytes are committed from `position` to the ring's end or the log's.
    pub fn from_bytes(
        bytes: [u8; RECORD_HEADER_BYTES],
        position: u64,
        room: u64,
    ) -> Result<Self, &'static str> {
        // SAFETY: every bit pattern is a valid RecordHeader; the sizes are equal.
        #[allow(unsafe_code)]
        let header: Self = unsafe { std::mem::transmute(bytes) };
        header.validated(position, room)
    }

    fn validated(self, position: u64, room: u64) -> Result<Self, &'static str> {
        let total = u64::from(self.total_bytes);
        let payload_end = u64::from(self.payload_offset) + u64::from(self.payload_bytes);
        if self.check != self.computed_check() {
            Err("checksum of a record header")
        } else if self.position != position {
            Err("record of another position")
        } else if total < ALIGN || total % ALIGN != 0 || total > room {
            Err("length of a record")
        } else if u64::from(self.payload_offset) < ALIGN || payload_end > total {
            Err("payload of a record")
        } else if self.leaves_out() && (self.payload_bytes as usize) < LEFT_OUT_BYTES {
            Err("what a record says of the payload that it leaves out")
        } else if self.kind != Kind::Segment as u16 && self.kind != Kind::Pad as u16 {
            Err("kind of a record")
        } else {
            Ok(self)
        }
    }

    /// Its message ends with what stands for the packet's payload.
    pub fn leaves_out(&self) -> bool {
        Flags::from_bits(self.flags).contains(Flags::PAYLOAD_LEFT_OUT)
    }

    /// To be skipped.
    pub fn is_pad(&self) -> bool {
        self.kind == Kind::Pad as u16
    }
}
