//! A new file, or one that an earlier writer left.

#![allow(clippy::disallowed_methods, reason = "this crate is a shell: it owns the file and its clock")]

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use memmap2::MmapOptions;

use crate::layout::{ALIGN, Committed, FileHeader, HEADER_BYTES, MAGIC, VERSION};
use crate::os::{self, failed};
use crate::{Flags, OpenError, Refusal};

use super::Writer;
use super::places::Places;

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
        let (ring_bytes, places) = (header.ring_bytes, Places::new(header.ring_bytes));
        let fences = Vec::new();
        Ok(Self { map, ring_bytes, epoch: 0, state, oldest, places, fences, reserved: None, file })
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
            self.places.note(position);
            if Flags::from_bits(header.flags).tells_of_fence() {
                self.fences.push(position);
            }
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
