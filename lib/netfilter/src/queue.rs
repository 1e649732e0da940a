//! NFQUEUE: packets that rules hand to a program, and its verdicts. A held packet is one without a verdict yet.
//!
//! Call order: [`Queue::bind`] before any rule queues packets; then, whenever the descriptor is readable,
//! [`Queue::recv_batch`] (or [`Queue::recv_slots`]) until it returns nothing, and [`Queue::flush`].

mod counters;
pub(crate) mod message;
mod verdicts;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub use counters::{KernelCounters, online_cores, parse_counters, queue_counters};
pub use verdicts::{Verdict, Verdicts};

use crate::Error;
use crate::netlink::{self, Builder, Head};
use crate::socket::{POOL, Pool, Socket, receive_into};
use message::{Parsed, Received};

/// Room that one message needs: the longest payload (65,531 bytes) and everything else the kernel sends with it.
pub const RECEIVE_BYTES: usize = 65 << 10;
/// Packets of one [`Queue::recv_batch`] at most.
pub const BATCH: usize = POOL;
const SUBSYSTEM: u16 = 3 << 8;
const MESSAGE_CONFIG: u16 = SUBSYSTEM | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_FAIL_OPEN: u32 = 1;
const FLAG_GSO: u32 = 4;

/// Settings of a queue. They cannot be changed later: that would discard waiting messages.
#[derive(Debug, Clone, Copy)]
pub struct QueueConfig {
    /// The queue's number, as in the rules.
    pub number: u16,
    /// Packets that may wait for a verdict; the kernel drops and counts further ones.
    pub max_packets: u32,
    /// Bytes of the socket's receive buffer; what does not fit is dropped and counted (`user_dropped`).
    pub receive_buffer: usize,
}

/// A packet that waits for its verdict.
#[derive(Debug)]
pub struct QueuedPacket<'a> {
    /// For [`Verdicts::push`].
    pub id: u32,
    /// The netfilter hook: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u8,
    /// The packet's mark.
    pub mark: u32,
    /// Several segments in one packet: it may be longer than any MTU.
    pub gso: bool,
    /// The TCP checksum is filled in. Where it is not, only the pseudo-header's sum stands there.
    pub checksum_ready: bool,
    /// The receiving device has verified the TCP checksum.
    pub checksum_verified: bool,
    /// The whole IP packet; may be changed in place and given to [`Verdict::AcceptWith`].
    pub payload: &'a mut [u8],
}

/// As [`QueuedPacket`], for [`Queue::recv_slots`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMeta {
    /// For [`Queue::verdict`].
    pub id: u32,
    /// The netfilter hook: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u8,
    /// The packet's mark.
    pub mark: u32,
    /// Several segments in one packet.
    pub gso: bool,
    /// The TCP checksum is filled in.
    pub checksum_ready: bool,
    /// The receiving device has verified the TCP checksum.
    pub checksum_verified: bool,
    /// Where in its buffer the IP packet is.
    pub payload: Range<usize>,
}

/// What a queue's socket has seen. What the kernel dropped before: [`queue_counters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets handed to the caller.
    pub received: u64,
    /// Times the kernel said that messages were lost for want of buffer space.
    pub overruns: u64,
    /// Packets longer than a message can carry, dropped.
    pub truncated: u64,
    /// Messages that were no packets and no errors.
    pub unknown: u64,
    /// Verdicts that the kernel refused: the packet was gone, or the verdict malformed.
    pub refused_verdicts: u64,
}

/// A bound queue. Closing it drops what it holds; packets queued later are dropped too.
pub struct Queue {
    socket: Arc<Socket>,
    verdicts: Verdicts,
    pool: Option<Pool>,
    counters: Counters,
}

impl Queue {
    /// Takes over a queue: whole packets, GSO packets unsplit, no fail-open.
    pub fn bind(config: &QueueConfig) -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        socket.receive_buffer(config.receive_buffer)?;
        socket.send_buffer(verdicts::SEND_BUFFER)?;
        // With ENOBUFS reported, one overrun would make the kernel drop everything until the buffer is empty.
        socket.option(libc::NETLINK_NO_ENOBUFS, 1)?;
        let refused = configure(&mut socket, config)?;
        match refused {
            Some(0) => {}
            Some(libc::EPERM | libc::EBUSY) if counters::is_bound(config.number) => {
                return Err(Error::QueueTaken(config.number));
            }
            Some(errno) => return Err(Error::errno("bind queue", errno)),
            None => return Err(Error::Answer("bind queue")),
        }
        let socket = Arc::new(socket);
        let verdicts = Verdicts::new(Arc::clone(&socket), config.number);
        Ok(Self { socket, verdicts, pool: None, counters: Counters::default() })
    }

    /// Makes the memory that [`Self::recv_batch`] needs, 2 MiB, now rather than when the first packets wait.
    pub fn prepare(&mut self) {
        self.pool.get_or_insert_with(|| Pool::new(RECEIVE_BYTES));
    }

    /// Receives what waits, at most [`BATCH`] packets, without blocking. Returns the number of messages: fewer when no
    /// more wait. Verdicts pushed by `handler` leave with the next [`Queue::flush`].
    pub fn recv_batch(
        &mut self,
        handler: &mut dyn FnMut(QueuedPacket<'_>, &mut Verdicts),
    ) -> Result<usize, Error> {
        let Self { socket, verdicts, pool, counters } = self;
        let pool = pool.get_or_insert_with(|| Pool::new(RECEIVE_BYTES));
        let result = pool.receive(socket.as_fd(), &mut |datagram| match datagram {
            Some(datagram) => take_datagram(datagram, verdicts, counters, handler),
            None => counters.truncated += 1,
        });
        match result {
            Ok(count) => Ok(count),
            Err(error) => not_ready(error, counters),
        }
    }

    /// Receives what waits without blocking, at most [`BATCH`] packets, straight into `memory`: each message into a buffer
    /// of its own, `length` bytes (at least [`RECEIVE_BYTES`], or packets are dropped as truncated), that begins `stride`
    /// bytes after the one before. What came is appended to `packets`, each with its buffer's number; the ranges of their
    /// payloads count from that buffer's beginning. Returns the number of messages: fewer than there are buffers when no
    /// more wait.
    ///
    /// What is no whole packet gets its verdict here: an error means that this could not be promised.
    pub fn recv_slots(
        &mut self,
        memory: &mut [u8],
        (stride, length): (usize, usize),
        packets: &mut Vec<(usize, QueuedMeta)>,
    ) -> Result<usize, Error> {
        let Self { socket, verdicts, counters, .. } = self;
        let mut failed = None;
        let result =
            receive_into(socket.as_fd(), memory, (stride, length), &mut |number, datagram, whole| {
                let taken = if whole {
                    first_packet(datagram, verdicts, counters)
                } else {
                    drop_truncated(datagram, verdicts, counters).map(|()| None)
                };
                match taken {
                    Ok(meta) => packets.extend(meta.map(|meta| (number, meta))),
                    Err(error) => failed = Some(error),
                }
            });
        match (failed, result) {
            (Some(error), _) => Err(error),
            (None, Ok(count)) => Ok(count),
            (None, Err(error)) => not_ready(error, counters),
        }
    }

    /// One packet into `buffer`, which should hold [`RECEIVE_BYTES`]. `None`: nothing waits.
    pub fn recv_into(&mut self, buffer: &mut [u8]) -> Result<Option<QueuedMeta>, Error> {
        let (length, mut packets) = (buffer.len(), Vec::new());
        while packets.is_empty() && self.recv_slots(buffer, (length, length), &mut packets)? > 0 {}
        Ok(packets.pop().map(|(_, meta)| meta))
    }

    /// Appends a verdict; [`Queue::flush`] sends it.
    pub fn verdict(&mut self, id: u32, verdict: Verdict<'_>) -> Result<(), Error> {
        self.verdicts.push(id, verdict)
    }

    /// Appends a verdict for every packet that waits and whose id is not after `id`: they go on as they are. Only when the
    /// caller means all of them.
    pub fn accept_through(&mut self, id: u32) -> Result<(), Error> {
        self.verdicts.accept_through(id)
    }

    /// Sends all pending verdicts in one syscall.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.verdicts.flush()
    }

    /// What this socket has seen so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The kernel's errno, 0 for success, or `None` for no answer.
fn configure(socket: &mut Socket, config: &QueueConfig) -> Result<Option<i32>, Error> {
    let mut request = Builder::default();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let sequence = socket.next_sequence();
    let head = Head { kind: MESSAGE_CONFIG, flags, sequence, family: 0, resource: config.number };
    request.message(head, |message| {
        message.attribute(CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]);
        let [a, b, c, d] = 0xffff_u32.to_be_bytes();
        message.attribute(CONFIG_PARAMETERS, &[a, b, c, d, COPY_PACKET]);
        message.be32(CONFIG_LENGTH, config.max_packets);
        message.be32(CONFIG_MASK, FLAG_GSO | FLAG_FAIL_OPEN);
        message.be32(CONFIG_FLAGS, FLAG_GSO);
    });
    let mut answer = None;
    socket.request("bind queue", request.bytes(), &mut |message| {
        if message.sequence == sequence && message.kind == netlink::ERROR {
            answer = message.error();
        }
    })?;
    Ok(answer)
}

fn not_ready(error: io::Error, counters: &mut Counters) -> Result<usize, Error> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(0),
        Some(libc::ENOBUFS) => {
            counters.overruns += 1;
            Ok(0)
        }
        _ => Err(Error::system("receive from queue", error)),
    }
}

fn take_datagram(
    datagram: &mut [u8],
    verdicts: &mut Verdicts,
    counters: &mut Counters,
    handler: &mut dyn FnMut(QueuedPacket<'_>, &mut Verdicts),
) {
    // A verdict that could not be appended leaves the packet waiting, until the queue is closed.
    let Ok(Some(meta)) = first_packet(datagram, verdicts, counters) else { return };
    let Some(payload) = datagram.get_mut(meta.payload) else { return };
    let packet = QueuedPacket {
        id: meta.id,
        hook: meta.hook,
        mark: meta.mark,
        gso: meta.gso,
        checksum_ready: meta.checksum_ready,
        checksum_verified: meta.checksum_verified,
        payload,
    };
    handler(packet, verdicts);
}

/// The kernel sends one packet in each datagram.
fn first_packet(
    datagram: &[u8],
    verdicts: &mut Verdicts,
    counters: &mut Counters,
) -> Result<Option<QueuedMeta>, Error> {
    match message::parse(datagram) {
        Received::Packet(Parsed { meta, whole: true }) => {
            counters.received += 1;
            return Ok(Some(meta));
        }
        Received::Packet(Parsed { meta, whole: false }) => {
            counters.truncated += 1;
            verdicts.push(meta.id, Verdict::Drop)?;
        }
        Received::Refused => counters.refused_verdicts += 1,
        Received::Unknown => counters.unknown += 1,
    }
    Ok(None)
}

/// The buffer was too small: the packet's header is there, so that the kernel need not keep it.
fn drop_truncated(beginning: &[u8], verdicts: &mut Verdicts, counters: &mut Counters) -> Result<(), Error> {
    counters.truncated += 1;
    message::truncated_id(beginning).map_or(Ok(()), |id| verdicts.push(id, Verdict::Drop))
}
