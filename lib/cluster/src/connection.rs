//! Shell side: one nonblocking control connection, for a loop around poll(2).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with, sockopt,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::frame::{self, Decoder, FrameError, MAX_FRAME};
use crate::identity::Identity;
use crate::tls::{Session, TlsError};

/// Bytes waiting to be sent at most; a peer that lets more gather is dropped.
pub const MAX_OUTGOING: usize = 2 * MAX_FRAME;
/// Bytes taken from one connection per call, so that one peer does not starve the others.
const READ_BUDGET: usize = 1 << 20;

/// Why a connection is over. Drop it; connect anew if it was yours.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The peer closed it.
    #[error("the peer closed the control connection")]
    Closed,
    /// The kernel reported an error.
    #[error("control connection failed: {0}")]
    Failed(#[from] Errno),
    /// The peer sends what is not understood, or the message cannot be sent.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer is not who it should be, or of another version.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer does not read what it is sent.
    #[error("the peer leaves more than {MAX_OUTGOING} bytes unread: it hangs or is stopped")]
    Congested,
}

/// A stream of messages both ways. Nothing here blocks.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    /// Between machines.
    tls: Option<Box<Session>>,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
    connecting: bool,
    /// Came behind messages; the next call reports it.
    end: Option<ConnectionError>,
}

impl Connection {
    /// Around a connected or connecting nonblocking stream socket.
    pub(crate) fn new(fd: OwnedFd, tls: Option<Session>, connecting: bool) -> Self {
        let tls = tls.map(Box::new);
        Self { fd, tls, decoder: Decoder::new(), outgoing: Vec::new(), sent: 0, connecting, end: None }
    }

    /// To a daemon's socket on this machine.
    pub fn unix(path: &Path) -> Result<Self, ConnectionError> {
        let fd = stream_socket(AddressFamily::UNIX)?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self::new(fd, None, false))
    }

    /// To a daemon on `node`, another machine. The connection is usually still being set up on return: messages may be sent at
    /// once, whether it succeeds shows in [`is_up`](Self::is_up).
    pub fn tls(address: SocketAddr, us: &Identity, node: &str) -> Result<Self, ConnectionError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = stream_socket(family)?;
        set_tcp_options(&fd)?;
        let connecting = match connect(&fd, &address) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        Ok(Self::new(fd, Some(Session::client(us, node)?), connecting))
    }

    /// Connected, and, between machines, each side knows and accepts the other.
    pub fn is_up(&self) -> bool {
        !self.connecting && self.tls.as_ref().is_none_or(|tls| tls.is_up())
    }

    /// The node at the other end, once it has proved to be it; `None` on one machine.
    pub fn node(&self) -> Option<&str> {
        self.tls.as_ref()?.node()
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        if self.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Call [`handle_writable`](Self::handle_writable) as soon as the socket is writable.
    pub fn wants_write(&self) -> bool {
        match &self.tls {
            _ if self.connecting || self.end.is_some() => true,
            Some(tls) => tls.wants_write() || (tls.is_up() && self.sent < self.outgoing.len()),
            None => self.sent < self.outgoing.len(),
        }
    }

    /// Reads what has arrived and gives the whole messages in it. Messages that came before an end or an error are given
    /// first; the next call reports it.
    pub fn handle_readable<T: DeserializeOwned>(&mut self) -> Result<Vec<T>, ConnectionError> {
        let end = self.end.take().map_or_else(|| self.receive(), Err);
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.next().transpose() {
            match message {
                Ok(message) => messages.push(message),
                Err(error) if messages.is_empty() => return Err(error.into()),
                Err(_) => return Ok(messages),
            }
        }
        let end = match end {
            Err(ConnectionError::Closed) if self.decoder.pending() > 0 => Err(FrameError::Truncated.into()),
            end => end,
        };
        if messages.is_empty() {
            return end.map(|()| messages);
        }
        self.end = end.err();
        Ok(messages)
    }

    fn receive(&mut self) -> Result<(), ConnectionError> {
        let mut buffer = vec![0; 64 << 10];
        let mut budget = READ_BUDGET;
        while budget > 0 {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) => return Err(ConnectionError::Closed),
                Ok((length, _)) => {
                    self.take(buffer.get(..length).unwrap_or_default())?;
                    budget = budget.saturating_sub(length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::NOTCONN) if self.connecting => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let Some(tls) = &mut self.tls else {
            self.decoder.push(bytes);
            return Ok(());
        };
        let taken = tls.receive(bytes, &mut self.decoder);
        // An answer of the handshake, or why there is none.
        let sent = self.flush();
        taken?;
        sent
    }

    /// Sends a message, now as far as the socket takes it, the rest when it is writable.
    pub fn send<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), ConnectionError> {
        self.send_frame(&frame::encode(message)?)
    }

    /// As [`send`](Self::send), for a message already encoded: for several peers.
    pub fn send_frame(&mut self, frame: &[u8]) -> Result<(), ConnectionError> {
        self.outgoing.drain(..self.sent);
        self.sent = 0;
        if self.outgoing.len() + frame.len() > MAX_OUTGOING {
            return Err(ConnectionError::Congested);
        }
        self.outgoing.extend_from_slice(frame);
        if self.connecting { Ok(()) } else { self.flush() }
    }

    /// Finishes connecting, then sends what waits.
    pub fn handle_writable(&mut self) -> Result<(), ConnectionError> {
        if self.connecting {
            sockopt::socket_error(&self.fd)??;
            self.connecting = false;
        }
        match self.flush() {
            // Not connected yet: the call was early.
            Err(ConnectionError::Failed(Errno::NOTCONN)) => {
                self.connecting = true;
                Ok(())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> Result<(), ConnectionError> {
        let mut network = Network(&self.fd);
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            self.sent += match &mut self.tls {
                Some(tls) => match tls.send(rest) {
                    // Full, or nobody is there yet.
                    0 if !tls.wants_write() => return Ok(()),
                    0 if !drain(tls, &mut network)? => return Ok(()),
                    taken => taken,
                },
                None => match network.send(rest)? {
                    Some(sent) => sent,
                    None => return Ok(()),
                },
            };
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        if let Some(tls) = &mut self.tls {
            drain(tls, &mut network)?;
        }
        Ok(())
    }
}

/// Sends what the session has for the network; false if the socket takes no more.
fn drain(tls: &mut Session, network: &mut Network<'_>) -> Result<bool, ConnectionError> {
    while tls.wants_write() {
        match tls.write_to(network) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO).into()),
        }
    }
    Ok(true)
}

/// The socket.
struct Network<'c>(&'c OwnedFd);

impl Network<'_> {
    /// How much it took; `None`: nothing now.
    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        loop {
            match send(self.0, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(Some(sent)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl io::Write for Network<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Notices go out at once, and a peer that vanished without a FIN is noticed within seconds.
pub(crate) fn set_tcp_options(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, std::time::Duration::from_secs(2))?;
    sockopt::set_tcp_keepintvl(fd, std::time::Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    sockopt::set_tcp_user_timeout(fd, 5_000)
}
