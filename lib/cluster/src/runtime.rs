//! Where a node's sockets, lock files and its segment log are.

use std::path::PathBuf;

/// The directories of one node. Two nodes on one machine have different ones (`--run-dir`).
#[derive(Debug, Clone)]
pub struct Runtime {
    dir: PathBuf,
}

impl Runtime {
    /// `dir` is usually `/run/resplice`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The Unix socket on which `daemon` answers.
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("{daemon}.sock"))
    }

    /// Where `daemon` notes the latest epoch of recovery managers that it knows.
    pub fn epoch(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("{daemon}.epoch"))
    }

    /// The file that `daemon` locks (flock) and writes its process id to while it runs.
    pub fn lock(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("{daemon}.lock"))
    }
}

/// The segment log of a logger node: `/dev/shm/resplice-CLUSTER-NODE.segments`.
pub fn segment_log(cluster: &str, node: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/resplice-{cluster}-{node}.segments"))
}
