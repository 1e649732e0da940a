//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

/// A segment log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("segment log {path}: {refusal}", path = path.display())]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub refusal: Refusal,
}

/// Why a segment log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Not a possible size of a ring.
    #[error(
        "a ring of {0} bytes is not possible; it must be a multiple of 4096 and at least 4096: change ring_bytes"
    )]
    RingBytes(u64),
    /// The file belongs to another user, others may write to it, or it is not a regular file.
    #[error("{0}: somebody else made this file; remove it and start again")]
    NotOurs(&'static str),
    /// Shorter than its header says, or than any segment log.
    #[error("truncated: {have} bytes instead of {need}; stop its writer, remove it and start again")]
    Truncated {
        /// The file's size.
        have: u64,
        /// The size it should have.
        need: u64,
    },
    /// No segment log at all.
    #[error("not a segment log: name the right file, or remove this one if the logger is to use its name")]
    Foreign,
    /// Written by another version of this program.
    #[error(
        "layout version {found}, this program has {expected}; stop its writer, remove it and start the writer of this version"
    )]
    Version {
        /// The file's.
        found: u32,
        /// [`layout::VERSION`](crate::layout::VERSION).
        expected: u32,
    },
    /// The file's ring is not as large as the configuration wants it.
    #[error("its ring has {found} bytes, wanted are {wanted}; remove the file, or put ring_bytes back")]
    OtherSize {
        /// The file's.
        found: u64,
        /// The configuration's.
        wanted: u64,
    },
    /// Header or records contradict themselves.
    #[error(
        "corrupt ({0}); stop its writer, remove it and start again: connections logged in it are not recoverable"
    )]
    Corrupt(&'static str),
    /// There is one writer already.
    #[error("another logger is writing to it; stop that one first")]
    InUse,
}

/// A record could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// More than a quarter of the ring.
    #[error("a record of {bytes} bytes does not fit, at most {limit} do: increase ring_bytes")]
    TooLarge {
        /// Wanted.
        bytes: usize,
        /// Most that can be reserved in this ring.
        limit: usize,
    },
    /// The payload is not within what was reserved, or nothing was.
    #[error("payload is not within the reserved memory")]
    NotReserved,
    /// Somebody else wrote into the ring.
    #[error(
        "the segment log was changed by somebody else; stop this logger, remove the file and start again"
    )]
    Corrupt,
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The writer has overwritten records that this reader had not read. The next call goes on with the oldest record.
    #[error("lapped by the writer: {records} records with {bytes} payload bytes are lost")]
    Lapped {
        /// Records lost, exactly.
        records: u64,
        /// Their payload bytes, exactly.
        bytes: u64,
    },
    /// The file has been cut off.
    #[error("the segment log was truncated to {have} bytes; restart the logger")]
    Truncated {
        /// The file's size.
        have: u64,
    },
    /// All is read, and the file has been removed: its writer will never write to it again. Open the path anew.
    #[error("the segment log was removed or replaced; open it again")]
    Replaced,
    /// What is written contradicts itself.
    #[error("the segment log is corrupt at {position} ({reason}); restart the logger with a new file")]
    Corrupt {
        /// Where.
        position: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The system refused.
    #[error("cannot read the segment log: {0}")]
    Io(#[from] io::Error),
}
