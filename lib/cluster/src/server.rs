//! Shell side: a daemon's control socket and its peers, for a loop around poll(2). Single-threaded, nothing blocks.
//!
//! ```no_run
//! # use cluster::{control::{ProxyStatus, FromProxy, ToProxy}, lock::DaemonLock, runtime::Runtime, server::{Incoming, Server}};
//! # use rustix::event::{PollFd, poll};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lock = DaemonLock::acquire(&Runtime::new("/run/resplice"), "nfq-splice")?;
//! let mut server = Server::unix(&lock)?;
//! loop {
//!     let interest = server.interest();
//!     let mut fds: Vec<_> = interest.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
//!     poll(&mut fds, None)?;
//!     for incoming in server.handle_ready::<ToProxy>() {
//!         if let Incoming::Message(peer, ToProxy::Status) = incoming {
//!             server.send(peer, &FromProxy::Status(ProxyStatus::default()));
//!         }
//!     }
//! }
//! # }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, acceptfrom_with, bind, listen, sockopt};
use serde::{Serialize, de::DeserializeOwned};

use crate::connection::{Connection, ConnectionError, set_tcp_options, stream_socket};
use crate::lock::DaemonLock;

/// Peers of one server at most; further ones are closed at once and counted.
pub const MAX_PEERS: usize = 64;

/// Why a control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {at}: {error}")]
pub struct ListenError {
    at: String,
    error: io::Error,
}

/// One connection to a server; never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u64);

/// What happened on the control socket.
#[derive(Debug)]
pub enum Incoming<T> {
    /// A peer has connected.
    Connected(PeerId),
    /// It sent a message.
    Message(PeerId, T),
    /// It is gone, or was dropped for this reason.
    Disconnected(PeerId, ConnectionError),
}

/// A listening socket and the connections accepted from it.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    /// For TCP: who may connect.
    allowed: Option<Vec<IpAddr>>,
    peers: BTreeMap<PeerId, Connection>,
    /// Peers that failed while they were sent to, to be reported.
    failed: Vec<(PeerId, ConnectionError)>,
    next: u64,
    refused: u64,
}

impl Server {
    /// The socket of the daemon that holds `lock`: only its user may connect. A socket file left over from an earlier run
    /// is replaced; the lock proves that nobody listens on it.
    pub fn unix(lock: &DaemonLock) -> Result<Self, ListenError> {
        let path = lock.socket();
        listen_unix(&path)
            .map(|listener| Self::new(listener, None))
            .map_err(|error| ListenError { at: path.display().to_string(), error })
    }

    /// A TCP socket that accepts connections from `allowed` only.
    pub fn tcp(address: SocketAddr, allowed: Vec<IpAddr>) -> Result<Self, ListenError> {
        listen_tcp(address)
            .map(|listener| Self::new(listener, Some(allowed)))
            .map_err(|error| ListenError { at: address.to_string(), error })
    }

    fn new(listener: OwnedFd, allowed: Option<Vec<IpAddr>>) -> Self {
        Self { listener, allowed, peers: BTreeMap::new(), failed: Vec::new(), next: 0, refused: 0 }
    }

    /// The descriptors to poll and what for.
    pub fn interest(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let peers = self.peers.values().map(|peer| (peer.as_fd(), peer.interest()));
        std::iter::once((self.listener.as_fd(), PollFlags::IN)).chain(peers).collect()
    }

    /// Accepts, reads and writes whatever is possible now. Call it when any of the polled descriptors is ready.
    pub fn handle_ready<T: DeserializeOwned>(&mut self) -> Vec<Incoming<T>> {
        let mut incoming: Vec<_> = self.accept().into_iter().map(Incoming::Connected).collect();
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            match self.exchange(peer) {
                Ok(messages) => incoming.extend(messages.into_iter().map(|m| Incoming::Message(peer, m))),
                Err(error) => self.fail(peer, error),
            }
        }
        incoming.extend(self.failed.drain(..).map(|(peer, error)| Incoming::Disconnected(peer, error)));
        incoming
    }

    fn exchange<T: DeserializeOwned>(&mut self, peer: PeerId) -> Result<Vec<T>, ConnectionError> {
        let Some(connection) = self.peers.get_mut(&peer) else { return Ok(Vec::new()) };
        let read = connection.handle_readable();
        let written = connection.handle_writable();
        match read {
            // A failure to write shows again the next time; what the peer said before it must not be lost.
            Ok(messages) if !messages.is_empty() => Ok(messages),
            read => written.and(read),
        }
    }

    /// Sends to one peer, if it is still connected. A failure is reported by the next
    /// [`handle_ready`](Self::handle_ready).
    pub fn send<T: Serialize>(&mut self, peer: PeerId, message: &T) {
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if let Err(error) = connection.send(message) {
            self.fail(peer, error);
        }
    }

    /// Closes the connection to `peer`.
    pub fn drop_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().copied()
    }

    /// Connections closed at once: too many, or from an address that is not allowed.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn fail(&mut self, peer: PeerId, error: ConnectionError) {
        if self.peers.remove(&peer).is_some() {
            self.failed.push((peer, error));
        }
    }

    fn accept(&mut self) -> Vec<PeerId> {
        let mut accepted = Vec::new();
        // Bounded, so that a flood of connections does not keep the daemon here.
        for _ in 0..MAX_PEERS {
            match acceptfrom_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, address)) => accepted.extend(self.admit(fd, address.and_then(|a| a.try_into().ok()))),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // Nobody, or no descriptors: the next poll tries again.
                Err(_) => break,
            }
        }
        accepted
    }

    fn admit(&mut self, fd: OwnedFd, from: Option<SocketAddr>) -> Option<PeerId> {
        if self.peers.len() >= MAX_PEERS || !self.may_connect(&fd, from) {
            self.refused += 1;
            return None;
        }
        let peer = PeerId(self.next);
        self.next += 1;
        self.peers.insert(peer, Connection::new(fd, false));
        Some(peer)
    }

    fn may_connect(&self, fd: &OwnedFd, from: Option<SocketAddr>) -> bool {
        match (&self.allowed, from) {
            (None, _) => true,
            (Some(allowed), Some(from)) => {
                allowed.contains(&from.ip().to_canonical()) && set_tcp_options(fd).is_ok()
            }
            (Some(_), None) => false,
        }
    }
}

fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    let fd = stream_socket(AddressFamily::UNIX)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    // Before listen: nobody can have connected with wider permissions.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&fd, 64)?;
    Ok(fd)
}

fn listen_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = stream_socket(family)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &address)?;
    listen(&fd, 64)?;
    Ok(fd)
}
