//! What ends a client's connection, and a lost connection to the proxy must not lose: nobody else tells the client.

use std::collections::VecDeque;
use std::time::Duration;

use cluster::control::{Client, ToProxy};
use packet::Time;

use super::LoggerId;

/// A reset may still lie in the connection's buffers for so long after it was sent; later its client's port
/// may belong to a new connection.
const IN_TRANSIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    /// Not sent, or not sent again, after this.
    until: Time,
    /// A [`ToProxy::Reset`] or [`ToProxy::Answer`].
    message: ToProxy,
}

/// Both queues are bounded by `limit` entries; the oldest has to go.
#[derive(Debug)]
pub(super) struct Resets {
    waiting: VecDeque<Entry>,
    sent: VecDeque<Entry>,
    limit: usize,
}

/// Logs that are not told of the end yet: as long as the proxy may not have been told, they repeat their report to a manager that
/// is started anew.
#[derive(Debug, Default)]
pub(super) struct Untold(VecDeque<(Time, LoggerId, Client)>);

impl Untold {
    /// `wait`: how long the message to the proxy may have to wait itself.
    pub(super) fn push(&mut self, now: Time, wait: Duration, logger: LoggerId, client: Client) {
        self.0.push_back((now + wait + IN_TRANSIT, logger, client));
    }

    /// The connection to the proxy broke: what was sent just now waits as long as `wait`.
    pub(super) fn postpone(&mut self, now: Time, wait: Duration) {
        self.0.iter_mut().for_each(|(until, ..)| *until = now + wait + IN_TRANSIT);
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.0.front().map(|(until, ..)| *until)
    }

    /// The next one that may be told: when it is due, or the oldest of more than `limit`.
    pub(super) fn pop(&mut self, now: Time, limit: usize) -> Option<(LoggerId, Client)> {
        let due = self.0.front().is_some_and(|(until, ..)| *until <= now) || self.0.len() > limit;
        let (_, logger, client) = if due { self.0.pop_front()? } else { return None };
        Some((logger, client))
    }
}

impl Resets {
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), sent: VecDeque::new(), limit }
    }

    /// For a connected proxy.
    pub(super) fn send(&mut self, now: Time, message: ToProxy) -> ToProxy {
        while self.sent.front().is_some_and(|entry| entry.until <= now)
            || self.sent.len() >= self.limit.max(1)
        {
            self.sent.pop_front();
        }
        self.sent.push_back(Entry { until: now + IN_TRANSIT, message: message.clone() });
        message
    }

    /// For a proxy that is not there; true if the oldest was given up for it.
    pub(super) fn wait(&mut self, until: Time, message: ToProxy) -> bool {
        self.waiting.push_back(Entry { until, message });
        self.waiting.len() > self.limit && self.waiting.pop_front().is_some()
    }

    /// The connection broke: what was sent just now may not have arrived.
    pub(super) fn handle_disconnected(&mut self, now: Time) {
        let lost = std::mem::take(&mut self.sent).into_iter().filter(|entry| entry.until > now);
        self.waiting.extend(lost);
    }

    /// What to tell a proxy that is back. It may break off again before it has got that.
    pub(super) fn send_waiting(&mut self, now: Time) -> Vec<ToProxy> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|entry| self.send(now, entry.message)).collect()
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
