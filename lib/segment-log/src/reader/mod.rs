//! Those who read.

#![allow(clippy::disallowed_methods, reason = "this crate is a shell: it owns the file and waits")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapOptions};

use crate::layout::{CONTROL_OFFSET, Control, FileHeader, HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use crate::os::{self, failed};
use crate::readers::{self, Presence, SeenReader};
use crate::writer::check_bounds;
use crate::{OpenError, Position, ReadError, Record, Refusal, futex};

mod ahead;

/// Reads a segment log from its oldest record on, without disturbing the writer.
///
/// The ring is read with `pread`, never through a mapping: a copy is needed anyway (the writer may overwrite the ring at
/// any moment), and a file that somebody cuts off gives a short read instead of a fault. Only the header page is mapped,
/// for the atomics and the futex; each access is preceded by a look at the file's size. Who could cut off the file in the
/// nanoseconds between the two is the user that owns it, who may kill the reader's logger as well.
#[derive(Debug)]
pub struct Reader {
    file: File,
    header: FileHeader,
    page: Mmap,
    buffer: Vec<u8>,
    /// Where in `buffer` the next record begins.
    read: usize,
    /// Position of the next record.
    position: u64,
    /// Number of the next record, and payload bytes before it.
    expected: (u64, u64),
    /// If it wants to be seen.
    presence: Option<Presence>,
}

/// How a log and its reader are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Of which readable.
    pub used_bytes: u64,
    /// Different in every file.
    pub generation: u64,
    /// How many writers the file has had.
    pub epoch: u32,
    /// A writer has the file open.
    pub writer_alive: bool,
    /// Number of the oldest readable record, if any.
    pub oldest: Option<u64>,
    /// When that was logged, monotonic nanoseconds.
    pub oldest_time_ns: Option<u64>,
    /// Number of the newest record; 0: none.
    pub newest: u64,
    /// Payload bytes logged since the file was created.
    pub payload_bytes: u64,
    /// Ring bytes between this reader and the writer.
    pub lag_bytes: u64,
    /// Records between this reader and the writer.
    pub lag_records: u64,
}

impl Reader {
    /// Opens the log at its oldest record. Refuses with a reason what is foreign, truncated, corrupt or of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        Self::open_file(path).map_err(|refusal| OpenError { path: path.to_owned(), refusal })
    }

    fn open_file(path: &Path) -> Result<Self, Refusal> {
        let file = os::open(path, false).map_err(failed("open it"))?;
        let header = os::read_header(&file)?;
        // SAFETY: the file was just found to be larger; the type's documentation says who could change that and when it
        // is looked at again. The mapping is only used as `Control`, that is atomics.
        #[allow(unsafe_code)]
        let page =
            unsafe { MmapOptions::new().len(HEADER_BYTES as usize).map(&file) }.map_err(failed("map it"))?;
        let (buffer, expected) = (Vec::new(), (1, 0));
        let reader = Self { file, header, page, buffer, read: 0, position: 0, expected, presence: None };
        let (oldest, state) = (reader.control().intact_from(), reader.control().committed());
        // How far apart they are is not checked: the writer may move on between the two loads.
        check_bounds(state, oldest, u64::MAX).map_err(Refusal::Corrupt)?;
        Ok(reader.at_start())
    }

    fn control(&self) -> &Control {
        // SAFETY: the mapping has the header page's size (`open_file`), is page-aligned so that CONTROL_OFFSET is aligned
        // for Control, and Control consists of atomics only, for which every bit pattern is valid.
        #[allow(unsafe_code, clippy::cast_ptr_alignment)]
        unsafe {
            &*self.page.as_ptr().add(CONTROL_OFFSET).cast::<Control>()
        }
    }

    /// From the oldest record on, where a reader begins.
    pub fn at_start(mut self) -> Self {
        loop {
            let oldest = self.control().intact_from();
            match self.header_at(oldest) {
                Ok(Some(header)) => return self.go_to(oldest, (header.number, header.payload_before)),
                Ok(None) if self.control().committed().end <= oldest => return self.at_end(),
                Ok(None) => {}
                Err(_) => {
                    // `next` will say what is wrong.
                    self.position = oldest;
                    return self;
                }
            }
        }
    }

    /// Only what is logged from now on.
    pub fn at_end(self) -> Self {
        let state = self.control().committed();
        self.go_to(state.end, (state.number.wrapping_add(1), state.payload_bytes))
    }

    fn go_to(mut self, position: u64, expected: (u64, u64)) -> Self {
        self.buffer.clear();
        (self.read, self.position, self.expected) = (0, position, expected);
        self
    }

    /// To be listed with its lag by the writer and by [`readers`](Self::readers), as long as it lives.
    pub fn announced(mut self) -> io::Result<Self> {
        let mut presence = Presence::new();
        presence.show(&self.file, self.position)?;
        self.presence = Some(presence);
        Ok(self)
    }

    /// The announced readers, but for this one.
    pub fn readers(&self) -> Vec<SeenReader> {
        readers::seen(&self.file, self.control().committed().end)
    }

    fn show(&mut self) -> Result<(), ReadError> {
        match &mut self.presence {
            Some(presence) => Ok(presence.show(&self.file, self.position)?),
            None => Ok(()),
        }
    }

    /// The next record; `None`: all is read.
    ///
    /// After [`ReadError::Lapped`] the next call gives the oldest record that is left. After the other errors this
    /// reader is of no more use.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let Some(header) = self.next_header()? else { return Ok(None) };
        self.account(&header)?;
        let start = self.read + header.payload_offset as usize;
        self.read += header.total_bytes as usize;
        self.position += u64::from(header.total_bytes);
        let payload = self.buffer.get(start..start + header.payload_bytes as usize);
        Ok(Some(Record::new(header, payload.ok_or_else(|| corrupt(header.position, "payload"))?)))
    }

    /// A copy of the packet at `position`; `None` if it is overwritten, was logged without its payload (or the file is no longer
    /// readable).
    pub fn read_at(&self, position: Position) -> Option<Vec<u8>> {
        let header =
            self.header_at(position.0).ok()?.filter(|header| !header.is_pad() && !header.leaves_out())?;
        let mut packet = vec![0; header.payload_bytes as usize];
        let offset = position.0 % self.header.ring_bytes + u64::from(header.payload_offset);
        self.file.read_exact_at(&mut packet, HEADER_BYTES + offset).ok()?;
        (self.control().intact_from() <= position.0).then_some(packet)
    }

    /// The header at a position that was valid once.
    fn header_at(&self, position: u64) -> Result<Option<RecordHeader>, ReadError> {
        let state = self.look()?;
        let offset = position % self.header.ring_bytes;
        if position >= state.end || self.control().intact_from() > position {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, HEADER_BYTES + offset)?;
        if self.control().intact_from() > position {
            return Ok(None);
        }
        let room = (state.end - position).min(self.header.ring_bytes - offset);
        RecordHeader::from_bytes(bytes, position, room).map(Some).map_err(|reason| corrupt(position, reason))
    }

    /// Sleeps until there is something to read, at most `timeout`; returns whether there is (a record or an error).
    /// Records wake sleepers when the writer flushes.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let Ok(_) = self.look() else { return true };
            let word = &self.control().wake;
            let seen = word.load(Ordering::Acquire);
            if self.control().committed().end != self.position {
                return true;
            }
            let left =
                deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            futex::wait(word, seen, left);
        }
    }

    /// How the log and this reader are.
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let state = self.look()?;
        let oldest = self.control().intact_from();
        let header = self.header_at(oldest)?;
        Ok(Stats {
            ring_bytes: self.header.ring_bytes,
            used_bytes: state.end.saturating_sub(oldest),
            generation: self.header.generation,
            epoch: self.control().epoch.load(Ordering::Relaxed),
            writer_alive: os::is_locked(&self.file),
            oldest: header.map(|header| header.number),
            oldest_time_ns: header.map(|header| header.time_ns),
            newest: state.number,
            payload_bytes: state.payload_bytes,
            lag_bytes: state.end - self.position,
            lag_records: (state.number + 1).saturating_sub(self.expected.0),
        })
    }

    /// Unix time in nanoseconds of a record's monotonic time.
    pub fn realtime_ns(&self, time_ns: u64) -> u64 {
        self.header.realtime_base_ns.saturating_add(time_ns)
    }
}

fn corrupt(position: u64, reason: &'static str) -> ReadError {
    ReadError::Corrupt { position, reason }
}
