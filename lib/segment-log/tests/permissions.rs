//! Who may write, read and see a log: real users, each a process of its own. Needs root.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns files and processes")]
#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::LogPath;
use segment_log::{Reader, RecordMeta, Refusal, Writer};

const RING: u64 = 64 << 10;
const GROUP: u32 = 52_000;
/// User and group.
const LOGGER: (u32, u32) = (52_001, GROUP);
const READER: (u32, u32) = (52_002, GROUP);
const STRANGER: (u32, u32) = (52_003, 52_003);

const ROLE: &str = "SEGMENT_LOG_TEST_ROLE";
const PATH: &str = "SEGMENT_LOG_TEST_PATH";

/// Not a test by itself: what another user does. Says what came of it, line by line.
#[test]
fn as_another_user() {
    let (Ok(role), Ok(path)) = (std::env::var(ROLE), std::env::var(PATH)) else { return };
    match role.as_str() {
        "write" => write(&path),
        "read" => read(&path),
        "meddle" => meddle(&path),
        role => panic!("{role}"),
    }
}

/// Writes as long as it is let.
fn write(path: &str) {
    let mut writer = match Writer::open(path, RING) {
        Ok(writer) => writer,
        Err(error) => return println!("\nsaid: {error}"),
    };
    println!("\nsaid: writing");
    loop {
        writer.append(RecordMeta::default(), b"logged").unwrap();
        writer.flush();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads records, also those that it has to be woken for.
fn read(path: &str) {
    let mut reader = match Reader::open(path).map(Reader::announced) {
        Ok(reader) => reader.unwrap(),
        Err(error) => return println!("\nsaid: {error}"),
    };
    let mut records = 0;
    while records < 20 {
        match reader.next().unwrap() {
            Some(record) => {
                assert_eq!(record.payload(), b"logged");
                records += 1;
            }
            None => assert!(reader.wait(Duration::from_secs(20))),
        }
    }
    println!("\nsaid: {records} records");
}

/// All that a reader must not be able to do.
fn meddle(path: &str) {
    let refused = [
        OpenOptions::new().write(true).open(path).is_err(),
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).is_err(),
        fs::rename(path, format!("{path}.gone")).is_err(),
        fs::remove_file(path).is_err(),
        Writer::open(path, RING).is_err(),
    ];
    println!("\nsaid: {refused:?}");
}

struct User(Child, std::io::Lines<BufReader<std::process::ChildStdout>>);

impl User {
    /// This program again, by its open file: another user may not be let into its directory.
    fn start((user, group): (u32, u32), role: &str, path: &LogPath) -> Self {
        let program = File::open("/proc/self/exe").unwrap();
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.args(["--exact", "as_another_user", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(PATH, &**path).current_dir("/").uid(user).gid(group);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    fn said(&mut self) -> String {
        self.1.find_map(|line| line.unwrap().strip_prefix("said: ").map(str::to_owned)).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn once(user: (u32, u32), role: &str, path: &LogPath) -> String {
    User::start(user, role, path).said()
}

#[test]
fn the_writers_user_writes_its_group_reads_and_nobody_else_does_either() {
    let path = LogPath::new();
    let mut writer = User::start(LOGGER, "write", &path);
    assert_eq!(writer.said(), "writing");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), LOGGER);
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);

    assert_eq!(once(READER, "read", &path), "20 records");
    let refused = once(STRANGER, "read", &path);
    assert!(refused.contains(path.to_str().unwrap()) && refused.contains("Permission denied"), "{refused}");

    for user in [READER, STRANGER] {
        assert_eq!(once(user, "meddle", &path), format!("{:?}", [true; 5]));
    }
    // Nothing of this has disturbed the writer, nor who is let read.
    assert_eq!(once(READER, "read", &path), "20 records");
    assert!(writer.0.try_wait().unwrap().is_none());
}

#[test]
fn a_logger_takes_over_from_its_own_user_only() {
    let path = LogPath::new();
    assert_eq!(User::start(LOGGER, "write", &path).said(), "writing");
    // Even root, which could: it would write what another user can change underneath.
    assert!(matches!(
        Writer::open(&path, RING).unwrap_err().refusal,
        Refusal::NotOurs("owned by another user")
    ));
    let refused = once(STRANGER, "write", &path);
    assert!(refused.contains("Permission denied"), "{refused}");
    assert_eq!(once(LOGGER, "write", &path), "writing");
    assert_eq!(Reader::open(&path).unwrap().stats().unwrap().epoch, 2);
}

/// `/dev/shm` is open to all: somebody may have been there first.
#[test]
fn a_log_that_a_stranger_prepared_is_refused_whatever_its_permissions() {
    let path = LogPath::new();
    assert_eq!(User::start(STRANGER, "write", &path).said(), "writing");
    assert!(once(LOGGER, "write", &path).contains("Permission denied"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = once(LOGGER, "write", &path);
    assert!(refused.contains("somebody else made this file; remove it"), "{refused}");
    // Given away, it is still one that its group may write to.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    chown(&path, Some(LOGGER.0), Some(GROUP)).unwrap();
    let refused = once(LOGGER, "write", &path);
    assert!(refused.contains("writable by others"), "{refused}");
}
