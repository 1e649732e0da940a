//! Shell side: each daemon runs once per run directory.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the lock file")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::runtime::Runtime;

/// Why a daemon may not run.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It runs already.
    #[error(
        "{daemon} is already running here (process {pid}, {}): stop it first, or give this one another --run-dir",
        lock.display()
    )]
    DaemonRunning {
        /// Its name.
        daemon: String,
        /// Its process id as it wrote it, or `unknown`.
        pid: String,
        /// The file it holds locked.
        lock: PathBuf,
    },
    /// The run directory or the lock file cannot be used.
    #[error("cannot use {}: {error}: run as root, or choose another --run-dir", path.display())]
    Unusable {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Held by a daemon as long as it runs; the kernel takes it back however the daemon ends.
#[derive(Debug)]
pub struct DaemonLock {
    daemon: String,
    runtime: Runtime,
    _file: File,
}

impl DaemonLock {
    /// Makes the run directory (mode 0750) if it is missing, locks the daemon's file and writes the process id to it.
    pub fn acquire(runtime: &Runtime, daemon: &str) -> Result<Self, LockError> {
        let path = runtime.lock(daemon);
        let unusable = |error: io::Error| LockError::Unusable { path: path.clone(), error };
        make_parent(&path).map_err(unusable)?;
        let mut file = open(&path).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(running(daemon, &path, &mut file)),
            Err(error) => return Err(unusable(error.into())),
        }
        write_pid(&mut file).map_err(unusable)?;
        Ok(Self { daemon: daemon.to_owned(), runtime: runtime.clone(), _file: file })
    }

    /// The daemon's name.
    pub fn daemon(&self) -> &str {
        &self.daemon
    }

    /// The socket that only the holder of this lock may create.
    pub fn socket(&self) -> PathBuf {
        self.runtime.socket(&self.daemon)
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)
}

fn running(daemon: &str, lock: &Path, file: &mut File) -> LockError {
    let mut text = String::new();
    let pid = match file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok())
    {
        Some(pid) => pid.to_string(),
        None => "unknown".to_owned(),
    };
    LockError::DaemonRunning { daemon: daemon.to_owned(), pid, lock: lock.to_owned() }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_second_start_is_refused_with_the_first_ones_process_id() {
        let dir = TempDir::new();
        let runtime = Runtime::new(dir.path().join("run"));
        let first = DaemonLock::acquire(&runtime, "nfq-splice").unwrap();
        let error = DaemonLock::acquire(&runtime, "nfq-splice").unwrap_err();
        let LockError::DaemonRunning { daemon, pid, lock } = &error else { panic!("{error}") };
        assert_eq!((daemon.as_str(), lock), ("nfq-splice", &runtime.lock("nfq-splice")));
        assert_eq!(*pid, std::process::id().to_string());
        assert!(error.to_string().contains("--run-dir"));
        DaemonLock::acquire(&runtime, "nfq-logger").unwrap();
        drop(first);
        DaemonLock::acquire(&runtime, "nfq-splice").unwrap();
    }

    #[test]
    fn a_foreign_lock_file_does_no_harm() {
        let dir = TempDir::new();
        let runtime = Runtime::new(dir.path());
        std::fs::write(runtime.lock("d"), [0xff; 5000]).unwrap();
        let held = DaemonLock::acquire(&runtime, "d").unwrap();
        assert_eq!(std::fs::read_to_string(runtime.lock("d")).unwrap(), format!("{}\n", std::process::id()));
        std::fs::write(runtime.lock("d"), "-1 nonsense").unwrap();
        let error = DaemonLock::acquire(&runtime, "d").unwrap_err();
        assert!(matches!(error, LockError::DaemonRunning { pid, .. } if pid == "unknown"));
        drop(held);
    }

    #[test]
    fn an_unusable_run_directory_is_named() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = DaemonLock::acquire(&Runtime::new(dir.path().join("file/run")), "d").unwrap_err();
        assert!(error.to_string().contains("file/run/d.lock"), "{error}");
    }
}
