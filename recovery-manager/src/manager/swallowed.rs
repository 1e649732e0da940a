//! What clients sent into the fence of a failed backend: the proxy gets it behind each order, as if the client said it then.

use cluster::control::{Client, ConnectionReport, Flow, SWALLOWED_BYTES, Swallowed, ToProxy};

use super::Manager;
use super::recovery::{Failure, Recovery};

/// It belongs to this failure.
pub(super) fn belongs(swallowed: &Swallowed, report: &ConnectionReport) -> bool {
    swallowed.flow == report.flow && swallowed.client_next == report.client_next
}

impl Recovery {
    /// It belongs to this failure, or to that of an alternate that the client may turn out to be on.
    fn concerns(&self, swallowed: &Swallowed) -> bool {
        let newer = self.newer.as_ref().is_some_and(|newer| belongs(swallowed, &newer.report));
        newer || belongs(swallowed, &self.failure.report)
    }
}

impl Manager {
    /// A logger's fence has swallowed it. What belongs to no recovery (any more) is dropped; its client repeats it.
    pub(super) fn take_swallowed(&mut self, mut swallowed: Swallowed) {
        let client = swallowed.flow.client;
        let more = swallowed.bytes.len();
        let bytes = self.report_bytes.saturating_add(more);
        let Some(recovery) = self.active.get_mut(&client) else { return self.pass_late(swallowed) };
        if self.recent.continues(&recovery.failure.report, swallowed.flow, swallowed.client_next) {
            // On each backend the client's numbers are the same.
            swallowed.flow = recovery.failure.report.flow;
            swallowed.client_next = recovery.failure.report.client_next;
        }
        let room = recovery.swallowed_bytes().saturating_add(more) <= SWALLOWED_BYTES;
        if !room || bytes > self.limits.report_bytes || !recovery.concerns(&swallowed) {
            return self.count("swallowed_dropped");
        }
        recovery.swallowed.push(swallowed.clone());
        let present = recovery.attempt.filter(|_| belongs(&swallowed, &recovery.failure.report));
        self.report_bytes = bytes;
        if let Some(attempt) = present {
            self.pass_swallowed(attempt.alternate, swallowed);
        }
    }

    /// An order has been given, perhaps again.
    pub(super) fn pass_kept_swallowed(&mut self, client: Client) {
        let Some(recovery) = self.active.get(&client) else { return };
        let Some(attempt) = recovery.attempt else { return };
        let present = |swallowed: &&Swallowed| belongs(swallowed, &recovery.failure.report);
        let kept: Vec<Swallowed> = recovery.swallowed.iter().filter(present).cloned().collect();
        for swallowed in kept {
            self.pass_swallowed(attempt.alternate, swallowed);
        }
    }

    /// A failure that was reported while this recovery ran, and what fences have swallowed of the client so far.
    pub(super) fn take_newer(&mut self, client: Client) -> Option<(Failure, Vec<Swallowed>)> {
        let recovery = self.active.get_mut(&client)?;
        let newer = recovery.newer.take()?;
        Some((*newer, recovery.swallowed.clone()))
    }

    /// The client was re-spliced, and its alternate has failed: what its first backend's fence has swallowed may have got no farther
    /// than the second one's, or been lost before the log saw it. `flow`, `client_next`: of the second failure.
    pub(super) fn carry_swallowed(&mut self, flow: Flow, client_next: u32, swallowed: Vec<Swallowed>) {
        for swallowed in swallowed {
            self.take_swallowed(Swallowed { flow, client_next, ..swallowed });
        }
    }

    /// The re-splice was faster: the client is on the alternate already.
    fn pass_late(&mut self, swallowed: Swallowed) {
        match self.recent.went_to(swallowed.flow, swallowed.client_next) {
            Some(alternate) => self.pass_swallowed(alternate, swallowed),
            None => self.count("swallowed_dropped"),
        }
    }

    fn pass_swallowed(&mut self, alternate: std::net::SocketAddr, swallowed: Swallowed) {
        self.count("swallowed_passed");
        self.ask_proxy(ToProxy::Swallowed { alternate, swallowed });
    }
}
