//! The segment log's reader, and the writer that takes over, on damaged files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use segment_log::layout::{
    FILE_HEADER_BYTES, FileHeader, HEADER_BYTES, PAGE, RECORD_HEADER_BYTES, RecordHeader,
};
use segment_log::{ReadError, Reader, RecordMeta, Writer};

use crate::Input;

const RING: u64 = 2 * PAGE;

/// A file of one's own that is gone afterwards.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/dev/shm/resplice-fuzz-{}-{number}", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let file = File::new();
    let written = write(&file.0, &mut input);
    #[allow(clippy::disallowed_methods, reason = "the damage is done to a real file")]
    let intact = std::fs::read(&file.0).expect("the log");
    let damaged = damage(intact.clone(), &mut input);
    #[allow(clippy::disallowed_methods, reason = "the damage is done to a real file")]
    std::fs::write(&file.0, &damaged).expect("shared memory");
    let read = read(&file.0);
    if damaged == intact {
        assert_eq!(read.last(), written.last(), "an intact log is read to its end");
        assert_eq!(Some(&read[..]), written.get(written.len() - read.len()..));
    }
    take_over(&file.0);
}

/// Writes a few records; gives their payloads.
fn write(path: &Path, input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut writer = Writer::open(path, RING).expect("a new log");
    let payloads = (0..input.choose(24)).map(|number| vec![number; usize::from(input.byte()) * 5]);
    let payloads: Vec<Vec<u8>> = payloads.collect();
    for payload in &payloads {
        writer.append(RecordMeta::default(), payload).expect("it fits");
    }
    payloads
}

/// Changes bytes, headers (with a right checksum) and the length.
fn damage(mut file: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        match input.choose(5) {
            0 => put(&mut file, usize::from(input.short()), input.blob()),
            // The control block: what is committed, what is intact.
            1 => put(&mut file, 256 + usize::from(input.choose(64)), input.blob()),
            2 => put(&mut file, 0, &file_header(input)),
            3 => {
                let at = HEADER_BYTES as usize + usize::from(input.byte()) * 64;
                put(&mut file, at, &record_header(input, (at as u64 - HEADER_BYTES) % RING));
            }
            _ => file.resize(usize::from(input.short()), 0),
        }
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in file.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn file_header(input: &mut Input<'_>) -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    put(&mut bytes, 0, input.bytes(FILE_HEADER_BYTES));
    let given = FileHeader::from_bytes(bytes);
    let header = FileHeader {
        magic: segment_log::layout::MAGIC,
        version: segment_log::layout::VERSION,
        header_bytes: HEADER_BYTES as u32,
        ..given
    };
    header.sealed().to_bytes()
}

fn record_header(input: &mut Input<'_>, position: u64) -> [u8; RECORD_HEADER_BYTES] {
    let laps = u64::from(input.choose(3));
    let header = RecordHeader {
        position: position + laps * RING,
        number: u64::from(input.byte()),
        time_ns: input.long(),
        hold: 0,
        payload_before: u64::from(input.short()),
        total_bytes: u32::from(input.short()),
        payload_offset: u32::from(input.byte()),
        payload_bytes: u32::from(input.short()),
        epoch: input.word(),
        flags: input.short(),
        kind: u16::from(input.choose(4)),
        check: 0,
    };
    header.sealed().to_bytes()
}

/// Reads to the end or the first damage; gives the payloads.
fn read(path: &Path) -> Vec<Vec<u8>> {
    let Ok(mut reader) = Reader::open(path) else { return Vec::new() };
    let _ = reader.stats();
    let mut payloads = Vec::new();
    // Each call moves on by a record or ends: more than fit can only be a loop.
    for _ in 0..=2 * RING / 64 {
        match reader.next() {
            Ok(Some(record)) => payloads.push(record.payload().to_vec()),
            Err(ReadError::Lapped { .. }) => {}
            Ok(None) | Err(_) => return payloads,
        }
    }
    panic!("the reader goes on for ever");
}

/// The next writer refuses the file, or makes it one whose new record is read.
fn take_over(path: &Path) {
    let Ok(mut writer) = Writer::open(path, RING) else { return };
    writer.append(RecordMeta::default(), b"the next writer's").expect("room in a ring");
    assert_eq!(read(path).last().map(Vec::as_slice), Some(&b"the next writer's"[..]));
}
