//! Whole IP packets of our own making, sent with a mark by which the rules know them.
#![allow(unsafe_code, reason = "sendto and sendmmsg with addresses taken from the packet")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::Error;
use crate::netlink::read;
use crate::socket::{owned, set_option};

/// Packets of one `sendmmsg`.
const CHUNK: usize = 64;
const SEND_BUFFER: i32 = 4 << 20;

/// Sockets for both families. Every packet goes where its own destination address says.
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Handed to the network.
    pub sent: usize,
    /// Which of them, counted from 0, were longer than the route's MTU.
    pub too_long: Vec<usize>,
    /// No buffer space.
    pub no_room: usize,
    /// No IP packet, no route, refused by a rule.
    pub failed: usize,
}

/// A destination in the form that the kernel wants.
enum Destination {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawSender {
    /// Opens the sockets; packets carry `mark`.
    pub fn open(mark: u32) -> Result<Self, Error> {
        let open = |family| open_raw(family, mark).map_err(|error| Error::system("open raw socket", error));
        Ok(Self { v4: open(libc::AF_INET)?, v6: open(libc::AF_INET6)? })
    }

    /// Sends one packet, TCP checksum included.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::NoRoom`], [`Error::NotSendable`] and all others: it was not sent.
    pub fn send(&mut self, packet: &[u8]) -> Result<(), Error> {
        let destination = Destination::of(packet).ok_or(Error::NotSendable("send raw packet"))?;
        let fd = self.fd(&destination);
        let (address, length) = destination.pointer();
        loop {
            // SAFETY: both pointers and lengths are those of live values.
            let sent = unsafe {
                libc::sendto(
                    fd.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    libc::MSG_DONTWAIT,
                    address,
                    length,
                )
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(classify(error));
            }
        }
    }

    /// Sends many packets in few syscalls, in their order; one that fails does not stop the others.
    pub fn send_batch<P: AsRef<[u8]>>(&mut self, packets: &[P]) -> Sent {
        let mut result = Sent::default();
        let mut rest = packets;
        while !rest.is_empty() {
            let taken = self.send_some(rest);
            result.sent += taken;
            rest = rest.get(taken..).unwrap_or_default();
            // What stopped the batch is told by sending that packet alone; then the batch goes on.
            if taken < CHUNK
                && let Some((stopped, after)) = rest.split_first()
            {
                result.count(&self.send(stopped.as_ref()), packets.len() - rest.len());
                rest = after;
            }
        }
        result
    }

    /// Sends from the beginning of `packets` what goes in one syscall, one family, and returns how many.
    fn send_some<P: AsRef<[u8]>>(&mut self, packets: &[P]) -> usize {
        let destinations: Vec<Destination> =
            packets.iter().take(CHUNK).map_while(|packet| Destination::of(packet.as_ref())).collect();
        let Some(first) = destinations.first() else { return 0 };
        let same = destinations.iter().take_while(|d| d.is_v4() == first.is_v4()).count();
        let mut vectors: Vec<libc::iovec> = packets
            .iter()
            .take(same)
            .map(AsRef::as_ref)
            .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> =
            vectors.iter_mut().zip(&destinations).map(|(vector, to)| header(vector, to)).collect();
        // SAFETY: each header points to one iovec and one address, both alive until after the call; the kernel
        // only reads the packets.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd(first).as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).unwrap_or_default()
    }

    fn fd(&self, destination: &Destination) -> &OwnedFd {
        if destination.is_v4() { &self.v4 } else { &self.v6 }
    }
}

impl Sent {
    fn count(&mut self, result: &Result<(), Error>, index: usize) {
        match result {
            Ok(()) => self.sent += 1,
            Err(Error::TooLong) => self.too_long.push(index),
            Err(Error::NoRoom) => self.no_room += 1,
            Err(_) => self.failed += 1,
        }
    }
}

fn header(vector: &mut libc::iovec, to: &Destination) -> libc::mmsghdr {
    let (address, length) = to.pointer();
    // SAFETY: `mmsghdr` is a plain C structure for which all zeros is a valid value.
    let mut header = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
    header.msg_hdr.msg_name = address.cast_mut().cast();
    header.msg_hdr.msg_namelen = length;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn open_raw(family: i32, mark: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are involved. IPPROTO_RAW means: the header is ours, nothing is received.
    let fd = owned(unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) })?;
    set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
    set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
    Ok(fd)
}

fn classify(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Error::TooLong,
        Some(libc::ENOBUFS | libc::EAGAIN) => Error::NoRoom,
        _ => Error::system("send raw packet", error),
    }
}

impl Destination {
    /// From the packet's own header; `None`: no IPv4 or IPv6 packet.
    fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 if packet.len() >= 20 => Some(Self::v4(Ipv4Addr::from(read::<4>(packet, 16)?))),
            6 if packet.len() >= 40 => Some(Self::v6(Ipv6Addr::from(read::<16>(packet, 24)?))),
            _ => None,
        }
    }

    fn v4(address: Ipv4Addr) -> Self {
        Self::V4(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            sin_zero: [0; 8],
        })
    }

    fn v6(address: Ipv6Addr) -> Self {
        Self::V6(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: address.octets() },
            sin6_scope_id: 0,
        })
    }

    fn is_v4(&self) -> bool {
        matches!(self, Self::V4(_))
    }

    /// Valid as long as `self` lives where it is.
    fn pointer(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::V4(address) => ((&raw const *address).cast(), size_of_val(address) as libc::socklen_t),
            Self::V6(address) => ((&raw const *address).cast(), size_of_val(address) as libc::socklen_t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Destination;

    #[test]
    fn only_whole_headers_have_a_destination() {
        let mut v4 = vec![0x45; 20];
        assert!(Destination::of(&v4).is_some_and(|to| to.is_v4()));
        v4.pop();
        assert!(Destination::of(&v4).is_none());
        assert!(Destination::of(&[0x60; 40]).is_some_and(|to| !to.is_v4()));
        assert!(Destination::of(&[0x60; 39]).is_none());
        assert!(Destination::of(&[0x70; 40]).is_none());
        assert!(Destination::of(&[]).is_none());
    }
}
