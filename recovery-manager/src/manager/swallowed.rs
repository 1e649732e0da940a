//! What clients sent into the fence of a failed backend: the proxy gets it behind each order, as if the client said it then.

use cluster::control::{Client, ConnectionReport, SWALLOWED_BYTES, Swallowed, ToProxy};

use super::Manager;

/// It belongs to this failure.
fn belongs(swallowed: &Swallowed, report: &ConnectionReport) -> bool {
    swallowed.flow == report.flow && swallowed.client_next == report.client_next
}

impl Manager {
    /// A logger's fence has swallowed it. What belongs to no recovery (any more) is dropped; its client repeats it.
    pub(super) fn take_swallowed(&mut self, swallowed: Swallowed) {
        let client = swallowed.flow.client;
        let more = swallowed.bytes.len();
        let bytes = self.report_bytes.saturating_add(more);
        let Some(recovery) = self.active.get_mut(&client) else { return self.pass_late(swallowed) };
        let room = recovery.swallowed_bytes().saturating_add(more) <= SWALLOWED_BYTES;
        if !room || bytes > self.limits.report_bytes || !belongs(&swallowed, &recovery.failure.report) {
            return self.count("swallowed_dropped");
        }
        recovery.swallowed.push(swallowed.clone());
        let alternate = recovery.attempt.map(|attempt| attempt.alternate);
        self.report_bytes = bytes;
        if let Some(alternate) = alternate {
            self.pass_swallowed(alternate, swallowed);
        }
    }

    /// An order has been given, perhaps again.
    pub(super) fn pass_kept_swallowed(&mut self, client: Client) {
        let Some(recovery) = self.active.get(&client) else { return };
        let Some(attempt) = recovery.attempt else { return };
        for swallowed in recovery.swallowed.clone() {
            self.pass_swallowed(attempt.alternate, swallowed);
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
