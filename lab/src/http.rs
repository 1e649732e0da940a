//! A plain HTTP/1.1 client on one TCP socket that sees what curl hides: at which byte it waited, how long,
//! and how the connection ended.

pub(crate) mod body;

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::lab::Lab;
use crate::testing::await_condition;
use crate::topology::Node;
use body::{Body, Framing};

/// Longest response head, bytes.
const MAX_HEAD: usize = 64 << 10;
/// Shorter waits for bytes are not remembered.
pub const NOTICED: Duration = Duration::from_micros(200);
/// Waits remembered at most.
const MAX_WAITS: usize = 100_000;
/// Bytes of one read.
const READ: usize = 64 << 10;

/// How a connection behaves.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// The client's port, also one whose last connection its kernel still remembers (TIME-WAIT); `None`: as the kernel chooses.
    pub port: Option<u16>,
    /// Size of the socket's receive buffer, bytes; `None`: as the kernel tunes it.
    pub receive_buffer: Option<usize>,
    /// Bytes read per second at most.
    pub rate: Option<u64>,
    /// Longest wait for a byte.
    pub patience: Duration,
    /// Longest wait for a whole response: a trickle is a stall as well.
    pub limit: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            port: None,
            receive_buffer: None,
            rate: None,
            patience: Duration::from_secs(20),
            limit: Duration::from_secs(60),
        }
    }
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// All of it was received.
    Complete,
    /// The connection was closed in its middle.
    Closed,
    /// The connection was reset.
    Reset,
    /// Nothing came for longer than the client's patience.
    Stalled,
}

/// A received response, or as much of it as came.
#[derive(Clone)]
pub struct Response {
    /// Status code; 0 if the head did not come.
    pub status: u16,
    /// The head with its empty line, or as far as it came.
    pub head: Vec<u8>,
    /// Bytes of the body, chunk framing removed.
    pub body_bytes: u64,
    /// SHA-256 of those bytes, in hexadecimal.
    pub sha256: String,
    /// The longest time without a byte, the waits for the first one and for a premature end included.
    pub longest_gap: Duration,
    /// Bytes of the response, head included, that had come before the longest gap.
    pub longest_gap_at: u64,
    /// From the request to the end.
    pub took: Duration,
    /// How it ended.
    pub end: End,
}

/// A time in which the client wanted bytes and there were none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// When it began.
    pub since: Instant,
    /// How long it lasted.
    pub length: Duration,
}

/// One TCP connection of the lab's client.
#[derive(Debug)]
pub struct Connection {
    lab: Lab,
    stream: TcpStream,
    behaviour: Behaviour,
    unread: Vec<u8>,
    waits: Vec<Wait>,
}

/// Follows the reads of one response.
struct Watch {
    started: Instant,
    last: Instant,
    received: u64,
    longest: Duration,
    longest_at: u64,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body_bytes, sha256, longest_gap, longest_gap_at, took, end, head } = self;
        write!(f, "{end:?} after {body_bytes} bytes in {took:?}, status {status}, sha256 {sha256}, ")?;
        write!(f, "longest gap {longest_gap:?} at {longest_gap_at}, head {:?}", String::from_utf8_lossy(head))
    }
}

impl Connection {
    /// Connects from the client's node. `behaviour` holds from the handshake on.
    pub fn open(lab: &Lab, to: impl Into<SocketAddr>, behaviour: Behaviour) -> Result<Self> {
        let to = to.into();
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let stream = lab.netns(Node::Client).within(|| {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
            if let Some(bytes) = behaviour.receive_buffer {
                sockopt::set_socket_recv_buffer_size(&socket, bytes / 2)?;
            }
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(behaviour.patience))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(behaviour.patience))?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            if let Some(port) = behaviour.port {
                let any = if to.is_ipv4() {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                } else {
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                };
                sockopt::set_socket_reuseaddr(&socket, true)?;
                bind(&socket, &SocketAddr::new(any, port)).with_context(|| format!("taking port {port}"))?;
            }
            connect(&socket, &to).with_context(|| format!("connecting to {to}"))?;
            Ok(TcpStream::from(socket))
        })?;
        Ok(Self { lab: lab.clone(), stream, behaviour, unread: Vec::new(), waits: Vec::new() })
    }

    /// The client's address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The waits of at least [`NOTICED`] so far, in order; they are forgotten.
    pub fn take_waits(&mut self) -> Vec<Wait> {
        std::mem::take(&mut self.waits)
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Waits until so many bytes can be read, without reading them.
    pub fn await_readable(&self, bytes: u64) -> Result<()> {
        let waiting = || Ok(rustix::io::ioctl_fionread(&self.stream)? >= bytes);
        await_condition("bytes in the client's socket", self.behaviour.patience, waiting)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// Sends a GET and receives its response.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.get_watched(path, &mut |_| Ok(()))
    }

    /// Sends a GET and receives its response; `observer` is told the body bytes received after each read,
    /// and nothing is read while it runs.
    pub fn get_watched(
        &mut self,
        path: &str,
        observer: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Response> {
        self.send(&get_request(path))?;
        self.receive(false, observer)
    }

    /// Receives one response; `head_only` when it answers a HEAD.
    pub fn receive(
        &mut self,
        head_only: bool,
        observer: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Response> {
        let mut watch = Watch::new();
        let mut head = std::mem::take(&mut self.unread);
        watch.received = head.len() as u64;
        let mut hash = Sha256::new();
        let (status, framing, end) = self.receive_head(&mut head, head_only, &mut watch)?;
        let mut body = Body::new(framing);
        let end = match end {
            Some(end) => end,
            None => self.receive_body(&mut body, &mut hash, &mut watch, observer)?,
        };
        if end != End::Complete {
            watch.came(0);
        }
        Ok(Response {
            status,
            head,
            body_bytes: body.received(),
            sha256: hex(&hash.finalize()),
            longest_gap: watch.longest,
            longest_gap_at: watch.longest_at,
            took: watch.started.elapsed(),
            end,
        })
    }

    /// Reads the head; what follows it stays in `unread`. `Some(end)` if it did not come.
    fn receive_head(
        &mut self,
        head: &mut Vec<u8>,
        head_only: bool,
        watch: &mut Watch,
    ) -> Result<(u16, Framing, Option<End>)> {
        let mut buffer = vec![0; READ];
        loop {
            if let Some((length, status, framing)) = body::parse_head(head, head_only)? {
                self.unread = head.split_off(length);
                return Ok((status, framing, None));
            }
            ensure!(head.len() < MAX_HEAD, "a response head of more than {MAX_HEAD} bytes");
            match self.read(&mut buffer, watch)? {
                Ok(bytes) => head.extend_from_slice(bytes),
                Err(end) => return Ok((0, Framing::Length(0), Some(end))),
            }
        }
    }

    fn receive_body(
        &mut self,
        body: &mut Body,
        hash: &mut Sha256,
        watch: &mut Watch,
        observer: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<End> {
        let first = std::mem::take(&mut self.unread);
        let mut buffer = vec![0; READ];
        self.unread = body.take_in(&first, &mut |data| hash.update(data))?.to_vec();
        observer(body.received())?;
        while !body.complete() {
            match self.read(&mut buffer, watch)? {
                Ok(bytes) => {
                    self.unread = body.take_in(bytes, &mut |data| hash.update(data))?.to_vec();
                    observer(body.received())?;
                }
                Err(End::Closed) if body.ends_with_connection() => return Ok(End::Complete),
                Err(end) => return Ok(end),
            }
        }
        Ok(End::Complete)
    }

    fn stalled(&self, watch: &Watch, what: &str) -> End {
        let client = self.stream.local_addr();
        let (since, bytes) = (watch.started.elapsed(), watch.received);
        self.lab.show_evidence(&format!(
            "{client:?} gets {what} after {bytes} bytes, {since:?} after its request"
        ));
        End::Stalled
    }

    /// One read; the inner error is how the connection ended.
    fn read<'a>(&mut self, buffer: &'a mut [u8], watch: &mut Watch) -> Result<Result<&'a [u8], End>> {
        let room = self.behaviour.rate.map_or(READ, |rate| watch.pace(rate));
        let buffer = buffer.get_mut(..room.min(READ)).unwrap_or_default();
        if watch.started.elapsed() > self.behaviour.limit {
            return Ok(Err(self.stalled(watch, "only a trickle")));
        }
        let since = Instant::now();
        let read = loop {
            match self.stream.read(buffer) {
                // A process that was stopped and goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let length = since.elapsed();
        if length >= NOTICED && self.waits.len() < MAX_WAITS {
            self.waits.push(Wait { since, length });
        }
        match read {
            Ok(0) => Ok(Err(End::Closed)),
            Ok(length) => {
                watch.came(length);
                Ok(Ok(buffer.get(..length).unwrap_or_default()))
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => Ok(Err(End::Reset)),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Err(self.stalled(watch, "nothing"))),
                _ => Err(error).context("receiving"),
            },
        }
    }
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, received: 0, longest: Duration::ZERO, longest_at: 0 }
    }

    fn came(&mut self, length: usize) {
        let now = Instant::now();
        let gap = now.duration_since(self.last);
        if gap > self.longest {
            (self.longest, self.longest_at) = (gap, self.received);
        }
        self.last = now;
        self.received += length as u64;
    }

    /// Waits until the rate allows bytes again; how many.
    fn pace(&self, rate: u64) -> usize {
        let step = (rate / 1000).clamp(1024, READ as u64);
        let due = Duration::from_secs_f64((self.received + step) as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        step as usize
    }
}

/// A GET as this client sends it.
pub fn get_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: lab\r\nUser-Agent: lab\r\n\r\n").into_bytes()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
