//! ctnetlink: a splice as one conntrack entry, which makes the kernel translate addresses, sequence numbers and
//! timestamps. It needs NAT hooks (any nat chain) and, for timestamps, the SYNPROXY hook in the namespace.

mod attributes;
mod decode;
mod encode;

use std::net::SocketAddr;

use crate::Error;
use crate::netlink::{self, Builder};
use crate::socket::Socket;

pub(crate) use decode::{Decoded, Tcp, decode};

/// Requests of one `sendto`: their acknowledgements must fit the default receive buffer (208 KiB).
const CHUNK: usize = 128;

/// One spliced connection. All offsets are modulo 2³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceEntry {
    /// The client.
    pub client: SocketAddr,
    /// The virtual address that it connected to.
    pub service: SocketAddr,
    /// The backend that serves it.
    pub backend: SocketAddr,
    /// Added to the sequence numbers server → client (and taken from the ACK and SACK numbers client → server).
    pub server_offset: u32,
    /// Added to the sequence numbers client → server; usually 0.
    pub client_offset: u32,
    /// The client sees the backend's TSval − this; needs `has_timestamps`.
    pub timestamp_offset: u32,
    /// Both ends use the timestamps option (RFC 7323).
    pub has_timestamps: bool,
    /// Conntrack mark.
    pub mark: u32,
    /// Seconds until the entry is dropped without traffic, first; the kernel's own timeouts follow.
    pub timeout_s: u32,
    /// Window scales that client and server announced, at most 14; `None`: no window scaling on this connection.
    pub window_scales: Option<(u8, u8)>,
    /// Both ends permit SACK.
    pub sack_permitted: bool,
}

/// State of the connection as conntrack sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// No or an unknown state.
    None,
    /// A SYN was seen.
    SynSent,
    /// A SYN and its SYN-ACK were seen.
    SynReceived,
    /// Open both ways.
    Established,
    /// One side has sent a FIN.
    FinWait,
    /// That FIN was acknowledged.
    CloseWait,
    /// Both sides have sent a FIN.
    LastAck,
    /// Both FINs were acknowledged.
    TimeWait,
    /// Reset.
    Close,
}

/// An entry as it is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceStatus {
    /// What [`Conntrack::create`] would need to make it again; `timeout_s` is what is left.
    pub entry: SpliceEntry,
    /// Where the connection is.
    pub state: TcpState,
    /// The kernel's id of the entry.
    pub id: u32,
}

/// A ctnetlink socket.
pub struct Conntrack {
    socket: Socket,
    request: Builder,
}

impl Conntrack {
    /// Opens the socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, request: Builder::default() })
    }

    /// Creates an entry: established, assured, liberal in windows.
    ///
    /// # Errors
    /// [`Error::Exists`]: there is an entry with this client and service, or its backend's side is taken.
    pub fn create(&mut self, entry: &SpliceEntry) -> Result<(), Error> {
        self.create_all(std::slice::from_ref(entry)).pop().unwrap_or(Err(Error::Answer("create splice")))
    }

    /// Creates many, each succeeding or failing by itself; the results are in the order of `entries`.
    pub fn create_all(&mut self, entries: &[SpliceEntry]) -> Vec<Result<(), Error>> {
        self.each("create splice", entries, encode::create, |errno| match errno {
            0 => Ok(()),
            libc::EEXIST => Err(Error::Exists),
            _ => Err(Error::errno("create splice", errno)),
        })
    }

    /// Deletes the entry of a client's connection. `false`: there was none.
    pub fn delete(&mut self, client: SocketAddr, service: SocketAddr) -> Result<bool, Error> {
        self.delete_all(&[(client, service)]).pop().unwrap_or(Err(Error::Answer("delete splice")))
    }

    /// Deletes many (client, service); the results are in their order.
    pub fn delete_all(&mut self, flows: &[(SocketAddr, SocketAddr)]) -> Vec<Result<bool, Error>> {
        let write = |request: &mut Builder, sequence, flow: &(SocketAddr, SocketAddr)| {
            encode::delete(request, sequence, flow.0, flow.1)
        };
        self.each("delete splice", flows, write, |errno| match errno {
            0 => Ok(true),
            libc::ENOENT => Ok(false),
            _ => Err(Error::errno("delete splice", errno)),
        })
    }

    /// The entry of a client's connection. `None`: there is none, or it is no TCP entry.
    pub fn get(&mut self, client: SocketAddr, service: SocketAddr) -> Result<Option<SpliceStatus>, Error> {
        let sequence = self.socket.next_sequence();
        self.request.clear();
        encode::get(&mut self.request, sequence, client, service)?;
        let mut found = None;
        let mut errno = None;
        self.socket.request_until("get splice", self.request.bytes(), sequence, &mut |message| {
            if message.sequence == sequence {
                errno = errno.or(message.error().filter(|_| message.kind == netlink::ERROR));
                found = found.or(decode(message).and_then(Decoded::status));
            }
        })?;
        match errno {
            None if found.is_none() => Err(Error::Answer("get splice")),
            None | Some(0 | libc::ENOENT) => Ok(found),
            Some(errno) => Err(Error::errno("get splice", errno)),
        }
    }

    /// All TCP entries with this mark, of both families. One that changes meanwhile may be missing or appear twice.
    pub fn dump(&mut self, mark: u32) -> Result<Vec<SpliceStatus>, Error> {
        let sequence = self.socket.next_sequence();
        self.request.clear();
        encode::dump(&mut self.request, sequence, mark);
        let mut found = Vec::new();
        let mut end = None;
        self.socket.request("list splices", self.request.bytes(), &mut |message| {
            if message.sequence == sequence {
                end = end.or(message.error());
                found.extend(decode(message).and_then(Decoded::status).filter(|s| s.entry.mark == mark));
            }
        })?;
        match end {
            Some(0) => Ok(found),
            Some(errno) => Err(Error::errno("list splices", errno)),
            None => Err(Error::Answer("list splices")),
        }
    }

    /// One request per item, many in a `sendto`; `answer` turns an errno (0: done) into the item's result.
    fn each<I, T>(
        &mut self,
        what: &'static str,
        items: &[I],
        write: impl Fn(&mut Builder, u32, &I) -> Result<(), Error>,
        answer: impl Fn(i32) -> Result<T, Error>,
    ) -> Vec<Result<T, Error>> {
        let mut results = Vec::with_capacity(items.len());
        for chunk in items.chunks(CHUNK) {
            let mut outcomes = self.chunk(what, chunk, &write);
            results.extend(outcomes.drain(..).map(|outcome| outcome.and_then(&answer)));
        }
        results
    }

    /// Only the last request is acknowledged; of the others the kernel tells what it refused, before it.
    fn chunk<I>(
        &mut self,
        what: &'static str,
        items: &[I],
        write: &impl Fn(&mut Builder, u32, &I) -> Result<(), Error>,
    ) -> Vec<Result<i32, Error>> {
        self.request.clear();
        let first = self.socket.next_sequence();
        let (mut last, mut start) = (first, 0);
        let mut outcomes: Vec<Result<i32, Error>> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let sequence = if index == 0 { first } else { self.socket.next_sequence() };
            let end = self.request.bytes().len();
            let written = write(&mut self.request, sequence, item);
            if written.is_ok() {
                (last, start) = (sequence, end);
            }
            outcomes.push(written.map(|()| 0));
        }
        if self.request.bytes().is_empty() {
            return outcomes;
        }
        self.request.add_flags(start, libc::NLM_F_ACK as u16);
        let mut answered = false;
        let sent = self.socket.request_until(what, self.request.bytes(), last, &mut |message| {
            let index = message.sequence.wrapping_sub(first) as usize;
            if let (Some(place), Some(errno)) = (outcomes.get_mut(index), message.error()) {
                *place = Ok(errno);
                answered |= message.sequence == last;
            }
        });
        if !answered {
            let errno = errno_of(&sent);
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
                *outcome = Err(errno.map_or(Error::Answer(what), |errno| Error::errno(what, errno)));
            }
        }
        outcomes
    }
}

fn errno_of(result: &Result<(), Error>) -> Option<i32> {
    match result {
        Err(Error::System { source, .. }) => Some(source.raw_os_error().unwrap_or(libc::EIO)),
        _ => None,
    }
}
