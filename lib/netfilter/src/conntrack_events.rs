//! Conntrack events: how the owner learns that a spliced connection changed its state or is gone.
//!
//! With the kernel's default (`net.netfilter.nf_conntrack_events` = 2) only entries created while somebody listens
//! have events: open this before creating any.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::Error;
use crate::conntrack::{TcpState, decode};
use crate::netlink;
use crate::socket::Socket;

const GROUP_UPDATE: i32 = 2;
const GROUP_DESTROY: i32 = 3;
const BUFFER_BYTES: usize = 16 << 10;
/// Events of a datagram are kept until asked for; the kernel sends one each.
const MAX_PENDING: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The state, the mark or another property changed.
    Updated,
    /// The entry is gone: deleted, timed out or evicted.
    Destroyed,
}

/// A change of one TCP entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The client.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub service: SocketAddr,
    /// The entry's mark.
    pub mark: u32,
    /// What happened.
    pub kind: EventKind,
    /// The connection's state, where the event says it.
    pub state: Option<TcpState>,
}

/// What [`Events::next`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An entry changed.
    Change(Change),
    /// Events were lost: compare with [`crate::conntrack::Conntrack::dump`].
    Overrun,
}

/// A subscription to updates and ends of entries.
pub struct Events {
    socket: Socket,
    buffer: Vec<u8>,
    pending: VecDeque<Change>,
}

impl Events {
    /// Subscribes to these kinds; `receive_buffer` (bytes) is what may wait until an overrun. A kind that nobody subscribes to
    /// costs the kernel nothing.
    pub fn subscribe(receive_buffer: usize, kinds: &[EventKind]) -> Result<Self, Error> {
        let socket = Socket::open()?;
        socket.receive_buffer(receive_buffer)?;
        for kind in kinds {
            let group = match kind {
                EventKind::Updated => GROUP_UPDATE,
                EventKind::Destroyed => GROUP_DESTROY,
            };
            socket.option(libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES], pending: VecDeque::new() })
    }

    /// The next event, without blocking. `None`: nothing waits. Entries that are not TCP are left out.
    #[expect(clippy::should_implement_trait, reason = "an error does not end the events")]
    pub fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(Event::Change(change)));
            }
            match self.socket.receive(&mut self.buffer) {
                Ok(Some(length)) if length <= self.buffer.len() => self.take(length),
                Ok(Some(_)) => return Ok(Some(Event::Overrun)),
                Ok(None) => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(Event::Overrun)),
                Err(error) => return Err(Error::system("receive conntrack events", error)),
            }
        }
    }

    fn take(&mut self, length: usize) {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        let changes =
            netlink::messages(datagram).filter_map(|message| decode(&message)).map(|decoded| Change {
                client: decoded.client,
                service: decoded.service,
                mark: decoded.mark,
                kind: if decoded.deleted { EventKind::Destroyed } else { EventKind::Updated },
                state: decoded.tcp.map(crate::conntrack::Tcp::state),
            });
        self.pending.extend(changes.take(MAX_PENDING));
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
