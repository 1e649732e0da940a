//! Shell side: a daemon's control socket and its peers, for a loop around poll(2). Single-threaded, nothing blocks.
//!
//! Between machines a peer counts when it has proved to be one of the nodes that may connect from its address. Until then it is
//! one of [`MAX_HANDSHAKES`] at most, for [`HANDSHAKE_TIME`] at most.
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

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns sockets and a clock")]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, acceptfrom_with, bind, listen, sockopt};
use serde::{Serialize, de::DeserializeOwned};

use crate::connection::{Connection, ConnectionError, set_tcp_options, stream_socket};
use crate::identity::Identity;
use crate::lock::DaemonLock;
use crate::tls::Session;

/// Peers of one server at most; further ones are closed at once and counted.
pub const MAX_PEERS: usize = 64;
/// Peers of one server that have not proved yet who they are, at most; a further one takes the place of the oldest.
pub const MAX_HANDSHAKES: usize = 16;
/// Time for that proof.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(3);
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

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
    /// Between machines.
    nodes: Option<Nodes>,
    peers: BTreeMap<PeerId, Connection>,
    /// Those that have not proved yet who they are, and since when; the oldest first.
    strangers: BTreeMap<PeerId, (Instant, SocketAddr)>,
    complained: Option<Instant>,
    /// Peers that failed while they were sent to, to be reported.
    failed: Vec<(PeerId, ConnectionError)>,
    next: u64,
    refused: u64,
}

/// Who may connect from where, and who we are.
#[derive(Debug)]
struct Nodes {
    us: Identity,
    allowed: Vec<(String, IpAddr)>,
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

    /// A TLS socket for other machines: each of the `allowed` nodes from its own address.
    pub fn tls(
        address: SocketAddr,
        us: Identity,
        allowed: Vec<(String, IpAddr)>,
    ) -> Result<Self, ListenError> {
        listen_tcp(address)
            .map(|listener| Self::new(listener, Some(Nodes { us, allowed })))
            .map_err(|error| ListenError { at: address.to_string(), error })
    }

    fn new(listener: OwnedFd, nodes: Option<Nodes>) -> Self {
        Self {
            listener,
            nodes,
            peers: BTreeMap::new(),
            strangers: BTreeMap::new(),
            complained: None,
            failed: Vec::new(),
            next: 0,
            refused: 0,
        }
    }

    /// Shows other certificates to those that connect from now on.
    pub fn replace_identity(&mut self, us: Identity) {
        if let Some(nodes) = &mut self.nodes {
            nodes.us = us;
        }
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
                Ok(messages) => {
                    incoming.extend(self.admit(peer).map(Incoming::Connected));
                    incoming.extend(messages.into_iter().map(|m| Incoming::Message(peer, m)));
                }
                Err(error) => self.fail(peer, error),
            }
        }
        self.drop_slow();
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
    pub fn send<T: Serialize + ?Sized>(&mut self, peer: PeerId, message: &T) {
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if let Err(error) = connection.send(message) {
            self.fail(peer, error);
        }
    }

    /// Closes the connection to `peer`.
    pub fn drop_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.strangers.remove(&peer);
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().filter(|peer| !self.strangers.contains_key(peer)).copied()
    }

    /// The node that `peer` has proved to be; `None` on one machine.
    pub fn node(&self, peer: PeerId) -> Option<&str> {
        self.peers.get(&peer)?.node()
    }

    /// Closes connections whose peers have not proved in time who they are. [`handle_ready`](Self::handle_ready) does so, too.
    pub fn drop_slow(&mut self) {
        let now = Instant::now();
        let slow = |since: Instant| now.duration_since(since) >= HANDSHAKE_TIME;
        while let Some((peer, (since, from))) =
            self.strangers.first_key_value().map(|(peer, it)| (*peer, *it))
        {
            if !slow(since) {
                break;
            }
            self.complain(from, "it has not proved in time who it is");
            self.refuse(peer);
        }
    }

    /// Connections closed without a word: too many, from an address that is not allowed, or without proof in time.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// A stranger that fails was never there.
    fn fail(&mut self, peer: PeerId, error: ConnectionError) {
        if let Some((_, from)) = self.strangers.get(&peer).copied() {
            self.complain(from, &error.to_string());
            self.refuse(peer);
        } else if self.peers.remove(&peer).is_some() {
            self.failed.push((peer, error));
        }
    }

    /// Once a second at most.
    fn complain(&mut self, from: SocketAddr, what: &str) {
        let now = Instant::now();
        if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAINT_PAUSE) {
            tracing::warn!("refused a control connection from {from}: {what}");
            self.complained = Some(now);
        }
    }

    fn refuse(&mut self, peer: PeerId) {
        self.refused += 1;
        self.drop_peer(peer);
    }

    /// Gives a peer that has just proved who it is.
    fn admit(&mut self, peer: PeerId) -> Option<PeerId> {
        let up = self.peers.get(&peer).is_some_and(Connection::is_up);
        (up && self.strangers.remove(&peer).is_some()).then_some(peer)
    }

    /// Those of one machine are known at once.
    fn accept(&mut self) -> Vec<PeerId> {
        let mut accepted = Vec::new();
        // Bounded, so that a flood of connections does not keep the daemon here.
        for _ in 0..MAX_PEERS {
            match acceptfrom_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, address)) => {
                    accepted.extend(self.take_in(fd, address.and_then(|a| a.try_into().ok())));
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // Nobody, or no descriptors: the next poll tries again.
                Err(_) => break,
            }
        }
        accepted
    }

    fn take_in(&mut self, fd: OwnedFd, from: Option<SocketAddr>) -> Option<PeerId> {
        let session = match &self.nodes {
            None => None,
            Some(nodes) => match nodes.session(from).filter(|_| set_tcp_options(&fd).is_ok()) {
                Some(session) => Some(session),
                None => return self.turn_away(),
            },
        };
        if session.is_some() && self.strangers.len() >= MAX_HANDSHAKES {
            self.drop_oldest_stranger();
        }
        if self.peers.len() >= MAX_PEERS {
            return self.turn_away();
        }
        let peer = PeerId(self.next);
        self.next += 1;
        let known = session.is_none();
        if let Some(from) = from.filter(|_| !known) {
            self.strangers.insert(peer, (Instant::now(), from));
        }
        self.peers.insert(peer, Connection::new(fd, session, false));
        known.then_some(peer)
    }

    fn drop_oldest_stranger(&mut self) {
        if let Some(oldest) = self.strangers.first_key_value().map(|(oldest, _)| *oldest) {
            self.refuse(oldest);
        }
    }

    fn turn_away(&mut self) -> Option<PeerId> {
        self.refused += 1;
        None
    }
}

impl Nodes {
    /// For a connection from there; `None`: no node has that address.
    fn session(&self, from: Option<SocketAddr>) -> Option<Session> {
        let from = from?.ip().to_canonical();
        let here = self.allowed.iter().filter(|(_, address)| *address == from);
        let nodes: Vec<String> = here.map(|(node, _)| node.clone()).collect();
        if nodes.is_empty() { None } else { Session::server(&self.us, nodes).ok() }
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
