//! The netlink socket and its syscalls.
#![allow(unsafe_code, reason = "socket syscalls that std does not offer")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Error;
use crate::netlink::{self, Message};

/// Larger than any single answer to a request: the kernel's dumps come in parts of at most 32 KiB.
const ANSWER_BYTES: usize = 64 << 10;

/// Takes the fd that a syscall returned, or its errno.
pub(crate) fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live `c_int`.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A nonblocking `NETLINK_NETFILTER` socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Error> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are involved.
        let fd = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) })
            .map_err(|error| Error::system("open netlink socket", error))?;
        let socket = Self { fd, sequence: 0, answer: Vec::new() };
        socket.bind().map_err(|error| Error::system("bind netlink socket", error))?;
        socket.option(libc::NETLINK_CAP_ACK, 1)?;
        Ok(socket)
    }

    /// Takes a port of the kernel's choice: events do not reach a socket without one.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: `sockaddr_nl` is a plain C structure for which all zeros is a valid value.
        let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_nl>() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: pointer and length are those of a live `sockaddr_nl`.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sets an option of level `SOL_NETLINK`.
    pub(crate) fn option(&self, name: i32, value: i32) -> Result<(), Error> {
        set_option(self.fd.as_fd(), libc::SOL_NETLINK, name, value)
            .map_err(|error| Error::system("set netlink option", error))
    }

    /// Sets the size of the receive buffer (the kernel doubles it), beyond `rmem_max`.
    pub(crate) fn receive_buffer(&self, bytes: usize) -> Result<(), Error> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX / 2).min(i32::MAX / 2);
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .map_err(|error| Error::system("enlarge the receive buffer", error))
    }

    /// Sets the size of the send buffer, which bounds one [`Socket::send`].
    pub(crate) fn send_buffer(&self, bytes: usize) -> Result<(), Error> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX / 2).min(i32::MAX / 2);
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
            .map_err(|error| Error::system("enlarge the send buffer", error))
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Hands messages to the kernel, which has processed them when this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: pointer and length are those of `bytes`; without an address the kernel is addressed.
            let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// One datagram: its whole length, which may exceed the buffer's. `None`: nothing is waiting.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: pointer and length are those of `buffer`, which is borrowed mutably.
            let received = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_TRUNC | libc::MSG_DONTWAIT,
                )
            };
            if received >= 0 {
                return Ok(Some(received as usize));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }

    /// Sends a request and gives every message of the answer to `handle`.
    pub(crate) fn request(
        &mut self,
        what: &'static str,
        request: &[u8],
        handle: &mut dyn FnMut(&Message<'_>),
    ) -> Result<(), Error> {
        self.send(request).map_err(|error| Error::system(what, error))?;
        let mut buffer = std::mem::take(&mut self.answer);
        buffer.resize(ANSWER_BYTES, 0);
        let result = self.drain(&mut buffer, handle);
        self.answer = buffer;
        result.map_err(|error| Error::system(what, error))
    }

    /// The same, for requests of which only the last is acknowledged if all goes well: ends with the answer to `last`.
    pub(crate) fn request_until(
        &mut self,
        what: &'static str,
        request: &[u8],
        last: u32,
        handle: &mut dyn FnMut(&Message<'_>),
    ) -> Result<(), Error> {
        self.send(request).map_err(|error| Error::system(what, error))?;
        let mut buffer = std::mem::take(&mut self.answer);
        buffer.resize(ANSWER_BYTES, 0);
        let result = self.drain_until(&mut buffer, last, handle);
        self.answer = buffer;
        result.map_err(|error| Error::system(what, error))
    }

    fn drain_until(
        &self,
        buffer: &mut [u8],
        last: u32,
        handle: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let mut done = false;
        while !done && let Some(length) = self.receive(buffer)? {
            for message in netlink::messages(buffer.get(..length).unwrap_or_default()) {
                done |= message.sequence == last && message.error().is_some();
                handle(&message);
            }
        }
        Ok(())
    }

    fn drain(&self, buffer: &mut [u8], handle: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        while let Some(length) = self.receive(buffer)? {
            netlink::messages(buffer.get(..length).unwrap_or_default()).for_each(|message| handle(&message));
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Buffers for `recvmmsg`, kept between calls.
pub(crate) struct Pool {
    bytes: Vec<u8>,
    buffer_bytes: usize,
}

/// Datagrams of one [`Pool::receive`] or [`receive_into`] at most.
pub(crate) const POOL: usize = 32;

impl Pool {
    pub(crate) fn new(buffer_bytes: usize) -> Self {
        // Not zeros, which would be pages that are only made when first used: in the middle of a burst.
        Self { bytes: vec![u8::MAX; POOL * buffer_bytes], buffer_bytes }
    }

    /// Receives what is waiting, at most [`POOL`] datagrams, and gives each to `handle`; `None` for one that
    /// did not fit. Returns their number.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        handle: &mut dyn FnMut(Option<&mut [u8]>),
    ) -> io::Result<usize> {
        receive_into(fd, &mut self.bytes, (self.buffer_bytes, self.buffer_bytes), &mut |_, buffer, whole| {
            handle(whole.then_some(buffer));
        })
    }
}

/// Receives what is waiting, at most [`POOL`] datagrams, into buffers that begin `stride` bytes apart in `memory`, each of
/// `length` bytes. `handle` gets the buffer's number, what is in it, and whether that is the whole datagram. Returns how
/// many came.
pub(crate) fn receive_into(
    fd: BorrowedFd<'_>,
    memory: &mut [u8],
    (stride, length): (usize, usize),
    handle: &mut dyn FnMut(usize, &mut [u8], bool),
) -> io::Result<usize> {
    // SAFETY: `iovec` and `mmsghdr` are plain C structures for which all zeros is a valid value.
    let (mut vectors, mut headers) =
        unsafe { (std::mem::zeroed::<[libc::iovec; POOL]>(), std::mem::zeroed::<[libc::mmsghdr; POOL]>()) };
    let mut count = 0;
    let buffers = memory.chunks_mut(stride.max(1)).filter_map(|buffer| buffer.get_mut(..length));
    for ((buffer, vector), header) in buffers.zip(&mut vectors).zip(&mut headers) {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = buffer.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: each of the first `count` headers points to one iovec, which points to one buffer in `memory`; all of them
    // outlive the call, the buffers do not overlap and none is used otherwise during it.
    let received = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let received = received as usize;
    let buffers = memory.chunks_mut(stride.max(1));
    for (number, (buffer, header)) in buffers.zip(&headers).take(received).enumerate() {
        let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        if let Some(datagram) = buffer.get_mut(..(header.msg_len as usize).min(length)) {
            handle(number, datagram, whole);
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// The last buffer needs no room behind it, and what is between two is left alone.
    #[test]
    fn each_datagram_has_a_buffer_of_its_own() {
        let (receiver, sender) = UnixDatagram::pair().unwrap();
        for datagram in ["one", "two and more", "three", "four"] {
            sender.send(datagram.as_bytes()).unwrap();
        }
        let mut memory = [b'.'; 2 * 8 + 5];
        let mut seen = Vec::new();
        let count = receive_into(receiver.as_fd(), &mut memory, (8, 5), &mut |number, bytes, whole| {
            seen.push((number, String::from_utf8(bytes.to_vec()).unwrap(), whole));
        });
        assert_eq!(count.unwrap(), 3);
        assert_eq!(seen, [(0, "one".into(), true), (1, "two a".into(), false), (2, "three".into(), true)]);
        assert_eq!(&memory, b"one.....two a...three");
        let mut last = [0; 5];
        assert_eq!(receive_into(receiver.as_fd(), &mut last, (8, 5), &mut |_, _, _| ()).unwrap(), 1);
        assert_eq!(&last, b"four\0");
    }
}
