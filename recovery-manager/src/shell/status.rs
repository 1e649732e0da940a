//! The socket on which `resplice status` asks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result};
use cluster::control::ToManager;
use recovery_manager::Manager;
use rustix::event::PollFlags;

use super::peer::Peer;

/// Askers at once; the oldest has to go for one more.
const CLIENTS: usize = 16;
const MOST_FOR_CLIENT: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct StatusServer {
    listener: UnixListener,
    clients: Vec<Option<Peer>>,
    turn: usize,
}

impl StatusServer {
    /// Only for the holder of the daemon's lock: a socket that is there already is a dead one's.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("could not remove {}", path.display()));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("could not listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: (0..CLIENTS).map(|_| None).collect(), turn: 0 })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn interest(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        let present = |(place, peer): (usize, &'_ Option<Peer>)| peer.is_some().then_some(place);
        let places: Vec<usize> = self.clients.iter().enumerate().filter_map(present).collect();
        places.into_iter().filter_map(|place| {
            let peer = self.clients.get(place)?.as_ref()?;
            let waiting = if peer.is_waiting() { PollFlags::OUT } else { PollFlags::empty() };
            Some((place, peer.fd(), PollFlags::IN | waiting))
        })
    }

    pub(crate) fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let free = self.clients.iter().position(Option::is_none);
        self.turn = (self.turn + 1) % CLIENTS;
        if let Some(place) = self.clients.get_mut(free.unwrap_or(self.turn)) {
            *place = Some(Peer::new(OwnedFd::from(stream), MOST_FOR_CLIENT));
        }
    }

    /// Answers what was asked; who closes or errs is forgotten.
    pub(crate) fn serve(&mut self, place: usize, buffer: &mut Vec<u8>, manager: &Manager) {
        let Some(client) = self.clients.get_mut(place) else { return };
        let keep = client.as_mut().map(|peer| answer(peer, buffer, manager));
        if !matches!(keep, Some(Ok(true))) {
            *client = None;
        }
    }
}

fn answer(peer: &mut Peer, buffer: &mut Vec<u8>, manager: &Manager) -> Result<bool> {
    peer.flush()?;
    let open = peer.receive(buffer)?;
    while let Some(ToManager::Status) = peer.next()? {
        peer.send(&manager.status())?;
    }
    Ok(open)
}
