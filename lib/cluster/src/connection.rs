//! Shell side: one nonblocking control connection, for a loop around poll(2).

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
    /// The peer does not read what it is sent.
    #[error("the peer leaves more than {MAX_OUTGOING} bytes unread: it hangs or is stopped")]
    Congested,
}

/// A stream of messages both ways. Nothing here blocks.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
    connecting: bool,
}

impl Connection {
    /// Around a connected or connecting nonblocking stream socket.
    pub(crate) fn new(fd: OwnedFd, connecting: bool) -> Self {
        Self { fd, decoder: Decoder::new(), outgoing: Vec::new(), sent: 0, connecting }
    }

    /// To a daemon's socket on this machine.
    pub fn unix(path: &Path) -> Result<Self, ConnectionError> {
        let fd = stream_socket(AddressFamily::UNIX)?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self::new(fd, false))
    }

    /// To a daemon on another machine. The connection is usually still being set up on return: messages may be sent at
    /// once, whether it succeeds shows in [`handle_writable`](Self::handle_writable).
    pub fn tcp(address: SocketAddr) -> Result<Self, ConnectionError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = stream_socket(family)?;
        set_tcp_options(&fd)?;
        let connecting = match connect(&fd, &address) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        Ok(Self::new(fd, connecting))
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        if self.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Call [`handle_writable`](Self::handle_writable) as soon as the socket is writable.
    pub fn wants_write(&self) -> bool {
        self.connecting || self.sent < self.outgoing.len()
    }

    /// Reads what has arrived and gives the whole messages in it. Messages that came before an end or an error are given
    /// first; the next call reports it.
    pub fn handle_readable<T: DeserializeOwned>(&mut self) -> Result<Vec<T>, ConnectionError> {
        let end = self.receive();
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.next().transpose() {
            match message {
                Ok(message) => messages.push(message),
                Err(error) if messages.is_empty() => return Err(error.into()),
                Err(_) => return Ok(messages),
            }
        }
        if messages.is_empty() { end.map(|()| messages) } else { Ok(messages) }
    }

    fn receive(&mut self) -> Result<(), ConnectionError> {
        let mut buffer = vec![0; 64 << 10];
        let mut budget = READ_BUDGET;
        while budget > 0 {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) if self.decoder.pending() > 0 => return Err(FrameError::Truncated.into()),
                Ok((0, _)) => return Err(ConnectionError::Closed),
                Ok((length, _)) => {
                    self.decoder.push(buffer.get(..length).unwrap_or_default());
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

    /// Sends a message, now as far as the socket takes it, the rest when it is writable.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ConnectionError> {
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
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.fd, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing = Vec::new();
        self.sent = 0;
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
