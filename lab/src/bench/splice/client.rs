//! A load generator's connections: keep-alive HTTP/1.1, one request at a time on each, all in one thread.
//!
//! Existing tools offer either a closed loop, or a constant rate measured from when a request was really sent, which
//! hides that it had to wait. What schedules the requests is in [`load`](super::load).

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
    sockopt,
};

use crate::http::body::{Framing, parse_head};

/// Bytes of one read: as fast clients do it.
const READ: usize = 256 << 10;
const EVENTS: usize = 256;
const MAX_HEAD: usize = 16 << 10;

/// What a connection waits for.
#[derive(Debug)]
enum Exchange {
    /// The handshake; then the first request goes out.
    Connecting,
    /// The rest of a response's head.
    Head,
    /// So many bytes of a response's body.
    Body(u64),
    /// To be asked something.
    Idle,
}

#[derive(Debug)]
struct Peer {
    socket: OwnedFd,
    exchange: Exchange,
    /// What has come of a head; kept to save allocations.
    head: Vec<u8>,
}

/// Connections to one server, all asking for one document.
pub(super) struct Client {
    epoll: OwnedFd,
    to: SocketAddrV4,
    request: Vec<u8>,
    peers: Vec<Peer>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
    received: u64,
}

impl Client {
    /// No connection yet. Sockets belong to the namespace of the thread that opens them.
    pub(super) fn new(to: SocketAddrV4, path: &str) -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            to,
            request: format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").into_bytes(),
            peers: Vec::new(),
            buffer: vec![0; READ],
            events: Vec::with_capacity(EVENTS),
            received: 0,
        })
    }

    /// How many connections there are.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Bytes received on all of them, heads included.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Starts a connection, which sends a request once it is open.
    pub(super) fn open(&mut self) -> Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))
            .with_context(|| format!("socket number {}", self.peers.len() + 1))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &self.to) {
            Ok(()) | Err(Errno::INPROGRESS) => (),
            Err(error) => return Err(error).with_context(|| format!("connecting to {}", self.to)),
        }
        let data = epoll::EventData::new_u64(self.peers.len() as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::OUT)?;
        self.peers.push(Peer { socket, exchange: Exchange::Connecting, head: Vec::new() });
        Ok(())
    }

    /// Sends the request on an idle connection.
    pub(super) fn ask(&mut self, index: usize) -> Result<()> {
        let peer = self.peers.get_mut(index).context("no such connection")?;
        ensure!(matches!(peer.exchange, Exchange::Idle), "connection {index} is still busy");
        peer.ask(&self.request)
    }

    /// Waits up to `limit` for anything to come, and takes it in. Connections that became idle are appended to `done`.
    pub(super) fn wait(&mut self, limit: Duration, done: &mut Vec<usize>) -> Result<()> {
        let limit = Timespec::try_from(limit).context("waiting that long")?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(error).context("epoll"),
        }
        for event in events.drain(..) {
            let index = event.data.u64() as usize;
            if self.progress(index).with_context(|| format!("connection {index} to {}", self.to))? {
                done.push(index);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Takes in what one connection has; true if it became idle.
    fn progress(&mut self, index: usize) -> Result<bool> {
        let peer = self.peers.get_mut(index).context("no such connection")?;
        if matches!(peer.exchange, Exchange::Connecting) {
            sockopt::socket_error(&peer.socket)?.context("connecting")?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &peer.socket, data, epoll::EventFlags::IN)?;
            peer.ask(&self.request)?;
            return Ok(false);
        }
        let length = match recv(&peer.socket, &mut *self.buffer, RecvFlags::empty()) {
            Ok((0, _)) => bail!("closed by the server"),
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error).context("receiving"),
        };
        self.received += length as u64;
        peer.take_in(self.buffer.get(..length).unwrap_or_default())?;
        Ok(matches!(peer.exchange, Exchange::Idle))
    }
}

impl Peer {
    fn ask(&mut self, request: &[u8]) -> Result<()> {
        let sent = send(&self.socket, request, SendFlags::NOSIGNAL).context("sending")?;
        ensure!(sent == request.len(), "the socket took {sent} bytes of a request");
        self.head.clear();
        self.exchange = Exchange::Head;
        Ok(())
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<()> {
        let left = match self.exchange {
            Exchange::Head => {
                self.head.extend_from_slice(bytes);
                let Some((head, body)) = measure(&self.head)? else { return Ok(()) };
                (head + body).checked_sub(self.head.len() as u64)
            }
            Exchange::Body(left) => left.checked_sub(bytes.len() as u64),
            Exchange::Idle | Exchange::Connecting => None,
        };
        self.exchange = match left.context("more bytes than the response has")? {
            0 => Exchange::Idle,
            left => Exchange::Body(left),
        };
        Ok(())
    }
}

/// Lengths of a response's head and body, once the head is whole.
fn measure(bytes: &[u8]) -> Result<Option<(u64, u64)>> {
    match parse_head(bytes, false)? {
        Some((head, 200, Framing::Length(body))) => Ok(Some((head as u64, body))),
        Some((_, status, framing)) => bail!("status {status} with {framing:?}, expected 200 with a length"),
        None if bytes.len() > MAX_HEAD => bail!("a response head of more than {MAX_HEAD} bytes"),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
        Peer { socket, exchange: Exchange::Head, head: Vec::new() }
    }

    #[test]
    fn a_response_ends_where_it_says_however_it_is_cut() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for step in 1..=response.len() {
            let mut peer = peer();
            for piece in response.chunks(step) {
                assert!(!matches!(peer.exchange, Exchange::Idle));
                peer.take_in(piece).unwrap();
            }
            assert!(matches!(peer.exchange, Exchange::Idle), "{step}");
            assert!(peer.take_in(b"x").is_err());
        }
    }

    #[test]
    fn what_is_not_the_document_is_an_error() {
        assert!(peer().take_in(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(peer().take_in(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").is_err());
        assert!(peer().take_in(&vec![b'a'; MAX_HEAD + 1]).is_err());
    }
}
