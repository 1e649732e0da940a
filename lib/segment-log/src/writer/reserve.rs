//! Ring memory to be filled, in which old records give way.

use crate::WriteError;
use crate::layout::{ALIGN, RECORD_HEADER_BYTES};

use super::Writer;

/// Contiguous slots, each with room for a record header and a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reservation {
    pub(super) start: u64,
    /// Bytes of the message in each.
    pub(super) bytes: usize,
    pub(super) slots: usize,
    /// The first that was not committed or passed over.
    pub(super) next: usize,
    /// Ring bytes of the records committed here, and of the gaps that were left between them.
    pub(super) used: u64,
    pub(super) wasted: u64,
}

impl Reservation {
    pub(super) fn position(&self, slot: usize) -> u64 {
        self.start + slot as u64 * slot_bytes(self.bytes)
    }
}

/// The memory of [`Writer::reserve_slots`].
#[derive(Debug)]
pub struct Slots<'a> {
    /// From the first slot's first byte on; every slot has `length` bytes that may be filled.
    pub memory: &'a mut [u8],
    /// From one slot's first byte to the next one's.
    pub stride: usize,
    /// Bytes of each.
    pub length: usize,
}

impl Writer {
    /// Most bytes that [`reserve`](Self::reserve) gives: so the newest half of the ring is always readable.
    pub fn limit(&self) -> usize {
        (self.ring_bytes / 4).min(1 << 30) as usize - RECORD_HEADER_BYTES
    }

    /// Contiguous ring memory of `max_bytes`, to be filled in any way. The oldest records that are in its place are lost
    /// to readers. Reserving again without [`commit`](Self::commit) gives the same place.
    pub fn reserve(&mut self, max_bytes: usize) -> Result<&mut [u8], WriteError> {
        let Slots { memory, length, .. } = self.reserve_slots(1, max_bytes)?;
        memory.get_mut(..length).ok_or(WriteError::Corrupt)
    }

    /// Ring memory for up to `most` messages of up to `max_bytes` each, at equal distances: fewer (at least one) where the
    /// ring ends or a quarter of it is full. The oldest records that are in its place are lost to readers.
    pub fn reserve_slots(&mut self, most: usize, max_bytes: usize) -> Result<Slots<'_>, WriteError> {
        if max_bytes > self.limit() {
            return Err(WriteError::TooLarge { bytes: max_bytes, limit: self.limit() });
        }
        let stride = slot_bytes(max_bytes);
        let to_end = self.ring_bytes - self.state.end % self.ring_bytes;
        let wraps = stride > to_end;
        let start = if wraps { self.state.end + to_end } else { self.state.end };
        let room = if wraps { self.ring_bytes } else { to_end }.min(self.ring_bytes / 4);
        let slots = (room / stride).clamp(1, most.max(1) as u64);
        self.make_room((start + slots * stride).saturating_sub(self.ring_bytes));
        let (bytes, slots) = (max_bytes, slots as usize);
        self.reserved = Some(Reservation { start, bytes, slots, next: 0, used: 0, wasted: 0 });
        let (offset, stride) = (self.offset(start) + RECORD_HEADER_BYTES, stride as usize);
        let memory = self.map.get_mut(offset..offset + slots * stride - RECORD_HEADER_BYTES);
        Ok(Slots { memory: memory.ok_or(WriteError::Corrupt)?, stride, length: max_bytes })
    }

    /// What is in slot `slot` of the memory last reserved.
    pub fn slot(&self, slot: usize) -> &[u8] {
        let Some(reserved) = self.reserved.filter(|reserved| slot < reserved.slots) else { return &[] };
        let offset = self.offset(reserved.position(slot)) + RECORD_HEADER_BYTES;
        self.map.get(offset..offset + reserved.bytes).unwrap_or_default()
    }

    /// Gives up whole records, and not many more than needed, until nothing before `frontier` is promised to readers; all, where no place is
    /// known from there on, as in a file whose records were made longer than any that is reserved here.
    fn make_room(&mut self, frontier: u64) {
        if self.oldest < frontier {
            self.oldest = self.places.first_from(frontier).unwrap_or(self.state.end);
            self.control().give_up(self.oldest);
        }
    }
}

/// Ring bytes of a record whose message has `bytes`.
pub(super) fn slot_bytes(bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + bytes).next_multiple_of(ALIGN as usize) as u64
}
