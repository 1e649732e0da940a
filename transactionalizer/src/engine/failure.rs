//! From evidence to a report (paper §4.3, first step).

use std::net::SocketAddr;

use cluster::control::{ConnectionReport, Evidence, Flow};
use packet::Time;

use crate::connection::Connection;
use crate::spans::LogBytes;

use super::entry::State;
use super::segments::LAPPED;
use super::{Action, Engine, Failure};

/// Why a connection is not recoverable of whose requests more is outstanding than may be replayed.
const TOO_LARGE: &str = "the pending requests are larger than recovery.upload_bytes";

/// Connections that are fenced, until the fence is known to hold.
#[derive(Debug)]
pub(super) struct Failing {
    flows: Vec<Flow>,
    evidence: Evidence,
    since: Time,
    backend_down: bool,
    backend: SocketAddr,
}

/// Bytes of reports in one message, about; far below what a control message may have.
const BATCH_BYTES: usize = 8 << 20;

impl Engine {
    /// The whole backend has failed: all its connections are reported with it.
    pub(super) fn fail_backend(
        &mut self,
        backend: SocketAddr,
        evidence: Evidence,
        since: Time,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.backends.get_mut(&backend) else { return };
        let was_up = entry.health.is_up();
        entry.health.handle_down(now);
        entry.asking.clear();
        entry.late.clear();
        entry.down_by_timeout = evidence == Evidence::ApplicationTimeout;
        self.counters.backend_downs += u64::from(was_up);
        let concerned = self.entries.of(backend).filter(|(_, entry)| entry.concerned());
        let mut flows: Vec<Flow> = concerned.map(|(flow, _)| flow).collect();
        flows.sort_unstable();
        if !flows.is_empty() {
            self.fail(flows, evidence, since, true, now, out);
        } else if was_up && self.live.is_some() {
            let connections = vec![];
            out.push(Action::Failed(Failure { evidence, since, backend_down: true, backend, connections }));
        }
    }

    /// These connections, all of one backend, have failed: the backend is fenced on each, then they are reported. What passes
    /// before the fence holds still counts, so the report waits for that: a backend that has sent its FIN may acknowledge what the
    /// client says meanwhile, and the client will not say that again; one that is down may still have sent the client something.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fail(
        &mut self,
        flows: Vec<Flow>,
        evidence: Evidence,
        since: Time,
        backend_down: bool,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(backend) = flows.first().map(|flow| flow.backend) else { return };
        if self.live.is_none() || self.managers == 0 {
            return flows.iter().for_each(|flow| self.postpone(*flow, evidence, since, backend_down, now));
        }
        self.last_barrier += 1;
        let barrier = self.last_barrier;
        for flow in &flows {
            self.fence(*flow, barrier, out);
        }
        self.failing.insert(barrier, Failing { flows, evidence, since, backend_down, backend });
        out.push(Action::Barrier(barrier));
    }

    /// A flow has been opened anew before its fence under `barrier` is known to hold. The fence may well have hit the new
    /// connection, which nobody would notice any more: that fails, too.
    pub(super) fn fail_again(&mut self, flow: Flow, barrier: u64, now: Time) {
        if let Some(Failing { evidence, since, backend_down, .. }) = self.failing.get(&barrier) {
            self.postpone(flow, *evidence, *since, *backend_down, now);
        }
    }

    fn fence(&mut self, flow: Flow, barrier: u64, out: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        (entry.failing, entry.fenced) = (Some(barrier), true);
        entry.late = None;
        let held = std::mem::take(&mut entry.held);
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.asking.remove(&flow);
            backend.late.remove(&flow);
        }
        for held in held {
            self.suppress(held.hold, out);
        }
        out.push(Action::Fence(flow));
    }

    /// The logger may not know any more (what its log has lost), or was not there to be told, which backends are fenced, nor that it
    /// was asked whether that is in force.
    pub fn fence_again(&self, out: &mut Vec<Action>) {
        let fenced = self.entries.iter().filter(|(_, entry)| entry.fenced);
        out.extend(fenced.map(|(flow, _)| Action::Fence(flow)));
        out.extend(self.failing.keys().map(|barrier| Action::Barrier(*barrier)));
    }

    /// The fences sent before this barrier hold, and all that passed before has been read from the log.
    pub fn handle_fenced(&mut self, barrier: u64, now: Time, log: &dyn LogBytes, out: &mut Vec<Action>) {
        if let Some(failing) = self.failing.remove(&barrier) {
            self.report(barrier, &failing, now, log, out);
        }
    }

    fn report(
        &mut self,
        barrier: u64,
        failing: &Failing,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        let reports = failing.flows.iter().filter_map(|flow| self.report_one(*flow, barrier, now, log));
        let mut reports: Vec<ConnectionReport> = reports.collect();
        // Who waits for something first: it may take a while until all have had their turn.
        reports.sort_by_key(|report| report.pending.is_empty());
        self.counters.failed += reports.len() as u64;
        let unrecoverable = reports.iter().filter(|report| report.unrecoverable.is_some()).count();
        self.counters.unrecoverable += unrecoverable as u64;
        let Failing { evidence, since, backend_down, backend, .. } = *failing;
        for connections in batches(reports) {
            let failure = Failure { evidence, since, backend_down, backend, connections };
            self.unended.keep(&failure, now + self.recovery_patience());
            out.push(Action::Failed(failure));
        }
        failing.flows.iter().for_each(|flow| self.tell_swallowed(*flow, now, out));
    }

    /// `None` if the flow has been opened anew since it was fenced.
    fn report_one(
        &mut self,
        flow: Flow,
        barrier: u64,
        now: Time,
        log: &dyn LogBytes,
    ) -> Option<ConnectionReport> {
        let entry = self.entries.get_mut(&flow).filter(|entry| entry.failing == Some(barrier))?;
        entry.failing = None;
        let lapped = entry.suspect != (false, false);
        let report = match entry.fail() {
            State::Open(connection) => self.report_open(*connection, lapped, now, log),
            State::Middle(middle) => middle.report(flow),
            State::Unseen | State::Failed(_) => return None,
        };
        self.expect_swallowed(&report);
        self.remember(&report, now);
        self.note_end(flow, now);
        Some(report)
    }

    /// What recovery needs of a connection that is over here; what it may ask for later is kept. `lapped`: the log may lack some of it.
    pub(super) fn report_open(
        &mut self,
        connection: Connection,
        lapped: bool,
        now: Time,
        log: &dyn LogBytes,
    ) -> ConnectionReport {
        let mut report = connection.report(log);
        self.counters.replay_limit_lost += u64::from(connection.updates_lost().is_some());
        let most = self.cluster.recovery.upload_bytes;
        let reason = if lapped {
            Some(LAPPED)
        } else {
            report.rest.filter(|rest| rest.bytes > most).map(|_| TOO_LARGE)
        };
        if let Some(reason) = reason {
            report.unrecoverable.get_or_insert_with(|| reason.to_owned());
        }
        let until = now + self.recovery_patience();
        if report.rest.is_some() && report.unrecoverable.is_none() && until > self.latest {
            self.counters.uploads += 1;
            self.uploads.keep(report.flow, connection, until);
        }
        report
    }

    /// Nobody could recover it: the client gets what the backend sent, rather than being left hanging.
    pub(super) fn give_up(&mut self, flow: Flow, evidence: Evidence, out: &mut Vec<Action>) {
        self.counters.unreported += 1;
        self.release_held(flow, out);
        if let Some(entry) = self.entries.get_mut(&flow) {
            entry.given_up = true;
        }
        out.push(Action::Unreported(flow, evidence));
    }
}

/// Splits reports into messages of bounded size.
fn batches(reports: Vec<ConnectionReport>) -> Vec<Vec<ConnectionReport>> {
    let mut batches: Vec<Vec<ConnectionReport>> = vec![];
    let mut bytes = 0;
    for report in reports {
        let size = report.bytes();
        if let Some(batch) = batches.last_mut().filter(|_| bytes + size <= BATCH_BYTES) {
            batch.push(report);
        } else {
            batches.push(vec![report]);
            bytes = 0;
        }
        bytes += size;
    }
    batches
}
