//! A shard's thread, whose end is always told.
#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns threads")]

use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use super::mailbox::Post;
use super::shard::{FromShard, Shard};

/// Tells the control thread that a shard's thread ends, also by a panic.
struct Ending(Post<FromShard>, Result<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send(FromShard::Ended(std::mem::replace(&mut self.1, Ok(()))));
    }
}

/// Runs a shard in a thread of its own.
pub(super) fn spawn(shard: Shard, number: u16, control: Post<FromShard>) -> Result<JoinHandle<()>> {
    let run = move || {
        let mut ending = Ending(control, Err(anyhow!("the thread of queue {number} panicked")));
        ending.1 = shard.run().with_context(|| format!("queue {number}"));
    };
    std::thread::Builder::new().name(format!("queue-{number}")).spawn(run).context("starting a thread")
}
