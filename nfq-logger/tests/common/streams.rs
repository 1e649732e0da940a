//! What a connection carried, put together from the log, and compared with what its ends sent and received.

#![allow(clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::{Reassembly, TcpSegment};
use segment_log::{Flags, Reader};

/// Byte `at` of the stream with `seed`.
pub(crate) fn byte(seed: u64, at: u64) -> u8 {
    let value = (at / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed);
    ((value ^ (value >> 29)) >> (8 * (at % 8))) as u8
}

pub(crate) fn bytes(seed: u64, from: u64, length: u64) -> Vec<u8> {
    (from..from + length).map(|at| byte(seed, at)).collect()
}

pub(crate) fn send(mut stream: &TcpStream, seed: u64, length: u64) {
    for from in (0..length).step_by(1 << 16) {
        stream.write_all(&bytes(seed, from, (length - from).min(1 << 16))).unwrap();
    }
}

/// Receives `length` bytes, checking each; counts them in `received`.
pub(crate) fn receive(mut stream: &TcpStream, seed: u64, length: u64, received: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < length {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "ended after {at} bytes");
        assert!(buffer[..count] == bytes(seed, at, count as u64)[..], "wrong bytes received at {at}");
        at += count as u64;
        received.store(at, Ordering::SeqCst);
    }
}

/// One direction as logged.
struct Direction {
    /// `None`: the bytes are not checked.
    seed: Option<u64>,
    reassembly: Option<Reassembly>,
    length: u64,
}

impl Direction {
    fn push(&mut self, segment: &TcpSegment<'_>) {
        if segment.flags().syn() {
            self.reassembly.get_or_insert(Reassembly::new(segment.seq() + 1, 64 << 20));
        }
        let (seed, length) = (self.seed, &mut self.length);
        let reassembly = self.reassembly.as_mut().expect("the SYN is logged first");
        let pushed = reassembly.push(segment.seq(), segment.payload(), &mut |piece| {
            let expected = seed.map(|seed| bytes(seed, *length, piece.len() as u64));
            assert!(expected.is_none_or(|expected| expected == piece), "wrong bytes logged at {length}");
            *length += piece.len() as u64;
        });
        assert!(!pushed.conflict && pushed.refused == 0);
    }
}

/// Reads a log in which there is one connection.
pub(crate) struct LoggedStreams {
    reader: Reader,
    directions: [Direction; 2],
    pub(crate) held: Vec<u64>,
    pub(crate) gso: u64,
    pub(crate) epoch: u32,
}

impl LoggedStreams {
    pub(crate) fn open(log: &Path, up_seed: u64, down_seed: u64) -> Self {
        Self::new(log, [Some(up_seed), Some(down_seed)])
    }

    /// Whatever the connection carries.
    pub(crate) fn open_unchecked(log: &Path) -> Self {
        Self::new(log, [None, None])
    }

    fn new(log: &Path, seeds: [Option<u64>; 2]) -> Self {
        let direction = |seed| Direction { seed, reassembly: None, length: 0 };
        Self {
            reader: Reader::open(log).unwrap(),
            directions: seeds.map(direction),
            held: Vec::new(),
            gso: 0,
            epoch: 0,
        }
    }

    /// All that is logged now. Gives the contiguous bytes up (to the server) and down.
    pub(crate) fn read(&mut self) -> (u64, u64) {
        while let Some(record) = self.reader.next().unwrap() {
            let segment = TcpSegment::parse(record.payload()).unwrap();
            let down = record.flags().contains(Flags::FROM_BACKEND);
            assert_eq!(down, segment.source().port() == 80);
            self.directions[usize::from(down)].push(&segment);
            self.held.extend(Some(record.hold()).filter(|hold| *hold != 0));
            self.gso += u64::from(record.flags().contains(Flags::GSO));
            self.epoch = record.epoch();
        }
        (self.directions[0].length, self.directions[1].length)
    }
}
