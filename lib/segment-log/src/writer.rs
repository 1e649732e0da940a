//! The one who writes.

#![allow(clippy::disallowed_methods, reason = "this crate is a shell: it owns the file and its clock")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use memmap2::{MmapMut, MmapOptions};

use crate::layout::{
    ALIGN, CONTROL_OFFSET, Committed, Control, FileHeader, HEADER_BYTES, Kind, LEFT_OUT_BYTES, MAGIC,
    RECORD_HEADER_BYTES, RecordHeader, VERSION,
};
use crate::os::{self, failed};
use crate::readers::{self, SeenReader};
use crate::{Flags, LeftOut, OpenError, Position, RecordMeta, Refusal, WriteError, futex};

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
    reserved: Option<Reservation>,
    // Holds the lock.
    file: File,
}

/// Contiguous slots, each with room for a record header and a message.
#[derive(Debug, Clone, Copy)]
struct Reservation {
    start: u64,
    /// Bytes of the message in each.
    bytes: usize,
    slots: usize,
    /// The first that was not committed or passed over.
    next: usize,
    /// Ring bytes of the records committed here, and of the gaps that were left between them.
    used: u64,
    wasted: u64,
}

impl Reservation {
    fn position(&self, slot: usize) -> u64 {
        self.start + slot as u64 * slot_bytes(self.bytes)
    }
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
    /// Creates the log with a ring of `ring_bytes` (a multiple of 4096), permissions 0640, or attaches to the intact
    /// one that an earlier writer left: its records stay readable and numbers go on.
    ///
    /// Refuses a file that is foreign, of another version or size, corrupt, not this user's, or has a writer.
    pub fn open(path: impl AsRef<Path>, ring_bytes: u64) -> Result<Self, OpenError> {
        let path = path.as_ref();
        Self::create_or_attach(path, ring_bytes)
            .map_err(|refusal| OpenError { path: path.to_owned(), refusal })
    }

    fn create_or_attach(path: &Path, ring_bytes: u64) -> Result<Self, Refusal> {
        os::check_ring_bytes(ring_bytes)?;
        match os::open(path, true) {
            Ok(file) => Self::attach(file, ring_bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path, ring_bytes),
            Err(error) => Err(failed("open it")(error)),
        }
    }

    fn create(path: &Path, ring_bytes: u64) -> Result<Self, Refusal> {
        let header = new_header(ring_bytes);
        let file = os::create_unnamed(path, &header)?;
        let writer = Self::map(file, &header)?.begin_epoch();
        match os::name(&writer.file, path) {
            Ok(()) => Ok(writer),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Refusal::InUse),
            Err(error) => Err(failed("name it")(error)),
        }
    }

    fn attach(file: File, ring_bytes: u64) -> Result<Self, Refusal> {
        os::check_owner(&file.metadata().map_err(failed("examine it"))?)?;
        let header = os::read_header(&file)?;
        os::lock(&file)?;
        if header.ring_bytes != ring_bytes {
            return Err(Refusal::OtherSize { found: header.ring_bytes, wanted: ring_bytes });
        }
        let mut writer = Self::map(file, &header)?;
        writer.take_over().map_err(Refusal::Corrupt)?;
        Ok(writer.begin_epoch())
    }

    fn map(file: File, header: &FileHeader) -> Result<Self, Refusal> {
        let bytes = (HEADER_BYTES + header.ring_bytes) as usize;
        // SAFETY: the file has this size and all its memory. Who could cut it off is its owner, that is this user; then
        // the next access is a fault that ends this process, and no packet passes: see the crate's documentation.
        #[allow(unsafe_code)]
        let map =
            unsafe { MmapOptions::new().len(bytes).populate().map_mut(&file) }.map_err(failed("map it"))?;
        let (state, oldest) = (Committed::default(), 0);
        Ok(Self { map, ring_bytes: header.ring_bytes, epoch: 0, state, oldest, reserved: None, file })
    }

    fn control(&self) -> &Control {
        // SAFETY: the mapping is larger than the header page (`map`), page-aligned so that CONTROL_OFFSET is aligned for
        // Control, and Control consists of atomics only, for which every bit pattern is valid.
        #[allow(unsafe_code, clippy::cast_ptr_alignment)]
        unsafe {
            &*self.map.as_ptr().add(CONTROL_OFFSET).cast::<Control>()
        }
    }

    /// Adopts what an earlier writer committed, after walking along all of it.
    fn take_over(&mut self) -> Result<(), &'static str> {
        self.state = self.control().committed();
        self.oldest = self.control().oldest.load(Ordering::Relaxed);
        check_bounds(self.state, self.oldest, self.ring_bytes)?;
        let mut expected = None;
        let mut position = self.oldest;
        while position < self.state.end {
            let header = self.header_at(position)?;
            let next = (header.number, header.payload_before);
            if expected.is_some_and(|expected| expected != next) {
                return Err("numbers of the records");
            }
            let segments = u64::from(!header.is_pad());
            expected =
                Some((next.0.wrapping_add(segments), next.1.wrapping_add(u64::from(header.payload_bytes))));
            position += u64::from(header.total_bytes);
        }
        match expected {
            Some(next) if next != (self.state.number + 1, self.state.payload_bytes) => {
                Err("number of records")
            }
            None if self.state != Committed::default() => Err("no records"),
            _ => Ok(()),
        }
    }

    fn begin_epoch(mut self) -> Self {
        self.epoch = self.control().epoch.fetch_add(1, Ordering::Release).wrapping_add(1);
        self.flush();
        self
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
        self.make_room((start + slots * stride).saturating_sub(self.ring_bytes))?;
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

    /// Gives up whole records until nothing before `frontier` is promised to readers.
    fn make_room(&mut self, frontier: u64) -> Result<(), WriteError> {
        if self.oldest >= frontier {
            return Ok(());
        }
        let mut oldest = self.oldest;
        while oldest < frontier {
            oldest += u64::from(self.header_at(oldest).map_err(|_| WriteError::Corrupt)?.total_bytes);
        }
        self.oldest = oldest;
        self.control().give_up(oldest);
        Ok(())
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

/// Ring bytes of a record whose message has `bytes`.
fn slot_bytes(bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + bytes).next_multiple_of(ALIGN as usize) as u64
}

/// What any state of a sound log fulfils.
pub(crate) fn check_bounds(state: Committed, oldest: u64, ring_bytes: u64) -> Result<(), &'static str> {
    if oldest > state.end || state.end - oldest > ring_bytes {
        Err("bounds of the log")
    } else if !oldest.is_multiple_of(ALIGN) || !state.end.is_multiple_of(ALIGN) {
        Err("alignment of the log")
    } else if [state.end, state.number, state.payload_bytes].iter().any(|count| *count > u64::MAX / 2) {
        Err("counts of the log")
    } else {
        Ok(())
    }
}

fn new_header(ring_bytes: u64) -> FileHeader {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let header = FileHeader {
        magic: MAGIC,
        version: VERSION,
        header_bytes: HEADER_BYTES as u32,
        ring_bytes,
        generation: now,
        realtime_base_ns: now.saturating_sub(monotonic_ns()),
        check: 0,
    };
    header.sealed()
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the call.
    #[allow(unsafe_code)]
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
    }
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
