//! What the backend owes on a connection, and how long it usually takes: the detector's view.

use std::time::Duration;

use packet::{SegmentBuilder, Seq, Time};

use crate::detector::KindId;

use super::Connection;

/// Less window than this keeps a sender from sending (RFC 9293 §3.8.6.2.1).
pub(super) const LITTLE_ROOM: u64 = 2 * 1460;

/// What was learnt from a response that is fully logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The kind of request that it tells of; none if it is an error.
    pub learnt: Option<KindId>,
    /// From the request's last byte to the response's first.
    pub start: Option<Duration>,
    /// The longest silence within it while the backend owed bytes.
    pub gap: Option<Duration>,
}

/// What the backend owes, and since when it alone could have paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Nothing that the application could be late with.
    Nothing,
    /// The beginning of a response.
    Start(KindId, Time),
    /// More of the response in progress.
    More(KindId, Time),
    /// To take more of a request: its window is closed.
    Read(Time),
}

impl Connection {
    /// Measurements since the last call.
    pub fn poll_measured(&mut self) -> Option<Measured> {
        let measured = self.measured.pop();
        if self.measured.is_empty() {
            self.measured = vec![];
        }
        measured
    }

    /// The backend sends these bytes. If it repeats what the client has, it goes on when it hears of that; the client may never hear
    /// of the copy, and then acknowledges nothing more.
    pub(super) fn note_gap(&mut self, seq: Seq, bytes: u32, now: Time) {
        if self.responses.in_body() {
            let gap = self.client_ready.map_or(Duration::ZERO, |since| now.since(since));
            self.longest_gap = Some(self.longest_gap.unwrap_or_default().max(gap));
        }
        let repeated = self.backend.has(seq, bytes);
        self.client_ready = (repeated && self.client_is_ready()).then_some(now);
    }

    /// Nothing is in flight, and the client's window lets the backend send (RFC 9293 §3.8.6.2.1: no silly windows).
    pub(super) fn client_is_ready(&self) -> bool {
        self.backend.acked() == self.backend.delivered() && self.has_room()
    }

    /// The backend may send: a sender with half of the greatest window does (the same section), however small that is.
    fn has_room(&self) -> bool {
        let half = u64::from(self.backend.greatest_window() / 2).max(1);
        self.backend.room() >= LITTLE_ROOM.min(half)
    }

    /// Its window is closed, and nothing is in flight that it still had room for: what a client sends beyond the window, as a
    /// probe (RFC 9293 §3.8.6.1) or because the proxy rounded the window up, is not taken.
    pub(super) fn backend_is_full(&self) -> bool {
        let all_taken = self.client.acked() == self.client.delivered();
        self.client.room() < LITTLE_ROOM && (all_taken || self.client.exceeds_window())
    }

    pub(super) fn owes(&self) -> bool {
        let unacknowledged = self.client.acked() < self.client.delivered();
        let limited = self.responses.in_body() && !self.has_room();
        let answer = self.requests.first().is_some_and(|request| request.complete.is_some());
        !self.over() && !self.response_released() && (unacknowledged || (answer && !limited))
    }

    pub(super) fn note_debt(&mut self, now: Time) {
        self.owed_since = if self.owes() { self.owed_since.or(Some(now)) } else { None };
    }

    /// Since when the backend has been silent although it owes something, if only an acknowledgement.
    pub fn silent_since(&self) -> Option<Time> {
        self.owed_since.map(|since| since.max(self.heard))
    }

    /// What the application owes.
    pub fn owed(&self) -> Owed {
        let Some(request) = self.requests.first() else { return Owed::Nothing };
        if self.opaque.is_some() || self.released || self.client_reset {
            return Owed::Nothing;
        }
        match (self.responses.in_body(), request.complete, self.client_ready) {
            (true, _, Some(since)) => Owed::More(request.kind, since),
            (true, _, None) => Owed::Nothing,
            (false, None, _) => self.starved.map_or(Owed::Nothing, Owed::Read),
            (false, Some(complete), _) => Owed::Start(request.kind, complete.max(self.ended)),
        }
    }

    /// Bounds of the application's timeouts: those of the rule that decided on the request in progress, or else these.
    pub fn timeouts(&self, floor: Duration, ceiling: Duration) -> (Duration, Duration) {
        self.requests.first().map_or((floor, ceiling), |request| request.timeouts(floor, ceiling))
    }

    /// The longest gap so far within the response in progress.
    pub fn longest_gap(&self) -> Option<Duration> {
        self.longest_gap
    }

    /// Body bytes logged of the response in progress.
    pub fn body_bytes(&self) -> u64 {
        self.responses.body_bytes()
    }

    /// Whether the response in progress is to a request that may be run again without harm.
    pub fn repeatable(&self) -> bool {
        self.requests.first().is_some_and(|request| request.tags.read_only || request.tags.idempotent)
    }

    /// A segment that a live kernel answers with an acknowledgement and that changes nothing: a keep-alive probe
    /// (RFC 9293 §3.8.4), in the client's name. One that does not know the connection answers with an RST at what is acknowledged:
    /// what the client takes.
    pub fn keep_alive(&self) -> Vec<u8> {
        let mut segment = SegmentBuilder::new(self.client_address.into(), self.backend_address.into());
        segment.seq = self.client.seq(self.client.acked()) - 1;
        segment.ack = Some(self.backend.acknowledged());
        segment.window = self.backend.window_field();
        segment.build()
    }
}
