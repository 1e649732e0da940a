//! Any order of writing, reading, lapping and restarting, against a list of everything ever written.

#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use common::LogPath;
use proptest::prelude::*;
use segment_log::layout::LEFT_OUT_BYTES;
use segment_log::{Flags, LeftOut, Position, ReadError, Reader, RecordMeta, Slots, Writer};

const RING: u64 = 8192;

#[derive(Debug, Clone)]
enum Step {
    Write {
        before: usize,
        length: usize,
        after: usize,
    },
    /// Into slots of `max` bytes: before the payload, its length (`None`: the slot is passed over).
    WriteSlots {
        max: usize,
        fill: Vec<(usize, Option<usize>)>,
        /// The payload is left out of every record whose number this divides; 0: of none.
        left_out: u64,
    },
    ReserveOnly(usize),
    Read(usize),
    ReadAt(usize),
    RestartWriter,
    ReopenReader,
    ToEnd,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0usize..80, 0usize..1500, 0usize..400).prop_map(|(before, length, after)| Step::Write {
        before,
        length,
        after,
    });
    let slot = (0usize..40, prop::option::weighted(0.8, prop_oneof![0usize..30, 0usize..460]));
    let slots = (524usize..600, prop::collection::vec(slot, 1..9), 0u64..3)
        .prop_map(|(max, fill, left_out)| Step::WriteSlots { max, fill, left_out });
    prop_oneof![
        10 => write,
        8 => slots,
        1 => (0usize..1984).prop_map(Step::ReserveOnly),
        5 => (1usize..12).prop_map(Step::Read),
        3 => (0usize..1000).prop_map(Step::ReadAt),
        1 => Just(Step::RestartWriter),
        1 => Just(Step::ReopenReader),
        1 => Just(Step::ToEnd),
    ]
}

fn payload_of(number: u64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 31 + at as u64 * 7) as u8).collect()
}

fn record(number: u64, length: usize) -> (Vec<u8>, RecordMeta) {
    (payload_of(number, length), RecordMeta { time_ns: number * 3, flags: Flags::GSO, hold: number })
}

fn left_out_of(number: u64) -> LeftOut {
    LeftOut { bytes: number as u32 + 1, since: u32::MAX - number as u32, hash: u128::from(number) << 77 | 5 }
}

struct Written {
    payload: Vec<u8>,
    left_out: Option<LeftOut>,
    meta: RecordMeta,
    epoch: u32,
    position: Position,
}

impl Written {
    fn logged_meta(&self) -> RecordMeta {
        let flags = self.meta.flags.with(Flags::PAYLOAD_LEFT_OUT, self.left_out.is_some());
        RecordMeta { flags, ..self.meta }
    }

    fn logged_bytes(&self) -> u64 {
        let said = if self.left_out.is_some() { LEFT_OUT_BYTES } else { 0 };
        (self.payload.len() + said) as u64
    }

    /// As [`Reader::read_at`] gives it.
    fn readable(&self) -> Option<&Vec<u8>> {
        Some(&self.payload).filter(|_| self.left_out.is_none())
    }
}

struct System {
    path: LogPath,
    writer: Option<Writer>,
    reader: Reader,
    written: Vec<Written>,
    /// Index of the record that the reader has to give next.
    next: usize,
}

impl System {
    fn new() -> Self {
        let path = LogPath::new();
        let writer = Some(Writer::open(&path, RING).unwrap());
        let reader = Reader::open(&path).unwrap();
        Self { path, writer, reader, written: Vec::new(), next: 0 }
    }

    fn write_slots(&mut self, max: usize, fill: &[(usize, Option<usize>)], left_out: u64) {
        let writer = self.writer.as_mut().unwrap();
        let Slots { memory, stride, length } = writer.reserve_slots(fill.len(), max).unwrap();
        let slots = memory.chunks_mut(stride).count();
        assert!((1..=fill.len()).contains(&slots) && length == max);
        let mut number = self.written.len() as u64;
        for (slot, (before, length)) in memory.chunks_mut(stride).zip(fill) {
            slot[..max].fill(0xdd);
            let Some(length) = *length else { continue };
            slot[*before..before + length].copy_from_slice(&payload_of(number, length));
            number += 1;
        }
        for (slot, (before, length)) in fill.iter().take(slots).enumerate() {
            let Some(length) = *length else { continue };
            let (payload, meta) = record(self.written.len() as u64, length);
            assert_eq!(writer.slot(slot)[*before..before + length], payload);
            let place = *before..before + length;
            let number = self.written.len() as u64;
            let left_out = (left_out > 0 && number.is_multiple_of(left_out)).then(|| left_out_of(number));
            let position = match left_out {
                Some(left_out) => writer.commit_headers(meta, slot, place, left_out).unwrap(),
                None => writer.commit_slot(meta, slot, place).unwrap(),
            };
            self.written.push(Written { payload, left_out, meta, epoch: writer.epoch(), position });
        }
    }

    fn write(&mut self, before: usize, length: usize, after: usize) {
        let writer = self.writer.as_mut().unwrap();
        let (payload, meta) = record(self.written.len() as u64, length);
        let memory = writer.reserve(before + length + after).unwrap();
        memory[before..before + length].copy_from_slice(&payload);
        let position = writer.commit(meta, before..before + length).unwrap();
        self.written.push(Written { payload, left_out: None, meta, epoch: writer.epoch(), position });
    }

    fn read(&mut self) -> bool {
        match self.reader.next() {
            Ok(None) => {
                assert_eq!(self.next, self.written.len());
                return false;
            }
            Ok(Some(record)) => {
                let expected = &self.written[self.next];
                assert_eq!(record.payload(), expected.payload);
                assert_eq!(record.number(), self.next as u64 + 1);
                assert_eq!(record.position(), expected.position);
                assert_eq!(record.epoch(), expected.epoch);
                let meta =
                    RecordMeta { time_ns: record.time_ns(), flags: record.flags(), hold: record.hold() };
                assert_eq!(meta, expected.logged_meta());
                assert_eq!(record.left_out(), expected.left_out);
                self.next += 1;
            }
            Err(ReadError::Lapped { records, bytes }) => {
                let lost = &self.written[self.next..self.next + records as usize];
                assert_eq!(bytes, lost.iter().map(Written::logged_bytes).sum::<u64>());
                self.next += records as usize;
                assert!(self.next < self.written.len());
            }
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write { before, length, after } => self.write(before, length, after),
            Step::WriteSlots { max, ref fill, left_out } => self.write_slots(max, fill, left_out),
            Step::ReserveOnly(bytes) => self.writer.as_mut().unwrap().reserve(bytes).unwrap().fill(0xee),
            Step::Read(count) => (0..count).for_each(|_| _ = self.read()),
            Step::ReadAt(at) => self.read_at(at),
            Step::RestartWriter => {
                self.writer = None;
                self.writer = Some(Writer::open(&self.path, RING).unwrap());
            }
            Step::ReopenReader => self.reopen(),
            Step::ToEnd => {
                let reader = std::mem::replace(&mut self.reader, Reader::open(&self.path).unwrap());
                self.reader = reader.at_end();
                self.next = self.written.len();
            }
        }
    }

    fn reopen(&mut self) {
        self.reader = Reader::open(&self.path).unwrap();
        let stats = self.reader.stats().unwrap();
        assert_eq!(stats.newest, self.written.len() as u64);
        self.next = stats.oldest.map_or(self.written.len(), |number| number as usize - 1);
        assert_eq!(stats.lag_records, (self.written.len() - self.next) as u64);
    }

    fn read_at(&self, at: usize) {
        let Some(written) = self.written.get(at % self.written.len().max(1)) else { return };
        if let Some(payload) = self.reader.read_at(written.position) {
            assert_eq!(Some(&payload), written.readable());
        }
        // What fills the newest half of the ring is always there.
        let newest = self.written.last().unwrap();
        assert_eq!(self.reader.read_at(newest.position).as_ref(), newest.readable());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_or_known_to_be_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut system = System::new();
        for step in &steps {
            system.apply(step);
        }
        while system.read() {}
        prop_assert_eq!(system.reader.stats().unwrap().lag_records, 0);
    }
}
