//! What follows, copied out of the ring before it is looked at.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::ReadError;
use crate::layout::{Committed, HEADER_BYTES, RecordHeader};
use crate::writer::check_bounds;

use super::{Reader, corrupt};

/// Ring bytes copied at once; records larger than that are copied whole.
const CHUNK: u64 = 256 << 10;

impl Reader {
    /// Compares the record with the one that has to follow, and expects the one after it.
    pub(super) fn account(&mut self, header: &RecordHeader) -> Result<(), ReadError> {
        let (number, before) = self.expected;
        let found = (header.number, header.payload_before);
        if found != self.expected {
            self.expected = found;
            return match (found.0.checked_sub(number), found.1.checked_sub(before)) {
                (Some(records), Some(bytes)) if records > 0 => Err(ReadError::Lapped { records, bytes }),
                _ => Err(corrupt(header.position, "order of the records")),
            };
        }
        self.expected = (number.wrapping_add(1), before.wrapping_add(u64::from(header.payload_bytes)));
        Ok(())
    }

    /// The next segment's header, whose record is whole in the buffer at `read`.
    pub(super) fn next_header(&mut self) -> Result<Option<RecordHeader>, ReadError> {
        loop {
            match self.buffered()? {
                Some(header) if header.is_pad() => {
                    self.read += header.total_bytes as usize;
                    self.position += u64::from(header.total_bytes);
                }
                Some(header) => return Ok(Some(header)),
                None if self.refill()? => {}
                None => return Ok(None),
            }
        }
    }

    /// The header at `read`, if its whole record is in the buffer.
    fn buffered(&self) -> Result<Option<RecordHeader>, ReadError> {
        let rest = self.buffer.get(self.read..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk() else { return Ok(None) };
        let room = self.header.ring_bytes - self.position % self.header.ring_bytes;
        let header = RecordHeader::from_bytes(*bytes, self.position, room)
            .map_err(|reason| corrupt(self.position, reason))?;
        // A pad is never copied whole, it only says where to go on.
        Ok((header.is_pad() || header.total_bytes as usize <= rest.len()).then_some(header))
    }

    /// Copies what follows `position`, at least one record; `false`: there is nothing.
    fn refill(&mut self) -> Result<bool, ReadError> {
        let mut want = CHUNK;
        self.show()?;
        loop {
            let state = self.look()?;
            if self.position == state.end {
                return self.nothing();
            }
            self.position = self.position.max(self.control().intact_from());
            if self.position >= state.end {
                continue;
            }
            if !self.copy(self.position, want.min(state.end - self.position))? {
                continue;
            }
            match self.buffered()? {
                Some(_) => return Ok(true),
                None if want < self.header.ring_bytes => want = want.saturating_mul(4),
                None => return Err(corrupt(self.position, "a record beyond the end of the log")),
            }
        }
    }

    /// What is committed, after making sure that the file is still whole.
    pub(super) fn look(&self) -> Result<Committed, ReadError> {
        let have = self.file.metadata()?.len();
        if have < HEADER_BYTES + self.header.ring_bytes {
            return Err(ReadError::Truncated { have });
        }
        let state = self.control().committed();
        if self.position > state.end || check_bounds(state, self.position, u64::MAX).is_err() {
            return Err(corrupt(self.position, "the log's end moved backwards"));
        }
        Ok(state)
    }

    fn nothing(&self) -> Result<bool, ReadError> {
        if self.file.metadata()?.nlink() == 0 { Err(ReadError::Replaced) } else { Ok(false) }
    }

    /// Puts up to `bytes` from `position` on into the buffer, not beyond the ring's end; `false`: overwritten meanwhile.
    fn copy(&mut self, position: u64, bytes: u64) -> Result<bool, ReadError> {
        let offset = position % self.header.ring_bytes;
        let bytes = bytes.min(self.header.ring_bytes - offset) as usize;
        self.read = 0;
        self.buffer.resize(bytes, 0);
        match self.file.read_exact_at(&mut self.buffer, HEADER_BYTES + offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.buffer.clear();
                self.look()?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
            Ok(()) if self.control().intact_from() > position => {
                self.buffer.clear();
                Ok(false)
            }
            Ok(()) => Ok(true),
        }
    }
}
