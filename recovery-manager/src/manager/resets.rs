//! Resets that a lost connection to the proxy must not lose: nobody else tells the client.

use std::collections::VecDeque;
use std::time::Duration;

use cluster::control::{Flow, ToProxy};
use packet::Time;

/// A reset may still lie in the connection's buffers for so long after it was sent; later its client's port
/// may belong to a new connection.
const IN_TRANSIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    /// Not sent, or not sent again, after this.
    until: Time,
    reset: Reset,
}

/// What becomes a [`ToProxy::Reset`].
#[derive(Debug, Clone)]
pub(super) struct Reset {
    pub(super) flow: Flow,
    pub(super) end: Option<u32>,
    pub(super) reason: String,
}

impl From<Reset> for ToProxy {
    fn from(Reset { flow, end, reason }: Reset) -> Self {
        Self::Reset { flow, end, reason }
    }
}

/// Both queues are bounded by `limit` entries; the oldest has to go.
#[derive(Debug)]
pub(super) struct Resets {
    waiting: VecDeque<Entry>,
    sent: VecDeque<Entry>,
    limit: usize,
}

impl Resets {
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), sent: VecDeque::new(), limit }
    }

    /// For a connected proxy.
    pub(super) fn send(&mut self, now: Time, reset: Reset) -> ToProxy {
        while self.sent.front().is_some_and(|entry| entry.until <= now)
            || self.sent.len() >= self.limit.max(1)
        {
            self.sent.pop_front();
        }
        self.sent.push_back(Entry { until: now + IN_TRANSIT, reset: reset.clone() });
        reset.into()
    }

    /// For a proxy that is not there; true if the oldest was given up for it.
    pub(super) fn wait(&mut self, until: Time, reset: Reset) -> bool {
        self.waiting.push_back(Entry { until, reset });
        self.waiting.len() > self.limit && self.waiting.pop_front().is_some()
    }

    /// The connection broke: what was sent just now may not have arrived.
    pub(super) fn handle_disconnected(&mut self, now: Time) {
        let lost = std::mem::take(&mut self.sent).into_iter().filter(|entry| entry.until > now);
        self.waiting.extend(lost);
    }

    /// What to tell a proxy that is back.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = ToProxy> {
        std::mem::take(&mut self.waiting).into_iter().map(|entry| entry.reset.into())
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.waiting.front().map(|entry| entry.until)
    }

    /// Gives up what is due; how many.
    pub(super) fn handle_timeout(&mut self, now: Time) -> u64 {
        let mut given_up = 0;
        while self.waiting.front().is_some_and(|entry| entry.until <= now) {
            self.waiting.pop_front();
            given_up += 1;
        }
        given_up
    }
}
