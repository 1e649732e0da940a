//! What clients send to a failed backend after its fence: the logger logs it, and drops it. It is not part of what the connection
//! with that backend has carried, so it counts for no transaction; the recovery gets it behind the report, as the client's next bytes.

use std::time::Duration;

use cluster::control::{ConnectionReport, Flow, SWALLOWED_BYTES, Swallowed};
use packet::{Flags, Seq, Time};

use crate::kept::Share;

use super::entry::State;
use super::segments::Seen;
use super::{Action, Engine};

/// Bytes of all connections that are passed on in any [`PERIOD`]: far less than what may wait for a manager
/// ([`cluster::connection::MAX_OUTGOING`]).
const PERIOD_BYTES: usize = 8 << 20;
const PERIOD: Duration = Duration::from_millis(500);

/// Of one failed connection.
#[derive(Debug)]
pub(super) struct Swallowing {
    /// S, once it has been reported.
    client_next: Option<Seq>,
    /// All that came.
    bytes: usize,
    /// What waits for the report.
    waiting: Vec<Swallowed>,
    share: Share,
}

impl Swallowing {
    fn new(share: Share) -> Self {
        Self { client_next: None, bytes: 0, waiting: Vec::new(), share }
    }

    /// False: it is too much.
    fn count(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= SWALLOWED_BYTES
    }

    fn wait(&mut self, swallowed: Swallowed) -> bool {
        let room = self.share.set(self.bytes);
        if room {
            self.waiting.push(swallowed);
        }
        room
    }
}

/// What was passed on lately.
#[derive(Debug, Default)]
pub(super) struct Passed {
    since: Time,
    bytes: usize,
}

impl Passed {
    fn count(&mut self, bytes: usize, now: Time) -> bool {
        if now.since(self.since) >= PERIOD {
            *self = Self { since: now, bytes: 0 };
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= PERIOD_BYTES
    }
}

impl Engine {
    /// A segment of a client that the logger's fence has dropped.
    pub(super) fn handle_swallowed(&mut self, seen: &Seen<'_>, out: &mut Vec<Action>) {
        let Seen { flow, segment, logged } = seen;
        // Urgent data keeps its place only where the client itself says where that is.
        if segment.flags().contains(Flags::URG) {
            return;
        }
        let Self { entries, kept, counters, .. } = self;
        let Some(entry) = entries.get_mut(flow) else { return };
        let swallowing = match (&entry.state, &mut entry.swallowing) {
            (State::Open(_), swallowing) => {
                Some(swallowing.get_or_insert_with(|| Box::new(Swallowing::new(kept.share()))))
            }
            (State::Failed(_), swallowing) => swallowing.as_mut(),
            (State::Unseen | State::Middle(_), _) => None,
        };
        let Some(swallowing) = swallowing else { return };
        let bytes = segment.payload().to_vec();
        if !swallowing.count(bytes.len()) {
            counters.swallowed_limit_dropped += 1;
            return;
        }
        let timestamp = segment.timestamps().map(|(value, _)| value);
        let reported = swallowing.client_next;
        let client_next = reported.unwrap_or_default().0;
        let swallowed = Swallowed { flow: *flow, client_next, seq: segment.seq().0, timestamp, bytes };
        if reported.is_some() {
            self.pass_swallowed(swallowed, logged.time, out);
        } else if !swallowing.wait(swallowed) {
            counters.swallowed_limit_dropped += 1;
        }
    }

    /// A connection is reported: what comes from now on belongs to this report.
    pub(super) fn expect_swallowed(&mut self, report: &ConnectionReport) {
        let Some(entry) = self.entries.get_mut(&report.flow) else { return };
        if report.unrecoverable.is_some() {
            entry.swallowing = None;
            return;
        }
        let new = || Box::new(Swallowing::new(self.kept.share()));
        entry.swallowing.get_or_insert_with(new).client_next = Some(Seq(report.client_next));
    }

    /// The report has left: what came before it follows.
    pub(super) fn tell_swallowed(&mut self, flow: Flow, now: Time, out: &mut Vec<Action>) {
        for swallowed in self.take_waiting_swallowed(flow) {
            self.pass_swallowed(swallowed, now, out);
        }
    }

    /// Nobody can be told of the report yet.
    pub(super) fn keep_waiting_swallowed(&mut self, flow: Flow) {
        for swallowed in self.take_waiting_swallowed(flow) {
            self.unended.keep_swallowed(&swallowed);
        }
    }

    fn take_waiting_swallowed(&mut self, flow: Flow) -> Vec<Swallowed> {
        let swallowing = self.entries.get_mut(&flow).and_then(|entry| entry.swallowing.as_mut());
        let Some(swallowing) = swallowing else { return Vec::new() };
        let Some(client_next) = swallowing.client_next else { return Vec::new() };
        swallowing.share.set(0);
        let waiting = std::mem::take(&mut swallowing.waiting).into_iter();
        waiting.map(|swallowed| Swallowed { client_next: client_next.0, ..swallowed }).collect()
    }

    /// What repeats bytes before S says nothing new.
    fn pass_swallowed(&mut self, swallowed: Swallowed, now: Time, out: &mut Vec<Action>) {
        let Swallowed { client_next, seq, ref bytes, .. } = swallowed;
        if (Seq(seq) + bytes.len() as u32).before_or_at(Seq(client_next)) {
            return;
        }
        self.unended.keep_swallowed(&swallowed);
        if self.managers == 0 || self.live.is_none() {
            return;
        }
        if !self.passed.count(bytes.len(), now) {
            self.counters.swallowed_limit_dropped += 1;
            return;
        }
        self.counters.swallowed += 1;
        out.push(Action::Swallowed(swallowed));
    }
}
