//! Files for tests, removed afterwards, and a payload that is known from its number.
#![allow(dead_code)]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A name in `/dev/shm` for one test.
pub(crate) struct LogPath(PathBuf);

impl LogPath {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/dev/shm/segment-log-test-{}-{number}", std::process::id())))
    }
}

impl Drop for LogPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AsRef<Path> for LogPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Deref for LogPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ (value >> 27)
}

/// Bytes of record `number`.
pub(crate) fn length_of(number: u64) -> u64 {
    mixed(number) % 3000
}

/// Different in every record at every place.
pub(crate) fn payload_of(number: u64) -> Vec<u8> {
    (0..length_of(number)).map(|at| mixed(number << 20 | at) as u8).collect()
}
