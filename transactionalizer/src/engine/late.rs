//! Applications that are later than they ever were.
//!
//! That is a suspicion, not yet a failure: a busy machine makes everything late. So the application is asked the operator's
//! question. It does not answer, and nothing comes on any other connection meanwhile: the backend has failed. It answers:
//! only this response is late; the backend's kernel is asked on its connection, which is given up when it is late by far. What comes after all
//! teaches patience, and so do slow answers to the question, and timers of our own that were looked at late.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Evidence, Flow};
use packet::Time;

use crate::connection::{Connection, Owed};
use crate::detector::kinds::{Bounds, Part, Patience};

use super::entry::{Entry, Late};
use super::{Action, Engine};

/// Body bytes after which a response tells by itself how regularly it comes.
const TELLING_BYTES: u64 = 1 << 20;
/// A connection of a live application is given up after so many of its timeouts,
const FAR_TOO_LATE: u32 = 4;
/// but not before this time.
const LEAST_LIMIT: Duration = Duration::from_secs(1);
/// Late connections that make a backend's failure of none that progresses.
const MANY: usize = 2;
/// A check may take so many times what the slowest one took of late,
const AS_SLOW_AGAIN: u32 = 2;
/// and so many times what we were late ourselves: to answer it takes an application more than one turn on a processor.
const TURNS: u32 = 32;

/// An overdue debt.
#[derive(Debug, Clone, Copy)]
struct Debt {
    since: Time,
    timeout: Duration,
    /// When its connection is given up though the application answers.
    limit: Time,
}

impl Engine {
    /// When the application's debt is to be looked at.
    pub(super) fn application_due(&self, backend: SocketAddr, entry: &Entry, live: Time) -> Option<Time> {
        let debt = self.debt(backend, entry.open()?, live)?;
        let again = entry.late().filter(|late| late.since == debt.since);
        Some(again.map_or(debt.since + debt.timeout, |late| late.next))
    }

    fn debt(&self, backend: SocketAddr, connection: &Connection, live: Time) -> Option<Debt> {
        let entry = self.backends.get(&backend)?;
        let (since, patience) = self.patience(connection, entry.pool)?;
        let since = since.max(live);
        let timeout = patience.timeout * entry.margin.factor(since);
        let longest = Duration::from_millis(self.cluster.detector.timeout_longest_ms);
        let far = if patience.known { (timeout * FAR_TOO_LATE).max(LEAST_LIMIT) } else { longest };
        Some(Debt { since, timeout, limit: since + far.min(longest).max(timeout) })
    }

    fn bounds(&self) -> Bounds {
        let config = &self.cluster.detector;
        let floor = Duration::from_millis(config.timeout_floor_ms.max(1));
        let ceiling = Duration::from_millis(config.timeout_ceiling_ms).max(floor);
        Bounds { floor, ceiling, longest: Duration::from_millis(config.timeout_longest_ms).max(ceiling) }
    }

    /// Since when the application owes, and how long it may.
    fn patience(&self, connection: &Connection, pool: usize) -> Option<(Time, Patience)> {
        let bounds = self.bounds().of_rule(connection);
        let of = |kind, part| self.kinds.patience(pool, kind, part, connection.repeatable(), &bounds);
        match connection.owed() {
            Owed::Nothing => None,
            Owed::Read(since) => Some((since, Patience { timeout: bounds.ceiling, known: false })),
            Owed::Start(kind, since) => Some((since, of(kind, Part::Start))),
            Owed::More(kind, since) => {
                let Patience { timeout, known } = of(kind, Part::Gap);
                let own = own_timeout(connection, bounds.floor);
                let timeout = own.map_or(timeout, |own| timeout.min(own));
                Some((since, Patience { timeout, known: known || own.is_some() }))
            }
        }
    }

    /// A debt is overdue.
    pub(super) fn handle_late(&mut self, flow: Flow, live: Time, now: Time, out: &mut Vec<Action>) {
        let connection = self.connection(flow);
        let Some(debt) = connection.and_then(|open| self.debt(flow.backend, open, live)) else { return };
        let late = self.note_late(flow, &debt, now);
        let bounds = self.bounds();
        let Some(backend) = self.backends.get_mut(&flow.backend) else { return };
        let alone = backend.progressed <= late.since && backend.late.len() >= MANY;
        let lives = backend.answered >= late.suspected;
        // As long as the check is not answered, that decides.
        if now >= debt.limit && lives {
            return self.give_up_late(flow, debt.since, alone, now, out);
        }
        let (floor, ceiling) = (bounds.floor * backend.margin.factor(now), bounds.ceiling);
        let slow = backend.health.slowest_answer(now) * AS_SLOW_AGAIN;
        let patience = floor.max(slow).max(self.lateness.get(now) * TURNS).min(ceiling);
        backend.health.ask_application(patience, now);
        let next = if now < debt.limit { debt.limit.min(now + debt.timeout) } else { now + patience };
        if let Some(entry) = self.entries.get_mut(&flow) {
            entry.late = Some(Box::new(Late { next, ..late }));
        }
        if lives {
            self.ask_on_connection(flow, out);
        }
        self.schedule(flow);
    }

    /// The process that had this connection may have ended, and its RST been lost: then the kernel sends another one.
    fn ask_on_connection(&mut self, flow: Flow, out: &mut Vec<Action>) {
        let question = self.connection(flow).map(Connection::keep_alive);
        self.counters.keep_alives += u64::from(question.is_some());
        out.extend(question.map(Action::KeepAlive));
    }

    fn note_late(&mut self, flow: Flow, debt: &Debt, now: Time) -> Late {
        let known = self.entries.get(&flow).and_then(Entry::late);
        if let Some(late) = known.filter(|late| late.since == debt.since) {
            return late;
        }
        self.counters.suspicions += 1;
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.late.insert(flow);
        }
        Late { since: debt.since, suspected: now, next: now }
    }

    /// The wait itself is the lesson: if the suspicion is wrong, the answer that would have taught so never comes.
    fn give_up_late(
        &mut self,
        flow: Flow,
        since: Time,
        backend_down: bool,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        self.counters.timeouts += 1;
        let pool = self.backends.get(&flow.backend).map_or(0, |entry| entry.pool);
        let waited = Some(now.since(since));
        match self.connection(flow).map(Connection::owed) {
            Some(Owed::Start(kind, _)) => self.kinds.learn(pool, kind, waited, None),
            Some(Owed::More(kind, _)) => self.kinds.learn(pool, kind, None, waited),
            Some(Owed::Nothing | Owed::Read(_)) | None => {}
        }
        let evidence = Evidence::ApplicationTimeout;
        if backend_down {
            self.fail_backend(flow.backend, evidence, since, now, out);
        } else {
            self.fail(vec![flow], evidence, since, false, now, out);
        }
    }

    /// A segment was logged: what was late may have come after all, or may not be wanted any more.
    pub(super) fn check_late(&mut self, flow: Flow, from_backend: bool, now: Time) {
        let Some(entry) = self.entries.get(&flow) else { return };
        let Some(late) = entry.late() else { return };
        let debt = self.live.and_then(|live| self.debt(flow.backend, entry.open()?, live));
        if debt.is_some_and(|debt| debt.since == late.since) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&flow) {
            entry.late = None;
        }
        let Some(backend) = self.backends.get_mut(&flow.backend) else { return };
        backend.late.remove(&flow);
        if from_backend {
            self.counters.suspicions_withdrawn += 1;
            backend.margin.handle_mistake(now);
        }
    }

    /// The application answered the check that began at `asked`.
    pub(super) fn handle_answers(&mut self, backend: SocketAddr, asked: Time) {
        if let Some(entry) = self.backends.get_mut(&backend) {
            entry.answered = asked;
        }
    }

    /// It did not. Whoever sends something meanwhile is not dead, but busy.
    pub(super) fn handle_answers_not(
        &mut self,
        backend: SocketAddr,
        asked: Time,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.backends.get(&backend) else { return };
        if entry.progressed > asked {
            return;
        }
        let late = entry.late.iter().filter_map(|flow| self.entries.get(flow)?.late());
        // Nothing is overdue any more: nobody asks.
        if let Some(since) = late.map(|late| late.since).min() {
            self.counters.timeouts += 1;
            self.fail_backend(backend, Evidence::ApplicationTimeout, since, now, out);
        }
    }
}

impl Bounds {
    /// A tag rule may have its own; its ceiling is the greatest timeout of known kinds, too.
    fn of_rule(self, connection: &Connection) -> Self {
        let (floor, ceiling) = connection.timeouts(self.floor, self.ceiling);
        let longest = if ceiling == self.ceiling { self.longest } else { ceiling };
        Self { floor, ceiling, longest }
    }
}

/// A long response that may be run again without harm need not wait for its kind to be known: ten times its own longest
/// gap is suspicious enough.
fn own_timeout(connection: &Connection, floor: Duration) -> Option<Duration> {
    let telling = connection.repeatable() && connection.body_bytes() >= TELLING_BYTES;
    telling.then(|| (connection.longest_gap().unwrap_or_default() * 10).max(2 * floor))
}
