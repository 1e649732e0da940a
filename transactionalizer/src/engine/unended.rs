//! Failures that nobody has dealt with yet: those that wait for a manager, and reports whose recovery has not ended. A manager,
//! its connection or an earlier transactionalizer may have died with them; their clients must not be left hanging.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Client, ConnectionReport, Evidence, Flow, Swallowed};
use packet::Time;

use crate::spans::LogBytes;

use crate::judge::End;

use super::entry::{Entry, State};
use super::{Action, Engine, Failure};

/// A failure waits so long for a manager, less than the logger holds a segment; then the client gets what the backend sent.
const MANAGER_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of reports kept at most; further ones are told only once.
const REPORT_BYTES: usize = 64 << 20;

/// A failure that was found while nobody could be told.
#[derive(Debug, Clone, Copy)]
struct Postponed {
    evidence: Evidence,
    since: Time,
    backend_down: bool,
    /// It was found while the log was caught up with: an earlier transactionalizer may have dealt with it.
    old: bool,
    /// Unknown while the log is caught up with.
    until: Option<Time>,
}

/// A report whose recovery has not ended.
#[derive(Debug)]
struct Told {
    report: ConnectionReport,
    evidence: Evidence,
    since: Time,
    backend_down: bool,
    /// What the fence has swallowed of this client since.
    swallowed: Vec<Swallowed>,
    expires: Time,
}

impl Told {
    fn bytes(&self) -> usize {
        self.report.bytes() + self.swallowed.iter().map(|swallowed| swallowed.bytes.len()).sum::<usize>()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Unended {
    postponed: BTreeMap<Flow, Postponed>,
    /// Held ends for which a second opinion will be needed once the log has been caught up with.
    questions: BTreeMap<Flow, (End, Time)>,
    told: BTreeMap<Client, Told>,
    bytes: usize,
}

impl Unended {
    /// Keeps what a failure tells until its recovery ends, or `expires`.
    pub(super) fn keep(&mut self, failure: &Failure, expires: Time) {
        let Failure { evidence, since, backend_down, .. } = *failure;
        for report in &failure.connections {
            self.forget(report.flow.client);
            if self.bytes + report.bytes() <= REPORT_BYTES {
                self.bytes += report.bytes();
                let swallowed = Vec::new();
                let told = Told { report: report.clone(), evidence, since, backend_down, swallowed, expires };
                self.told.insert(report.flow.client, told);
            }
        }
    }

    /// Its recovery has ended, or it has begun anew.
    pub(super) fn forget(&mut self, client: Client) {
        if let Some(told) = self.told.remove(&client) {
            self.bytes = self.bytes.saturating_sub(told.bytes());
        }
    }

    /// Told again with the report that it belongs to.
    pub(super) fn keep_swallowed(&mut self, swallowed: &Swallowed) {
        let more = swallowed.bytes.len();
        let Some(told) = self.told.get_mut(&swallowed.flow.client) else { return };
        let belongs = told.report.flow == swallowed.flow && told.report.client_next == swallowed.client_next;
        if belongs && self.bytes + more <= REPORT_BYTES {
            self.bytes += more;
            told.swallowed.push(swallowed.clone());
        }
    }

    /// A recovery of this client ended on `backend`; if it has failed there since, that is another one.
    pub(super) fn end(&mut self, client: Client, backend: Option<SocketAddr>) {
        let ended = |told: &Told| backend != Some(told.report.flow.backend);
        if self.told.get(&client).is_some_and(ended) {
            self.forget(client);
        }
    }

    pub(super) fn expire(&mut self, now: Time) {
        let over = self.told.iter().filter(|(_, told)| told.expires <= now);
        let over: Vec<Client> = over.map(|(client, _)| *client).collect();
        for client in over {
            self.forget(client);
        }
    }

    /// When one of them waits no longer; at once if a manager is there.
    pub(super) fn due(&self, now: Time, managers: usize) -> Option<Time> {
        let untils = self.postponed.values().map(|postponed| postponed.until.unwrap_or(now));
        untils.min().map(|until| if managers > 0 { now } else { until })
    }

    fn take_due(&mut self, now: Time, managers: usize) -> Vec<(Flow, Postponed)> {
        let mut due = Vec::new();
        self.postponed.retain(|flow, postponed| {
            let until = *postponed.until.get_or_insert(now + MANAGER_PATIENCE);
            let is_due = managers > 0 || until <= now;
            if is_due {
                due.push((*flow, *postponed));
            }
            !is_due
        });
        due
    }
}

impl Engine {
    /// The reports of recoveries that have not ended, for a manager that has just come. Meanwhile an alternate may have run updates.
    pub fn unended(&self) -> impl Iterator<Item = Failure> + '_ {
        self.unended.told.values().map(|told| {
            let mut report = told.report.clone();
            if let Some(updates) = &mut report.updates {
                updates.ran_at = self.ran_at(report.flow.client).unwrap_or(&updates.ran_at).to_vec();
            }
            Failure {
                evidence: told.evidence,
                since: told.since,
                backend_down: told.backend_down,
                backend: told.report.flow.backend,
                connections: vec![report],
            }
        })
    }

    /// What fences have swallowed of those clients, for the same manager, behind the reports.
    pub fn unended_swallowed(&self) -> impl Iterator<Item = &Swallowed> {
        self.unended.told.values().flat_map(|told| &told.swallowed)
    }

    /// Nobody can be told of a failure now: the log is still being caught up with, or no manager listens.
    pub(super) fn postpone(
        &mut self,
        flow: Flow,
        evidence: Evidence,
        since: Time,
        backend_down: bool,
        now: Time,
    ) {
        let until = self.live.map(|_| now + MANAGER_PATIENCE);
        let postponed = Postponed { evidence, since, backend_down, old: self.live.is_none(), until };
        self.unended.postponed.entry(flow).or_insert(postponed);
    }

    pub(super) fn is_postponed(&self, flow: Flow) -> bool {
        self.unended.postponed.contains_key(&flow)
    }

    /// What the logger had fenced when we came to it. A flow that is open here was fenced by a predecessor, which may have died
    /// before it told anybody: nothing passes any more, and nobody else will notice. What we have released of it meanwhile did not pass
    /// either: it was suppressed when the fence was ordered.
    pub fn handle_fences(&mut self, fenced: &[Flow], now: Time) {
        for flow in fenced {
            let Some(entry) = self.entries.get_mut(flow) else { continue };
            if let State::Open(connection) = &mut entry.state {
                connection.handle_not_released();
            }
            if entry.concerned() {
                self.postpone(*flow, Evidence::HostSilent, now, false, now);
            }
        }
    }

    /// An end whose meaning only the backend's state tells, found while the log is caught up with.
    pub(super) fn postpone_question(&mut self, flow: Flow, end: End, since: Time) {
        self.unended.questions.insert(flow, (end, since));
    }

    /// Asks for the opinions that were postponed, if the ends are still held as far as the log tells.
    fn ask_postponed(&mut self, now: Time, out: &mut Vec<Action>) {
        for (flow, (end, since)) in std::mem::take(&mut self.unended.questions) {
            let Some(entry) = self.entries.get(&flow) else { continue };
            if !entry.concerned() || entry.held.is_empty() || now.since(since) > self.recovery_patience() {
                self.release_held(flow, out);
            } else {
                self.ask(flow, end, since);
            }
        }
    }

    /// Tells of what was postponed, or gives it up.
    pub(super) fn fail_postponed(&mut self, now: Time, out: &mut Vec<Action>) {
        self.ask_postponed(now, out);
        for (flow, postponed) in self.unended.take_due(now, self.managers) {
            let Postponed { evidence, since, backend_down, old, .. } = postponed;
            // Longer ago than any recovery takes: whatever could be done was done.
            let past = old && now.since(since) > self.recovery_patience();
            if past || !self.entries.get(&flow).is_some_and(Entry::concerned) {
                continue;
            }
            if self.managers == 0 {
                self.wait_or_give_up(flow, postponed, now, out);
                continue;
            }
            self.fail(vec![flow], evidence, since, backend_down, now, out);
            if !backend_down {
                self.suspect(flow, evidence, since);
            }
        }
    }

    /// What is held of the backend's must not be held for longer. Of a backend that is down and says nothing the client has nothing
    /// to gain: it waits for a manager, however long.
    fn wait_or_give_up(&mut self, flow: Flow, postponed: Postponed, now: Time, out: &mut Vec<Action>) {
        let down = self.backends.get(&flow.backend).is_some_and(|backend| !backend.health.is_up());
        if down && self.entries.get(&flow).is_some_and(|entry| entry.held.is_empty()) {
            let postponed = Postponed { until: Some(now + MANAGER_PATIENCE), ..postponed };
            self.unended.postponed.insert(flow, postponed);
        } else {
            self.give_up(flow, postponed.evidence, out);
        }
    }

    /// While the log is caught up with: a client that goes to another backend is being recovered, was, or has begun anew. Until a manager
    /// knows the end of that, or the client begins anew, one that comes is told: the one that knew may be gone, too. That the other backend
    /// has answered does not tell whether the answer was any good.
    pub(super) fn leave_others(&mut self, flow: Flow, now: Time, log: &dyn LogBytes) {
        let others: Vec<SocketAddr> =
            self.backends.keys().copied().filter(|backend| *backend != flow.backend).collect();
        for backend in others {
            let other = Flow { client: flow.client, backend };
            let Some(entry) = self.entries.get_mut(&other).filter(|entry| entry.open().is_some()) else {
                continue;
            };
            entry.held = Vec::new();
            let lapped = entry.suspect != (false, false);
            let State::Open(connection) = entry.fail() else { continue };
            let report = self.report_open(*connection, lapped, now, log);
            self.expect_swallowed(&report);
            self.remember(&report, now);
            self.note_end(other, now);
            self.keep_left(report, now);
            self.keep_waiting_swallowed(other);
        }
    }

    fn keep_left(&mut self, report: ConnectionReport, now: Time) {
        let expires = now + self.recovery_patience();
        if expires <= self.latest {
            return;
        }
        let backend = report.flow.backend;
        let (evidence, connections) = (Evidence::HostSilent, vec![report]);
        let failure = Failure { evidence, since: now, backend_down: false, backend, connections };
        self.unended.keep(&failure, expires);
    }
}
