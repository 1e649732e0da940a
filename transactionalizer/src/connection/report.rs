//! What recovery can ask for: kept, trimmed, reported (paper §4.2).

use cluster::control::{BEYOND_BYTES, ClientWindow, ConnectionReport, TAIL_BYTES};

use crate::spans::LogBytes;

use super::Connection;

impl Connection {
    /// Why recovery is impossible, as far as is known without reading the log.
    pub fn unrecoverable(&self) -> Option<String> {
        let bound = || self.protocol.as_ref().and_then(|protocol| protocol.bound_to_server());
        let reason = self.tainted.or_else(|| self.requests.unrecoverable()).or_else(bound);
        self.opaque.clone().or_else(|| reason.map(str::to_owned))
    }

    /// Forgets where bytes lie that nobody can ask for: acknowledged ones but for the tail of the response in progress.
    pub(super) fn trim(&mut self) {
        let body = self.responses.body_bytes().min(TAIL_BYTES as u64);
        self.spans.trim(self.backend.acked().min(self.backend.delivered().saturating_sub(body)));
    }

    /// What recovery needs. Bytes come from the log, never from anywhere else; what was overwritten makes the connection
    /// unrecoverable.
    pub fn report(&self, log: &dyn LogBytes) -> ConnectionReport {
        let mut report = self.bare_report();
        if report.unrecoverable.is_some() {
            return report;
        }
        if report.beyond.last().is_some_and(|(at, bytes)| *at + bytes.len() as u64 > BEYOND_BYTES as u64) {
            report.unrecoverable = Some("too many response bytes beyond a gap in the log".to_owned());
            report.beyond.clear();
        }
        let delivered = self.backend.delivered();
        match self.spans.read(self.backend.acked()..delivered, log) {
            Some(bytes) => report.unacked = bytes,
            None => report.unrecoverable = Some("response bytes were overwritten in the log".to_owned()),
        }
        let tail = self.responses.body_bytes().min(TAIL_BYTES as u64);
        report.partial.tail =
            self.spans.read(delivered.saturating_sub(tail)..delivered, log).unwrap_or_default();
        report
    }

    pub(crate) fn bare_report(&self) -> ConnectionReport {
        ConnectionReport {
            flow: self.flow,
            options: Some(self.options),
            t_l: self.transactions.t_l(),
            ack_tl: self.backend.seq(self.transactions.end_of_t_l()).0,
            ack_cl: self.backend.seq(self.backend.acked()).0,
            client_window: ClientWindow { now: self.backend.window(), most: self.backend.greatest_window() },
            client_next: self.client_next().0,
            client_fin: self.client.finished(),
            pending: self.requests.report(),
            partial: self.responses.report(),
            unacked: Vec::new(),
            beyond: self.backend.beyond(),
            unrecoverable: self.unrecoverable(),
        }
    }
}
