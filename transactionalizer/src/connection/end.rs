//! How a connection ends: what its ends' FIN and RST mean for it.

use packet::Seq;

use crate::judge::Situation;

use super::Connection;

impl Connection {
    /// The backend's RST at `seq` is one that the client may take (RFC 5961).
    pub fn acceptable_reset(&self, seq: Seq) -> bool {
        self.backend.acceptable_reset(seq)
    }

    /// The backend's RST at `seq` may have overtaken its last bytes.
    pub fn reset_ahead(&self, seq: Seq) -> bool {
        self.backend.reset_ahead(seq)
    }

    /// What the judge needs to know.
    pub fn situation(&self) -> Situation {
        Situation {
            opaque: self.opaque.is_some() || self.released,
            gap_before_fin: self.backend.gap_before_fin(),
            request_pending: self.requests.first().is_some(),
            response: self.responses.in_progress(),
            closing: self.responses.closing(),
            ended_before: self.client_reset || self.client.finished(),
        }
    }

    /// The backend's FIN or RST was released: its end is the client's business from now on.
    pub fn handle_released(&mut self) {
        self.released = true;
        self.owed_since = None;
    }

    /// A failure of the backend would not matter to the client any more.
    pub fn over(&self) -> bool {
        let delivered = self.backend.acked() == self.backend.delivered() && !self.backend.gap_before_fin();
        self.client_reset || (self.released && (delivered || self.opaque.is_some()))
    }

    /// Both ends have closed.
    pub fn closed(&self) -> bool {
        self.client_reset || (self.released && (self.client.finished() || !self.backend.finished()))
    }
}
