//! From evidence to a report (paper §4.3, first step).

use std::net::SocketAddr;

use cluster::control::{ConnectionReport, Evidence, Flow};
use packet::Time;

use crate::spans::LogBytes;

use super::table::{Entry, State};
use super::{Action, Engine, Failure};

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
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.backends.get_mut(&backend) else { return };
        let was_up = entry.health.is_up();
        entry.health.handle_down(now);
        entry.asking.clear();
        self.counters.backend_downs += u64::from(was_up);
        let concerned = |flow: &&Flow| self.entries.get(flow).is_some_and(Entry::concerned);
        let mut flows: Vec<Flow> = entry.flows.iter().filter(concerned).copied().collect();
        flows.sort_unstable();
        if !flows.is_empty() {
            self.fail(&flows, evidence, since, true, now, log, out);
        } else if was_up && self.live.is_some() {
            let connections = vec![];
            out.push(Action::Failed(Failure { evidence, since, backend_down: true, backend, connections }));
        }
    }

    /// These connections, all of one backend, have failed: fences it on each, then reports them.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fail(
        &mut self,
        flows: &[Flow],
        evidence: Evidence,
        since: Time,
        backend_down: bool,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        let Some(backend) = flows.first().map(|flow| flow.backend) else { return };
        if self.live.is_some() && self.managers == 0 {
            return flows.iter().for_each(|flow| self.give_up(*flow, evidence, out));
        }
        let fenced = flows.iter().filter_map(|flow| self.fail_one(*flow, now, log, out));
        let mut reports: Vec<ConnectionReport> = Vec::with_capacity(flows.len());
        reports.extend(fenced);
        if self.live.is_none() {
            return;
        }
        self.counters.failed += reports.len() as u64;
        let unrecoverable = reports.iter().filter(|report| report.unrecoverable.is_some()).count();
        self.counters.unrecoverable += unrecoverable as u64;
        for connections in batches(reports) {
            out.push(Action::Failed(Failure { evidence, since, backend_down, backend, connections }));
        }
    }

    fn fail_one(
        &mut self,
        flow: Flow,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) -> Option<ConnectionReport> {
        let entry = self.entries.get_mut(&flow)?;
        let report = match std::mem::replace(&mut entry.state, State::Failed) {
            State::Open(connection) => {
                let mut report = connection.report(log);
                if entry.suspect != (false, false) {
                    report.unrecoverable.get_or_insert_with(|| "the log was overwritten before it was read".to_owned());
                }
                report
            }
            State::Middle(middle) => ConnectionReport {
                flow,
                options: None,
                t_l: 0,
                ack_tl: middle.ack_cl.0,
                ack_cl: middle.ack_cl.0,
                client_next: middle.client_next.0,
                client_fin: false,
                pending: vec![],
                partial: Default::default(),
                unacked: vec![],
                unrecoverable: Some("log began in mid-connection".to_owned()),
            },
            State::Unseen | State::Failed => return None,
        };
        for held in std::mem::take(&mut entry.held) {
            self.suppress(held.hold, out);
        }
        if self.live.is_some() {
            out.push(Action::Fence(flow));
        }
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.asking.remove(&flow);
        }
        self.remember(&report, now);
        self.note_end(flow, now);
        Some(report)
    }

    /// Nobody could recover it: the client gets what the backend sent, rather than being left hanging.
    fn give_up(&mut self, flow: Flow, evidence: Evidence, out: &mut Vec<Action>) {
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
        let requests: usize = report.pending.iter().map(|request| request.bytes.len()).sum();
        let size = requests + report.unacked.len() + report.partial.head.len() + report.partial.tail.len();
        match batches.last_mut().filter(|_| bytes + size <= BATCH_BYTES) {
            Some(batch) => batch.push(report),
            None => {
                batches.push(vec![report]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    batches
}
