//! Files that are not what they should be: refused with a reason, never a panic, a fault or a wrong record.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::Duration;

use common::LogPath;
use proptest::prelude::*;
use segment_log::layout::{CONTROL_OFFSET, FILE_HEADER_BYTES, FileHeader, VERSION};
use segment_log::{ReadError, Reader, RecordMeta, Refusal, Writer};

const RING: u64 = 16 << 10;

/// A log of which the older records are overwritten already.
fn written(path: &LogPath) -> Writer {
    let mut writer = Writer::open(path, RING).unwrap();
    for number in 0..100_u8 {
        writer.append(RecordMeta::default(), &vec![number; usize::from(number) * 7]).unwrap();
    }
    writer
}

fn refusals(path: &LogPath) -> (Refusal, Refusal) {
    (Reader::open(path).unwrap_err().refusal, Writer::open(path, RING).unwrap_err().refusal)
}

/// Overwrites bytes of the file.
fn change(path: &LogPath, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Gives the file's header another version, with the right checksum.
fn set_version(path: &LogPath, version: u32) {
    let mut bytes = [0; FILE_HEADER_BYTES];
    OpenOptions::new().read(true).open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    let header = FileHeader { version, ..FileHeader::from_bytes(bytes) }.sealed();
    change(path, 0, &header.to_bytes());
}

#[test]
fn every_message_names_the_file_what_is_wrong_and_a_remedy() {
    type Damage = fn(&LogPath);
    let cases: [(Damage, &str); 6] = [
        (|path| change(path, 0, &[7; 100]), "not a segment log: name the right file"),
        (
            |path| set_version(path, VERSION - 1),
            "stop its writer, remove it and start the writer of this version",
        ),
        (|path| change(path, 20, &[1]), "corrupt (checksum of the file header); stop its writer, remove it"),
        (
            |path| change(path, CONTROL_OFFSET as u64, &[0xff; 56]),
            "corrupt (alignment of the log); stop its writer, remove it",
        ),
        (
            |path| OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap(),
            "truncated: 5000 bytes instead of 20480; stop",
        ),
        (
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap(),
            "writable by others: somebody else made this file; remove it",
        ),
    ];
    for (damage, remedy) in cases {
        let path = LogPath::new();
        drop(written(&path));
        damage(&path);
        let message = Writer::open(&path, RING).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()) && message.contains(remedy), "{message}");
    }
    let path = LogPath::new();
    let message = Writer::open(&path, 5000).unwrap_err().to_string();
    assert!(message.contains("change ring_bytes"), "{message}");
}

/// Every byte of the newest record's header, and of those that follow it to the end: the writer does not go on from it.
#[test]
fn a_log_whose_records_are_damaged_is_not_written_on() {
    let path = LogPath::new();
    let mut writer = written(&path);
    let newest = writer.append(RecordMeta::default(), b"the last one").unwrap().bytes();
    drop(writer);
    let intact = fs::read(&path).unwrap();
    let header = (4096 + newest % RING) as usize;
    for (at, byte) in intact.iter().enumerate().skip(header).take(64) {
        change(&path, at as u64, &[!byte]);
        let (refusal, mut reader) =
            (Writer::open(&path, RING).unwrap_err().refusal, Reader::open(&path).unwrap());
        assert!(matches!(refusal, Refusal::Corrupt(_)), "byte {}: {refusal}", at - header);
        let end = std::iter::repeat_with(|| reader.next().map(|record| record.is_some()))
            .find(|result| !matches!(result, Ok(true)));
        assert!(matches!(end, Some(Err(ReadError::Corrupt { .. }))), "byte {}: {end:?}", at - header);
        change(&path, at as u64, &[*byte]);
    }
    assert_eq!(Writer::open(&path, RING).unwrap().epoch(), 2);
}

#[test]
fn foreign_files_are_refused() {
    for contents in [vec![0; 1], vec![0; 5000], b"[cluster]\nname = \"x\"\n".repeat(1000)] {
        let path = LogPath::new();
        fs::write(&path, contents).unwrap();
        assert!(matches!(refusals(&path), (Refusal::Foreign, Refusal::Foreign)));
    }
}

#[test]
fn cut_off_and_lengthened_files_are_refused() {
    for length in [0, 40, 48, 100, 4095, 4096, 5000, 4096 + RING - 1] {
        let path = LogPath::new();
        drop(written(&path));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let (reader, writer) = refusals(&path);
        let right = |refusal: &Refusal| matches!(refusal, Refusal::Truncated { .. } | Refusal::Foreign);
        assert!(right(&reader) && right(&writer), "{length}: {reader} {writer}");
    }
    let path = LogPath::new();
    drop(written(&path));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(4096 + RING + 1).unwrap();
    assert!(matches!(refusals(&path), (Refusal::Corrupt(_), Refusal::Corrupt(_))));
}

#[test]
fn other_versions_and_sizes_are_refused() {
    let path = LogPath::new();
    drop(written(&path));
    assert!(matches!(Writer::open(&path, 2 * RING).unwrap_err().refusal, Refusal::OtherSize { .. }));
    for version in [VERSION - 1, VERSION + 1, 0, u32::MAX] {
        set_version(&path, version);
        let right = |refusal: &Refusal| matches!(refusal, Refusal::Version { found, expected } if (*found, *expected) == (version, VERSION));
        let (reader, writer) = refusals(&path);
        assert!(right(&reader) && right(&writer), "{version}: {reader} {writer}");
    }
    // Nothing of it was touched.
    set_version(&path, VERSION);
    assert_eq!(Writer::open(&path, RING).unwrap().epoch(), 2);
}

#[test]
fn a_second_writer_is_refused_and_the_first_goes_on() {
    let path = LogPath::new();
    let mut first = written(&path);
    assert!(matches!(Writer::open(&path, RING).unwrap_err().refusal, Refusal::InUse));
    assert!(Reader::open(&path).unwrap().stats().unwrap().writer_alive);
    first.append(RecordMeta::default(), b"goes on").unwrap();
    drop(first);
    assert!(!Reader::open(&path).unwrap().stats().unwrap().writer_alive);
    assert_eq!(Writer::open(&path, RING).unwrap().epoch(), 2);
}

#[test]
fn what_others_could_have_prepared_is_not_written_to() {
    let path = LogPath::new();
    drop(written(&path));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(Writer::open(&path, RING).unwrap_err().refusal, Refusal::NotOurs(_)));
    let link = LogPath::new();
    symlink(&*path, &*link).unwrap();
    assert!(matches!(refusals(&link), (Refusal::Io { .. }, Refusal::Io { .. })));
    assert!(matches!(Reader::open("/dev/shm").unwrap_err().refusal, Refusal::NotOurs(_)));
}

#[test]
fn a_file_cut_off_under_a_reader_is_an_error() {
    for length in [0, 100, 4096, 10_000] {
        let path = LogPath::new();
        drop(written(&path));
        let mut reader = Reader::open(&path).unwrap();
        let position = reader.next().unwrap().unwrap().position();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert!(reader.read_at(position).is_none());
        assert!(reader.wait(Duration::from_secs(5)), "does not sleep over an error");
        assert!(reader.stats().is_err());
        let error = std::iter::repeat_with(|| reader.next().err()).take(200).flatten().next().unwrap();
        assert!(matches!(error, ReadError::Truncated { have } if have == length), "{error}");
    }
}

/// Reads whatever there is; returns how many records were read.
fn read_all(path: &LogPath) -> usize {
    let Ok(mut reader) = Reader::open(path) else { return 0 };
    let _ = reader.stats();
    let mut records = 0;
    for _ in 0..1000 {
        match reader.next() {
            Ok(Some(record)) => {
                records += 1;
                let (position, bytes) = (record.position(), record.payload().to_vec());
                assert!(reader.read_at(position).is_none_or(|again| again == bytes));
            }
            Err(ReadError::Lapped { .. }) => {}
            Ok(None) | Err(_) => return records,
        }
    }
    panic!("the reader goes on for ever");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((0..4096 + RING, any::<u8>()), 1..20),
        control in prop::collection::vec((0..64_u64, any::<u8>()), 0..4),
    ) {
        let path = LogPath::new();
        drop(written(&path));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, value) in changes {
            file.write_all_at(&[value], at).unwrap();
        }
        for (at, value) in control {
            file.write_all_at(&[value], CONTROL_OFFSET as u64 + at).unwrap();
        }
        read_all(&path);
        if let Ok(mut writer) = Writer::open(&path, RING) {
            for _ in 0..50 {
                if writer.append(RecordMeta::default(), &[1; 500]).is_err() { break }
            }
        }
        read_all(&path);
    }

    #[test]
    fn a_log_changed_under_reader_and_writer_never_panics(
        changes in prop::collection::vec((48..4096 + RING, any::<u64>()), 1..20),
    ) {
        let path = LogPath::new();
        let mut writer = written(&path);
        let mut reader = Reader::open(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, value) in changes {
            file.write_all_at(&value.to_ne_bytes(), at.min(4088 + RING) & !7).unwrap();
            let _ = reader.next();
            let _ = writer.append(RecordMeta::default(), &[1; 300]);
            let _ = reader.stats();
        }
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        let path = LogPath::new();
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(read_all(&path), 0);
        prop_assert!(Writer::open(&path, RING).is_err());
    }
}
