//! Another configuration while the daemon runs. The rules are replaced by a thread of their own: the program `nft` takes its
//! time, and the traffic must not wait for it.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns a thread")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use cluster::config::Cluster;
use cluster::control::Done;
use cluster::server::PeerId;
use nft_rules::{LoggerRules, QueueForm, install};

use super::Shell;

/// A reload whose rules are being installed. Its descriptor becomes readable when that has ended.
pub(super) struct Installing {
    new: Cluster,
    /// Who asked; `None`: a signal did.
    peer: Option<PeerId>,
    thread: JoinHandle<Result<()>>,
    ended: UnixStream,
}

impl AsFd for Installing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Shell {
    /// Does what SIGHUP asks for, and ends a reload whose rules are installed.
    pub(super) fn handle_reload(&mut self) {
        if self.installing.as_ref().is_some_and(|installing| installing.thread.is_finished()) {
            self.finish();
        }
        if self.configuration.was_hung_up() {
            self.reload(None);
        }
    }

    pub(super) fn reload(&mut self, peer: Option<PeerId>) {
        if self.installing.is_some() {
            return self.tell(peer, &Err("a reload is going on: try again when it has ended".to_owned()));
        }
        match self.start_reload(peer) {
            Ok(installing) => self.installing = Some(installing),
            Err(error) => {
                let done = self.configuration.conclude(Err(error));
                self.tell(peer, &done);
            }
        }
    }

    /// What is not named any more is still logged until a later reload finds it without connections: the proxies may not
    /// have heard of it yet.
    fn start_reload(&mut self, peer: Option<PeerId>) -> Result<Installing> {
        let new = self.configuration.read()?;
        let earlier = addresses(self.configuration.cluster()).chain(self.engine.backends_in_use());
        let earlier: BTreeSet<SocketAddr> = earlier.collect();
        let rules = LoggerRules::from_cluster(&new)?.with_backends(earlier.iter().copied())?;
        self.engine.set_backends(earlier.into_iter().chain(addresses(&new)));
        let (ended, end) = UnixStream::pair().context("could not make a socket pair")?;
        let work = move || {
            let _end = end;
            install::install(&rules, QueueForm::probe()?).context("installing the rules of the logger")
        };
        let thread = std::thread::Builder::new().spawn(work).context("could not start a thread")?;
        Ok(Installing { new, peer, thread, ended })
    }

    fn finish(&mut self) {
        let Some(Installing { new, peer, thread, .. }) = self.installing.take() else { return };
        let installed =
            thread.join().unwrap_or_else(|_| Err(anyhow!("the thread that installs rules panicked")));
        let done = self.configuration.conclude(installed.map(|()| new));
        self.tell(peer, &done);
    }

    fn tell(&mut self, peer: Option<PeerId>, done: &Done) {
        if let Some(peer) = peer {
            self.server.send(peer, done);
        }
    }
}

fn addresses(cluster: &Cluster) -> impl Iterator<Item = SocketAddr> + '_ {
    cluster.backends.values().map(|backend| backend.address)
}
