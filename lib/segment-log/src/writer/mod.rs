//! The one who writes: [`open`] creates or takes over the file, [`reserve`] gives ring memory, here it becomes records.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::Ordering;

use memmap2::MmapMut;

use crate::layout::{
    CONTROL_OFFSET, Committed, Control, HEADER_BYTES, Kind, LEFT_OUT_BYTES, RECORD_HEADER_BYTES, RecordHeader,
};
use crate::readers::{self, SeenReader};
use crate::{Flags, LeftOut, Position, RecordMeta, WriteError, futex};

mod open;
mod places;
mod reserve;

pub(crate) use open::check_bounds;
pub use reserve::Slots;

use places::Places;
use reserve::{Reservation, slot_bytes};

/// Writes segments into a segment log. Exists once per file.
///
/// Order of calls: [`reserve`](Self::reserve), fill, [`commit`](Self::commit), or for many at once
/// [`reserve_slots`](Self::reserve_slots), fill, [`commit_slot`](Self::commit_slot) in ascending order; after a batch
/// [`flush`](Self::flush). Before what was logged is let pass, it must be committed.
#[derive(Debug)]
pub struct Writer {
    map: MmapMut,
    ring_bytes: u64,
    epoch: u32,
    state: Committed,
    oldest: u64,
    places: Places,
    /// Of what earlier writers have left, the records that tell of fences.
    fences: Vec<u64>,
    reserved: Option<Reservation>,
    // Holds the lock.
    file: File,
}

/// How full a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Its size.
    pub ring_bytes: u64,
    /// Bytes of it with records that can be read.
    pub used_bytes: u64,
    /// When the oldest of them was logged, monotonic nanoseconds.
    pub oldest_time_ns: Option<u64>,
    /// Payload bytes logged since the file was created.
    pub payload_bytes: u64,
}

impl Writer {
    fn control(&self) -> &Control {
        // SAFETY: the mapping is larger than the header page (`map`), page-aligned so that CONTROL_OFFSET is aligned for
        // Control, and Control consists of atomics only, for which every bit pattern is valid.
        #[allow(unsafe_code, clippy::cast_ptr_alignment)]
        unsafe {
            &*self.map.as_ptr().add(CONTROL_OFFSET).cast::<Control>()
        }
    }

    fn offset(&self, position: u64) -> usize {
        (HEADER_BYTES + position % self.ring_bytes) as usize
    }

    fn header_at(&self, position: u64) -> Result<RecordHeader, &'static str> {
        let offset = self.offset(position);
        let bytes = self.map.get(offset..).and_then(|rest| rest.first_chunk::<RECORD_HEADER_BYTES>());
        let room = (self.state.end - position).min(self.ring_bytes - position % self.ring_bytes);
        RecordHeader::from_bytes(*bytes.ok_or("position of a record")?, position, room)
    }

    /// Makes the record visible whose packet is at `payload` of the memory last [reserved](Self::reserve); what was
    /// reserved behind it is free again. Readers that sleep are woken by [`flush`](Self::flush).
    pub fn commit(&mut self, meta: RecordMeta, payload: Range<usize>) -> Result<Position, WriteError> {
        let position = self.commit_slot(meta, 0, payload)?;
        self.reserved = None;
        Ok(position)
    }

    /// Makes the record visible whose packet is at `payload` of slot `slot`. Slots are committed in ascending order; those
    /// passed over are free again.
    ///
    /// The record stays where it is if the gap before it keeps at least a third of the reserved memory used, else the
    /// packet moves down: small ones do not waste the ring, and large ones between them are not copied again.
    pub fn commit_slot(
        &mut self,
        meta: RecordMeta,
        slot: usize,
        payload: Range<usize>,
    ) -> Result<Position, WriteError> {
        let mut reserved = self.reserved.ok_or(WriteError::NotReserved)?;
        let fits = payload.start <= payload.end && payload.end <= reserved.bytes;
        if !fits || !(reserved.next..reserved.slots).contains(&slot) {
            return Err(WriteError::NotReserved);
        }
        let (end, place) = (self.state.end.max(reserved.start), reserved.position(slot));
        let (gap, bytes) = (place - end, slot_bytes(payload.end));
        let stays = reserved.wasted + gap <= 2 * (reserved.used + bytes) || gap == 0;
        self.write_pad((self.state.end, end), meta.time_ns);
        let header = if stays {
            reserved.wasted += gap;
            self.write_pad((end, place), meta.time_ns);
            self.record_header(place, meta, &payload)
        } else {
            self.move_down((place, end), &payload);
            self.record_header(end, meta, &(0..payload.len()))
        };
        reserved.used += u64::from(header.total_bytes);
        reserved.next = slot + 1;
        self.reserved = Some(reserved);
        self.write_header(&header);
        self.places.note(header.position);
        self.state.number += 1;
        self.state.payload_bytes += payload.len() as u64;
        self.state.end = header.position + u64::from(header.total_bytes);
        self.control().commit(self.state);
        Ok(Position(header.position))
    }

    /// As [`commit_slot`](Self::commit_slot), of a packet whose IP and TCP header is at `headers`: what `left_out` says takes the
    /// place of its payload, of which at least [`LEFT_OUT_BYTES`] must have been reserved.
    pub fn commit_headers(
        &mut self,
        meta: RecordMeta,
        slot: usize,
        headers: Range<usize>,
        left_out: LeftOut,
    ) -> Result<Position, WriteError> {
        let reserved = self.reserved.ok_or(WriteError::NotReserved)?;
        let end = headers.end.saturating_add(LEFT_OUT_BYTES);
        if end > reserved.bytes || !(reserved.next..reserved.slots).contains(&slot) {
            return Err(WriteError::NotReserved);
        }
        let at = self.offset(reserved.position(slot)) + RECORD_HEADER_BYTES + headers.end;
        let place = self.map.get_mut(at..at + LEFT_OUT_BYTES).ok_or(WriteError::Corrupt)?;
        place.copy_from_slice(&left_out.to_bytes());
        let flags = meta.flags | Flags::PAYLOAD_LEFT_OUT;
        self.commit_slot(RecordMeta { flags, ..meta }, slot, headers.start..end)
    }

    /// Both places are within what is reserved, so nobody reads there.
    fn move_down(&mut self, (from, to): (u64, u64), payload: &Range<usize>) {
        let (from, to) = (self.offset(from) + RECORD_HEADER_BYTES, self.offset(to) + RECORD_HEADER_BYTES);
        self.map.copy_within(from + payload.start..from + payload.end, to);
    }

    fn record_header(&self, position: u64, meta: RecordMeta, payload: &Range<usize>) -> RecordHeader {
        RecordHeader {
            position,
            number: self.state.number + 1,
            time_ns: meta.time_ns,
            hold: meta.hold,
            payload_before: self.state.payload_bytes,
            total_bytes: slot_bytes(payload.end) as u32,
            payload_offset: (RECORD_HEADER_BYTES + payload.start) as u32,
            payload_bytes: payload.len() as u32,
            epoch: self.epoch,
            flags: meta.flags.bits(),
            kind: Kind::Segment as u16,
            check: 0,
        }
    }

    /// Fills what is left free before a record, which never reaches beyond the ring's end. It has the record's time.
    fn write_pad(&mut self, (position, end): (u64, u64), time_ns: u64) {
        if position == end {
            return;
        }
        self.write_header(&RecordHeader {
            position,
            number: self.state.number + 1,
            payload_before: self.state.payload_bytes,
            time_ns,
            total_bytes: (end - position) as u32,
            payload_offset: RECORD_HEADER_BYTES as u32,
            epoch: self.epoch,
            kind: Kind::Pad as u16,
            ..RecordHeader::default()
        });
    }

    fn write_header(&mut self, header: &RecordHeader) {
        let offset = self.offset(header.position);
        if let Some(place) = self.map.get_mut(offset..offset + RECORD_HEADER_BYTES) {
            place.copy_from_slice(&header.sealed().to_bytes());
        }
    }

    /// Reserves, copies and commits.
    pub fn append(&mut self, meta: RecordMeta, packet: &[u8]) -> Result<Position, WriteError> {
        self.reserve(packet.len())?.copy_from_slice(packet);
        self.commit(meta, 0..packet.len())
    }

    /// Wakes readers that sleep. Once per batch: it is a system call.
    pub fn flush(&self) {
        let control = self.control();
        control.wake.fetch_add(1, Ordering::Release);
        futex::wake_all(&control.wake);
    }

    /// The records that tell of fences and that earlier writers have left: flags and packet of each, oldest first. Once, and what is
    /// overwritten by then is missing.
    pub fn take_fences(&mut self) -> impl Iterator<Item = (Flags, &[u8])> {
        let fences = std::mem::take(&mut self.fences).into_iter();
        fences.filter_map(|position| self.record_at(position))
    }

    fn record_at(&self, position: u64) -> Option<(Flags, &[u8])> {
        let header = self.header_at(position).ok().filter(|_| position >= self.oldest)?;
        let start = self.offset(position) + header.payload_offset as usize;
        let packet = self.map.get(start..start + header.payload_bytes as usize)?;
        Some((Flags::from_bits(header.flags), packet))
    }

    /// How full the ring is.
    pub fn usage(&self) -> Usage {
        let header = self.header_at(self.oldest).ok().filter(|_| self.oldest < self.state.end);
        Usage {
            ring_bytes: self.ring_bytes,
            used_bytes: self.state.end - self.oldest,
            oldest_time_ns: header.map(|header| header.time_ns),
            payload_bytes: self.state.payload_bytes,
        }
    }

    /// The readers that want to be seen.
    pub fn readers(&self) -> Vec<SeenReader> {
        readers::seen(&self.file, self.state.end)
    }

    /// Which writer of this file this is, from 1.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Number of the last committed record, 0: none.
    pub fn last_number(&self) -> u64 {
        self.state.number
    }
}
