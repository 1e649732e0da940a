//! One writer and one reader in one process: what is written is read, and stays found.

mod common;

use std::time::Duration;

use common::LogPath;
use segment_log::{Flags, ReadError, Reader, RecordMeta, WriteError, Writer};

#[test]
fn a_record_is_read_as_it_was_written() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, 1 << 16).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    assert!(reader.next().unwrap().is_none());
    let meta = RecordMeta { time_ns: 7, flags: Flags::HELD | Flags::FROM_BACKEND, hold: 9 };
    let at = writer.append(meta, b"packet").unwrap();
    writer.reserve(100).unwrap()[20..25].copy_from_slice(b"inner");
    writer.commit(RecordMeta::default(), 20..25).unwrap();

    let record = reader.next().unwrap().unwrap();
    assert_eq!(record.payload(), b"packet");
    assert_eq!((record.number(), record.time_ns(), record.hold(), record.epoch()), (1, 7, 9, 1));
    assert_eq!(record.flags(), Flags::HELD | Flags::FROM_BACKEND);
    assert_eq!(record.position(), at);
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"inner");
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.read_at(at).unwrap(), b"packet");
    drop(path);
    assert!(matches!(reader.next(), Err(ReadError::Replaced)));
}

#[test]
fn a_lapped_reader_knows_its_exact_loss() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, 1 << 14).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let first = writer.append(RecordMeta::default(), &[1; 1000]).unwrap();
    for n in 0..200 {
        writer.append(RecordMeta::default(), &vec![2; n]).unwrap();
    }
    let Err(ReadError::Lapped { records, bytes }) = reader.next() else { panic!("not lapped") };
    let record = reader.next().unwrap().unwrap();
    assert_eq!(record.number(), 1 + records);
    let lost: u64 = (0..records - 1).sum::<u64>() + 1000;
    assert_eq!(bytes, lost);
    assert_eq!(record.payload().len() as u64, records - 1);
    assert!(reader.read_at(first).is_none());
}

#[test]
fn a_reader_at_the_end_sees_only_what_is_new() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, 1 << 16).unwrap();
    writer.append(RecordMeta::default(), b"old").unwrap();
    let mut reader = Reader::open(&path).unwrap().at_end();
    assert!(!reader.wait(Duration::ZERO));
    writer.append(RecordMeta::default(), b"new").unwrap();
    assert!(reader.wait(Duration::ZERO));
    assert_eq!(reader.stats().unwrap().lag_records, 1);
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"new");
    let mut reader = reader.at_start();
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"old");
}

#[test]
fn only_reserved_memory_is_committed() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, 1 << 14).unwrap();
    assert!(matches!(writer.reserve(1 << 13), Err(WriteError::TooLarge { limit: 4032, .. })));
    assert_eq!(writer.commit(RecordMeta::default(), 0..1), Err(WriteError::NotReserved));
    writer.reserve(10).unwrap();
    assert_eq!(writer.commit(RecordMeta::default(), 5..11), Err(WriteError::NotReserved));
}

/// Also by a writer who found them, and did not write them.
#[test]
fn old_records_give_way_only_as_far_as_room_is_needed() {
    let (path, ring) = (LogPath::new(), 1 << 20);
    let fill = |count: usize| {
        let mut writer = Writer::open(&path, ring).unwrap();
        let used = |writer: &mut Writer| {
            writer.append(RecordMeta::default(), &[1; 100]).unwrap();
            writer.usage().used_bytes
        };
        (0..count).map(|_| used(&mut writer)).min().unwrap()
    };
    fill(30_000);
    for _ in 0..3 {
        let least = fill(20_000);
        assert!(least > ring - 2000, "{least} of {ring} bytes");
    }
}

/// In the order in which they were written, with everything else left out; overwritten ones are gone.
#[test]
fn the_next_writer_gets_what_is_left_of_the_fences() {
    let path = LogPath::new();
    let open = || Writer::open(&path, 1 << 14).unwrap();
    let fences = |writer: &mut Writer| -> Vec<(Flags, Vec<u8>)> {
        writer.take_fences().map(|(flags, packet)| (flags, packet.to_vec())).collect()
    };
    let write = |writer: &mut Writer, flags, packet: &[u8]| {
        writer.append(RecordMeta { flags, ..RecordMeta::default() }, packet).unwrap();
    };
    let mut first = open();
    write(&mut first, Flags::EMPTY, b"plain");
    write(&mut first, Flags::FENCED, b"one");
    write(&mut first, Flags::SWALLOWED, &[1; 3000]);
    write(&mut first, Flags::UNFENCED | Flags::RETRANSMISSION, b"two");
    assert_eq!(fences(&mut first), []);
    drop(first);
    let left = [(Flags::FENCED, b"one".to_vec()), (Flags::UNFENCED | Flags::RETRANSMISSION, b"two".to_vec())];
    let mut second = open();
    assert_eq!(fences(&mut second), left);
    assert_eq!(fences(&mut second), []);
    drop(second);
    let mut third = open();
    for bytes in [4000, 4000, 4000, 700] {
        write(&mut third, Flags::EMPTY, &vec![2; bytes]);
    }
    assert_eq!(fences(&mut third), left[1..]);
    drop(third);
    assert_eq!(fences(&mut open()), left[1..]);
}
