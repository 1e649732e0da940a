//! The configuration of a running daemon, and how it is replaced: read and checked first, the old one stays if anything is
//! wrong.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cluster::config::Cluster;
use cluster::control::Done;
use cluster::identity::Identity;
use signal_hook::consts::SIGHUP;

/// The configuration in force. Its descriptor becomes readable with SIGHUP.
#[derive(Debug)]
pub struct Configuration {
    file: PathBuf,
    cluster: Cluster,
    hangups: UnixStream,
}

impl Configuration {
    /// Reads `file`; from then on SIGHUP is a wish to read it again.
    pub fn load(file: &Path) -> Result<Self> {
        let (hangups, signals) = UnixStream::pair().context("could not make a socket pair")?;
        hangups.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGHUP, signals).context("could not register SIGHUP")?;
        Ok(Self { cluster: Cluster::load(file)?, file: file.to_owned(), hangups })
    }

    /// What is in force.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Who this node is to the others, read anew.
    pub fn identity(&self, node: &str) -> Result<Identity> {
        Ok(Identity::load(&self.cluster.cluster.certificates, node)?)
    }

    /// Whether SIGHUP came since the last call.
    pub fn was_hung_up(&self) -> bool {
        let mut signals = [0; 64];
        rustix::io::read(&self.hangups, &mut signals).is_ok_and(|length| length > 0)
    }

    /// Reads the file anew: it is right, and may replace what is in force.
    pub fn read(&self) -> Result<Cluster> {
        let new = Cluster::load(&self.file)?;
        self.cluster.check_reload(&new, &self.file.display().to_string())?;
        Ok(new)
    }

    /// Puts `new` in force, or leaves the old one; says what came of it, also in the log.
    pub fn conclude(&mut self, new: Result<Cluster>) -> Done {
        match new {
            Ok(new) => {
                self.cluster = new;
                let text = format!("{} is in force", self.file.display());
                tracing::info!("{text}");
                Ok(text)
            }
            Err(error) => {
                tracing::error!("the configuration was not reloaded, the old one stays in force: {error:#}");
                Err(format!("the old configuration stays in force: {error:#}"))
            }
        }
    }

    /// Reads the file anew and lets `apply` carry it out; arguments are the old and the new one.
    pub fn reload(&mut self, apply: impl FnOnce(&Cluster, &Cluster) -> Result<()>) -> Done {
        let new = self.read().and_then(|new| apply(&self.cluster, &new).map(|()| new));
        self.conclude(new)
    }
}

impl AsFd for Configuration {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.hangups.as_fd()
    }
}
