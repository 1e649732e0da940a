//! The segment log: what its one writer has committed survives the writer, and wraps around.

use std::collections::VecDeque;

use packet::{TcpSegment, Time};
use segment_log::{Flags, LeftOut};
use transactionalizer::spans::{LogBytes, Record};

/// One committed segment.
#[derive(Debug, Clone)]
pub struct Entry {
    pub number: u64,
    /// Which writer wrote it.
    pub writer: u32,
    pub time: Time,
    /// The number under which the logger holds it.
    pub hold: Option<u64>,
    pub flags: Flags,
    pub packet: Vec<u8>,
    /// Of the packet only the headers are here.
    pub left_out: Option<LeftOut>,
}

/// The ring. It outlives every daemon.
#[derive(Debug)]
pub struct SegmentLog {
    entries: VecDeque<Entry>,
    bytes: usize,
    ring_bytes: usize,
    newest: u64,
}

impl SegmentLog {
    pub fn new(ring_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, ring_bytes, newest: 0 }
    }

    /// Number of the last record; 0: none.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Number of the first record that is not overwritten.
    pub fn oldest(&self) -> u64 {
        self.newest + 1 - self.entries.len() as u64
    }

    /// Commits a record; its number is given here.
    pub fn append(&mut self, entry: Entry) {
        self.newest += 1;
        self.bytes += entry.packet.len();
        self.entries.push_back(Entry { number: self.newest, ..entry });
        while self.bytes > self.ring_bytes {
            let Some(overwritten) = self.entries.pop_front() else { break };
            self.bytes -= overwritten.packet.len();
        }
    }

    /// The records that tell of fences, oldest first.
    pub fn fences(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.flags.tells_of_fence())
    }

    /// The record of this number, unless it is overwritten or not written.
    pub fn get(&self, number: u64) -> Option<&Entry> {
        let place = number.checked_sub(self.oldest())?;
        self.entries.get(usize::try_from(place).ok()?)
    }
}

impl LogBytes for SegmentLog {
    fn read(&self, record: Record, skip: usize, length: usize, into: &mut Vec<u8>) -> Option<()> {
        let payload = TcpSegment::parse(&self.get(record.number)?.packet).ok()?.payload();
        into.extend_from_slice(payload.get(skip..skip.checked_add(length)?)?);
        Some(())
    }
}
