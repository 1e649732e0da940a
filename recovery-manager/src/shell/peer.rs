//! A nonblocking connection that carries framed messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use cluster::frame::{self, Decoder};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// One connection. Bytes that the kernel does not take wait here.
#[derive(Debug)]
pub(crate) struct Peer {
    fd: OwnedFd,
    decoder: Decoder,
    unsent: Vec<u8>,
    sent: usize,
    most_unsent: usize,
}

impl Peer {
    /// `fd` is nonblocking; more than `most_unsent` waiting bytes are an error.
    pub(crate) fn new(fd: OwnedFd, most_unsent: usize) -> Self {
        Self { fd, decoder: Decoder::new(), unsent: Vec::new(), sent: 0, most_unsent }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends as much as the kernel takes now.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let frame = frame::encode(message)?;
        if self.unsent.len() - self.sent + frame.len() > self.most_unsent {
            bail!("the peer does not read: {} bytes wait for it", self.unsent.len() - self.sent);
        }
        self.unsent.extend_from_slice(&frame);
        self.flush()
    }

    /// Bytes wait until the connection is writable.
    pub(crate) fn is_waiting(&self) -> bool {
        self.sent < self.unsent.len()
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(rest) = self.unsent.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.fd, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(io::Error::from(error)).context("could not send"),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once; false if the peer closed the connection.
    pub(crate) fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        buffer.resize(READ_BYTES, 0);
        match rustix::io::read(&self.fd, buffer.as_mut_slice()) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.decoder.push(buffer.get(..n).unwrap_or_default());
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(error) => Err(io::Error::from(error)).context("could not receive"),
        }
    }

    /// The next whole message.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        Ok(self.decoder.next()?)
    }
}
