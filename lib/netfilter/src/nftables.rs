//! nftables batches: several changes that the kernel applies together or not at all.

use crate::Error;
use crate::netlink::{self, Builder, Head};
use crate::socket::Socket;

pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DELETE_RULE: u16 = 8;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const DELETE_ELEMENT: u16 = 14;
/// Since Linux 6.3.
pub(crate) const DESTROY_ELEMENT: u16 = 30;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
    /// `inet`
    Inet,
}

impl Family {
    /// As nft writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => libc::NFPROTO_IPV4 as u8,
            Self::Ip6 => libc::NFPROTO_IPV6 as u8,
        }
    }
}

pub(crate) fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

/// The head of a message to nftables, with a new sequence number.
pub(crate) fn head(socket: &mut Socket, family: Family, message: u16, flags: i32) -> Head {
    Head {
        kind: (SUBSYSTEM << 8) | message,
        flags: (libc::NLM_F_REQUEST | flags) as u16,
        sequence: socket.next_sequence(),
        family: family.number(),
        resource: 0,
    }
}

/// A batch under construction.
pub(crate) struct Batch<'a> {
    socket: &'a mut Socket,
    request: Builder,
    family: Family,
    begin: u32,
    last: u32,
}

impl<'a> Batch<'a> {
    pub(crate) fn begin(socket: &'a mut Socket, family: Family) -> Self {
        let begin = socket.next_sequence();
        let mut batch = Self { socket, request: Builder::default(), family, begin, last: begin };
        batch.mark(BATCH_BEGIN, begin);
        batch
    }

    fn mark(&mut self, kind: u16, sequence: u32) {
        let flags = libc::NLM_F_REQUEST as u16;
        self.request.message(Head { kind, flags, sequence, family: 0, resource: SUBSYSTEM }, |_| {});
    }

    pub(crate) fn add(&mut self, message: u16, flags: i32, body: impl FnOnce(&mut Builder)) {
        let head = head(self.socket, self.family, message, libc::NLM_F_ACK | flags);
        self.last = head.sequence;
        self.request.message(head, body);
    }

    /// Applies the batch. The first errno, or 0.
    pub(crate) fn commit(mut self, what: &'static str) -> Result<i32, Error> {
        let sequence = self.socket.next_sequence();
        self.mark(BATCH_END, sequence);
        self.send(what)
    }

    /// Lets the kernel check the batch; nothing is applied, because its end is missing. The first errno, or 0.
    pub(crate) fn check(self, what: &'static str) -> Result<i32, Error> {
        self.send(what)
    }

    fn send(self, what: &'static str) -> Result<i32, Error> {
        let Self { socket, request, begin, last, .. } = self;
        let mut errno = 0;
        let mut complete = false;
        socket.request(what, request.bytes(), &mut |message| {
            if message.kind == netlink::ERROR
                && message.sequence.wrapping_sub(begin) <= last.wrapping_sub(begin)
            {
                errno = if errno == 0 { message.error().unwrap_or(libc::EBADMSG) } else { errno };
                complete |= message.sequence == last;
            }
        })?;
        if complete || errno != 0 { Ok(errno) } else { Err(Error::Answer(what)) }
    }
}

/// 0 is success.
pub(crate) fn succeed(what: &'static str, errno: i32) -> Result<(), Error> {
    match errno {
        0 => Ok(()),
        libc::ENOENT => Err(Error::Missing(what)),
        _ => Err(Error::errno(what, errno)),
    }
}
