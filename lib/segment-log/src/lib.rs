//! The segment log (paper §5, logging module): a shared-memory file with one writer and any number of readers.
//!
//! The file is a page of header and a ring of records, each of which holds one whole IP packet. [`layout`] says where
//! every byte is.
//!
//! * **Writing** is two steps, so that the kernel can put packets straight into the ring: [`Writer::reserve_slots`] gives
//!   memory for many, [`Writer::commit_slot`] makes each record visible. [`Writer::flush`] wakes readers, once a batch.
//!   A writer that is killed loses nothing that it committed: the next one attaches to the file and goes on.
//! * **Large files**: of a packet whose payload can be had again elsewhere, [`Writer::commit_headers`] keeps the headers and a
//!   running hash; the room that the payload took is used for what comes next.
//! * **Reading** never blocks the writer. A [`Reader`] that falls behind by more than the ring is told exactly how many
//!   records and bytes it lost ([`ReadError::Lapped`]) and goes on with the oldest record.
//! * **Being seen**: a reader that [announces](Reader::announced) itself is listed with its lag while it lives.
//! * **Trust**: readers copy with `pread` and check every length, index and checksum on the copy. What the writer
//!   overwrote during the copy is noticed and not returned. A file cut off under a reader is [`ReadError::Truncated`].
//!   Sealing the size (`F_SEAL_SHRINK`) is not possible for a named file, so mode 0640 protects it, and only its owner can
//!   cut it off. The writer, which does map the ring, then ends with a fault: its queue closes and nothing passes unlogged.
//!   A writer attaches only to a file that its own user made, since `/dev/shm` is open to all.

mod control;
mod error;
mod futex;
pub mod layout;
mod os;
mod reader;
mod readers;
mod record;
mod writer;

/// What `control` is made of; its model check puts others in their place.
mod atomics {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

pub use error::{OpenError, ReadError, Refusal, WriteError};
pub use reader::{Reader, Stats};
pub use readers::SeenReader;
pub use record::{Flags, LeftOut, Position, Record, RecordMeta};
pub use writer::{Slots, Usage, Writer};
