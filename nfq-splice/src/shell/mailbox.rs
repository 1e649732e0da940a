//! Messages between threads that wait in poll(2): a channel and a descriptor that becomes readable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};

/// Where messages are posted. May be cloned.
pub(super) struct Post<T> {
    sender: SyncSender<T>,
    bell: Arc<OwnedFd>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

/// Where they are taken out.
pub(super) struct Mailbox<T> {
    receiver: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// A mailbox for `room` messages.
pub(super) fn mailbox<T>(room: usize) -> Result<(Post<T>, Mailbox<T>)> {
    let (sender, receiver) = sync_channel(room);
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?;
    let bell = Arc::new(bell);
    Ok((Post { sender, bell: Arc::clone(&bell) }, Mailbox { receiver, bell }))
}

impl<T> Post<T> {
    /// Waits while the mailbox is full. A mailbox whose owner is gone swallows messages: its end is told otherwise.
    pub(super) fn send(&self, message: T) {
        if self.sender.send(message).is_ok() {
            self.ring();
        }
    }

    /// False, and the message is lost, if the mailbox is full.
    pub(super) fn offer(&self, message: T) -> bool {
        let posted = self.sender.try_send(message).is_ok();
        if posted {
            self.ring();
        }
        posted
    }

    fn ring(&self) {
        // It can only fail when the bell rings already, 2⁶⁴ times.
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

impl<T> Mailbox<T> {
    /// What is there now.
    pub(super) fn take(&self) -> impl Iterator<Item = T> + '_ {
        // First the bell: a message that comes now rings again.
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        self.receiver.try_iter()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
