//! Listens to what the kernel says of neighbours and links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use transactionalizer::detector::neighbours::{Lost, losses};

/// `RTMGRP_LINK` and `RTMGRP_NEIGH`, linux/rtnetlink.h.
const GROUPS: u32 = 1 | 4;
/// The kernel's datagrams are no longer (netlink(7)).
const BUFFER_BYTES: usize = 32 << 10;
/// Datagrams read at once; what else waits has its turn in the next round.
const AT_ONCE: usize = 64;

/// The kernel's account of neighbours and links.
#[derive(Debug)]
pub(crate) struct Neighbours {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Neighbours {
    /// Without it a lost link is noticed as any other silence is.
    pub(crate) fn open() -> Option<Self> {
        let opened = Self::try_open();
        opened
            .inspect_err(|error| tracing::warn!("lost links and neighbours show by silence only: {error}"))
            .ok()
    }

    fn try_open() -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Without a protocol: `NETLINK_ROUTE`, which is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// What was lost. Where messages were lost, too, nothing is known: silence tells.
    pub(crate) fn handle_ready(&mut self) -> Vec<Lost> {
        let mut lost = vec![];
        for _ in 0..AT_ONCE {
            match recv(&self.socket, &mut *self.buffer, RecvFlags::empty()) {
                Ok((length, _)) => lost.extend(losses(self.buffer.get(..length).unwrap_or_default())),
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => break,
            }
        }
        lost
    }
}

impl AsFd for Neighbours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
