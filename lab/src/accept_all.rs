//! The least that a program on an NFQUEUE can do: accept everything. What a logger can be compared with.

use std::io::Write;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use netfilter::queue::{BATCH, Queue, QueueConfig};
use rustix::event::{PollFd, PollFlags, poll};

/// Line that it prints when the queue is bound.
pub const READY: &str = "ready";

/// Accepts what comes in queue `number`, a batch with one message, until it is killed.
pub fn accept_all(number: u16) -> Result<()> {
    let config = QueueConfig { number, max_packets: 16_384, receive_buffer: 64 << 20 };
    let mut queue = Queue::bind(&config).context("binding the queue")?;
    println!("{READY}");
    std::io::stdout().flush()?;
    loop {
        let mut last = None;
        let count = queue.recv_batch(&mut |packet, _| last = Some(packet.id))?;
        if let Some(last) = last {
            queue.accept_through(last)?;
            queue.flush()?;
        }
        if count < BATCH {
            poll(&mut [PollFd::from_borrowed_fd(queue.as_fd(), PollFlags::IN)], None)?;
        }
    }
}
