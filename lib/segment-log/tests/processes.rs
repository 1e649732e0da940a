//! A writer in another process, killed at any moment; readers here check every byte and every loss.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{LogPath, length_of, payload_of};
use segment_log::{ReadError, Reader, RecordMeta, Writer};

const RING: u64 = 1 << 20;
const PATH: &str = "SEGMENT_LOG_TEST_PATH";
const PACE: &str = "SEGMENT_LOG_TEST_RECORDS";

/// Not a test by itself: the writer's process. Says the number of each committed record, in batches.
#[test]
fn writer_process() {
    let Ok(path) = std::env::var(PATH) else { return };
    let limit: u64 = std::env::var(PACE).unwrap().parse().unwrap();
    let mut writer = Writer::open(path, RING).unwrap();
    let mut out = std::io::stdout();
    while writer.last_number() < limit {
        for _ in 0..32 {
            let number = writer.last_number() + 1;
            let payload = payload_of(number);
            let memory = writer.reserve(4000).unwrap();
            memory[100..100 + payload.len()].copy_from_slice(&payload);
            writer.commit(RecordMeta::default(), 100..100 + payload.len()).unwrap();
        }
        writer.flush();
        writeln!(out, "committed {}", writer.last_number()).unwrap();
    }
}

fn start_writer(path: &Path, limit: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .env(PACE, limit.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The last number that the writer said to be committed.
fn announced(writer: &mut Child) -> u64 {
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix("committed ")?.parse().ok()).last().unwrap_or(0)
}

struct Check {
    next: u64,
    read: u64,
    lost: u64,
}

impl Check {
    /// Reads all there is; false: nothing.
    fn read(&mut self, reader: &mut Reader) -> bool {
        match reader.next() {
            Ok(None) => return false,
            Ok(Some(record)) => {
                assert_eq!(record.number(), self.next);
                assert_eq!(record.payload(), payload_of(self.next), "record {} is torn", self.next);
                self.next += 1;
                self.read += 1;
            }
            Err(ReadError::Lapped { records, bytes }) => {
                assert_eq!(bytes, (self.next..self.next + records).map(length_of).sum::<u64>());
                self.next += records;
                self.lost += records;
            }
            Err(error) => panic!("{error}"),
        }
        true
    }
}

#[test]
fn no_committed_record_is_lost_or_torn_when_writers_are_killed() {
    let path = LogPath::new();
    drop(Writer::open(&path, RING).unwrap());
    let mut reader = Reader::open(&path).unwrap();
    let mut check = Check { next: 1, read: 0, lost: 0 };
    for round in 0..12_u64 {
        let mut writer = start_writer(&path, u64::MAX);
        let deadline = Instant::now() + Duration::from_millis(20 + round * 7);
        while Instant::now() < deadline {
            if !check.read(&mut reader) {
                reader.wait(Duration::from_millis(5));
            }
        }
        writer.kill().unwrap();
        let announced = announced(&mut writer);
        writer.wait().unwrap();
        while check.read(&mut reader) {}
        assert!(check.next > announced, "{} was committed, {} comes next", announced, check.next);
    }
    assert_eq!(check.read + check.lost + 1, check.next);
    assert!(check.read > 1000, "only {} records read", check.read);
    let epochs = Reader::open(&path).unwrap().stats().unwrap().epoch;
    assert_eq!(epochs, 13);
}

#[test]
fn a_slow_reader_is_lapped_and_knows_it_exactly() {
    let path = LogPath::new();
    let limit = 20_000;
    drop(Writer::open(&path, RING).unwrap());
    let mut reader = Reader::open(&path).unwrap();
    let mut writer = start_writer(&path, limit);
    let mut check = Check { next: 1, read: 0, lost: 0 };
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut line = String::new();
    // Reads little for each batch of the writer's, so it is always at the edge of what is being overwritten.
    while output.read_line(&mut line).unwrap() > 0 {
        check.read(&mut reader);
        line.clear();
    }
    assert!(writer.wait().unwrap().success());
    while check.read(&mut reader) {}
    assert!(check.next > limit && check.lost > 0, "{} lost of {}", check.lost, check.next);
}

#[test]
fn sleepers_in_other_processes_are_woken() {
    let path = LogPath::new();
    drop(Writer::open(&path, RING).unwrap());
    let reader = Reader::open(&path).unwrap();
    let started = Instant::now();
    let mut writer = start_writer(&path, 32);
    assert!(reader.wait(Duration::from_secs(20)));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(writer.wait().unwrap().success());
}

#[test]
fn a_sleeping_reader_is_woken_within_the_flush() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, RING).unwrap();
    let started = Instant::now();
    let mut readers: Vec<Reader> = (0..3).map(|_| Reader::open(&path).unwrap()).collect();
    std::thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(move || {
                for number in 1..=100_u64 {
                    while reader.next().unwrap().map(|record| record.number()) != Some(number) {
                        assert!(reader.wait(Duration::from_secs(20)), "nothing came for {number}");
                        assert!(started.elapsed() < Duration::from_secs(15), "not woken for {number}");
                    }
                }
            });
        }
        for number in 1..=100 {
            writer.append(RecordMeta::default(), &payload_of(number)).unwrap();
            writer.flush();
            std::thread::yield_now();
        }
    });
}

const READER: &str = "SEGMENT_LOG_TEST_READER";

/// Not a test by itself: a reader's process, which reads nothing after the beginning.
#[test]
fn reader_process() {
    let Ok(path) = std::env::var(READER) else { return };
    let _reader = Reader::open(path).unwrap().announced().unwrap();
    println!("announced");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn readers_are_seen_with_their_lag_until_they_die() {
    let path = LogPath::new();
    let mut writer = Writer::open(&path, RING).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader_process", "--nocapture", "--test-threads=1"])
        .env(READER, &*path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("announced")));
    let mut here = Reader::open(&path).unwrap().announced().unwrap();
    for _ in 0..300 {
        writer.append(RecordMeta::default(), &[7; 1000]).unwrap();
    }
    while here.next().unwrap().is_some() {}
    let lags = |readers: Vec<segment_log::SeenReader>| {
        readers.into_iter().map(|reader| (reader.process, reader.lag_bytes >> 16)).collect::<Vec<_>>()
    };
    let mut expected = vec![(child.id(), (300 * 1088) >> 16), (std::process::id(), 0)];
    expected.sort_unstable();
    assert_eq!(lags(writer.readers()), expected);
    assert_eq!(lags(here.readers()), [(child.id(), (300 * 1088) >> 16)], "itself is not among the others");
    assert!(Writer::open(&path, RING).is_err(), "readers do not hide the writer's lock");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(here);
    assert_eq!(writer.readers(), []);
    drop(writer);
    assert_eq!(Writer::open(&path, RING).unwrap().usage().payload_bytes, 300_000);
}
