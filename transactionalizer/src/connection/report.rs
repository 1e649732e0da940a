//! What recovery can ask for: kept, trimmed, reported (paper §4.2).

use cluster::control::{BEYOND_BYTES, ClientWindow, ConnectionReport, LEFT_OUT_BYTES, TAIL_BYTES};

use crate::spans::LogBytes;

use super::Connection;

/// Why a connection cannot be recovered whose client lacks bytes of a large file and of another response.
const BEHIND_LARGE: &str =
    "a response follows a large file's that was left out of the log and is not acknowledged";

/// Why a connection cannot be recovered whose backend's FIN has passed, held too late, and been acknowledged.
const END_TAKEN: &str = "the client has taken the end of its connection";

impl Connection {
    /// Why recovery is impossible, as far as is known without reading the log.
    pub fn unrecoverable(&self) -> Option<String> {
        let bound = || self.protocol.as_ref().and_then(|protocol| protocol.bound_to_server());
        let urgent = self.urgent.then_some("urgent data");
        let reason = urgent.or_else(|| self.requests.unrecoverable()).or_else(bound);
        let reason = reason.or_else(|| self.updates_lost());
        let reason = reason.or_else(|| self.backend.end_taken().then_some(END_TAKEN));
        self.opaque.as_deref().or(reason).map(str::to_owned)
    }

    /// Forgets where bytes lie that nobody can ask for: acknowledged ones but for the tail of the response in progress.
    pub(super) fn trim(&mut self) {
        let body = self.responses.body_bytes().min(TAIL_BYTES as u64);
        let (acked, delivered) = (self.backend.acked(), self.backend.delivered());
        self.spans.trim(acked.min(delivered.saturating_sub(body)));
        self.forget_acknowledged();
        self.responses.trim(self.responses.body_bytes().saturating_sub(delivered - acked));
    }

    /// What recovery needs. Bytes come from the log, never from anywhere else; what was overwritten makes the connection
    /// unrecoverable. What was left out ends the part of the response that counts as logged.
    pub fn report(&self, log: &dyn LogBytes) -> ConnectionReport {
        let mut report = self.bare_report();
        if report.unrecoverable.is_some() {
            return report;
        }
        let (delivered, end) = (self.backend.delivered(), self.readable_end());
        let left_out = delivered - end;
        if left_out > 0 && !self.report_left_out(left_out, &mut report) {
            report.unrecoverable = Some(BEHIND_LARGE.to_owned());
        }
        if left_out > LEFT_OUT_BYTES {
            report.unrecoverable = Some("too many response bytes were left out of the log".to_owned());
        }
        let beyond = report.beyond.last().map_or(0, |(at, bytes)| at - left_out + bytes.len() as u64);
        if beyond > BEYOND_BYTES as u64 {
            report.unrecoverable = Some("too many response bytes beyond a gap in the log".to_owned());
            report.beyond.clear();
        }
        if let Err(reason) = self.report_rest(&mut report, log) {
            report.unrecoverable = Some(reason);
        }
        match self.spans.read(self.backend.acked()..end, log) {
            Some(bytes) => report.unacked = bytes,
            None => report.unrecoverable = Some("response bytes were overwritten in the log".to_owned()),
        }
        let tail = end.saturating_sub(report.partial.body_bytes.min(TAIL_BYTES as u64));
        let tail = tail.max(self.spans.start_before(end));
        report.partial.tail = self.spans.read(tail..end, log).unwrap_or_default();
        report
    }

    pub(crate) fn bare_report(&self) -> ConnectionReport {
        ConnectionReport {
            flow: self.flow(),
            client_isn: self.client.isn().0,
            options: Some(self.options),
            t_l: self.transactions.t_l(),
            ack_tl: self.backend.seq(self.transactions.end_of_t_l()).0,
            ack_cl: self.backend.acknowledged().0,
            client_window: ClientWindow { now: self.backend.window(), most: self.backend.greatest_window() },
            client_next: self.client_next().0,
            client_fin: self.client.finished(),
            updates: self.report_updates(),
            pending: self.requests.report(),
            rest: None,
            partial: self.responses.report(),
            unacked: Vec::new(),
            beyond: self.backend.beyond(),
            unrecoverable: self.unrecoverable(),
        }
    }
}
