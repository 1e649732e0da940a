//! How a connection ends: what its ends' FIN and RST mean for it.

use packet::Seq;

use crate::judge::{InProgress, Situation};

use super::Connection;

/// A backend is asked so often on one connection what a reset meant: something that answers each question with such a reset
/// ends there.
const MOST_ASKED: u8 = 8;

impl Connection {
    /// The backend's RST at `seq` is one that the client may take (RFC 5961).
    pub fn acceptable_reset(&self, seq: Seq) -> bool {
        self.backend.acceptable_reset(seq)
    }

    /// The backend's RST at `seq` may have overtaken its last bytes. One that comes after the client was let have another is the
    /// client's business: kept back, each would be asked about, answered before what the client has acknowledged, and challenged, for ever.
    pub fn reset_ahead(&self, seq: Seq) -> bool {
        !self.reset_released && self.backend.reset_ahead(seq)
    }

    /// What to ask the backend about a reset that is ahead; `None`: it was asked often enough.
    pub fn ask_about_reset(&mut self) -> Option<Vec<u8>> {
        let more = self.asked < MOST_ASKED;
        self.asked += u8::from(more);
        more.then(|| self.keep_alive())
    }

    /// The backend's RST at `seq` answers an acknowledgement of less than it has sent: its kernel does not know the connection any
    /// more (RFC 9293 §3.10.7.1), and what the client lacks it will not repeat.
    pub fn forgotten(&self, seq: Seq) -> bool {
        let lacking = self.backend.offset(seq) < self.backend.delivered() as i64;
        !self.client_reset && lacking && self.backend.acceptable_reset(seq)
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
            unacknowledged: !self.client_reset && self.backend.acked() < self.backend.delivered(),
        }
    }

    /// The backend's FIN or RST was released: its end is the client's business from now on.
    pub fn handle_released(&mut self) {
        self.released = true;
        if self.released_whole() {
            self.owed_since = None;
        }
    }

    /// The backend's RST was released: whatever is missing before a FIN, nobody sends it any more. A FIN that the client may have
    /// taken still counts: behind it is the next RST that the client takes, should this one be lost.
    pub fn handle_reset_released(&mut self) {
        self.reset_released = true;
        self.handle_released();
    }

    /// It was not: the logger did not hold it any more.
    pub fn handle_not_released(&mut self) {
        (self.released, self.reset_released) = (false, false);
    }

    /// The backend's FIN passed while nobody judged. It may be lost yet; then its kernel repeats it, and that is judged.
    pub fn handle_passed(&mut self) {
        self.passed = true;
    }

    /// Its end was released, and everything before that is logged, or will never come.
    fn released_whole(&self) -> bool {
        self.released && (self.reset_released || !self.backend.gap_before_fin())
    }

    /// The client has its end and all before it. Where nothing is asked, it lacks nothing but the end itself; if it asks, it has not
    /// got that.
    fn has_ended(&self) -> bool {
        let delivered = self.backend.acked() == self.backend.delivered();
        let taken = self.reset_released || self.backend.end_taken() || self.requests.first().is_none();
        self.released_whole() && delivered && taken
    }

    /// The end was released of a response that it ends.
    pub(super) fn response_released(&self) -> bool {
        self.released_whole() && self.responses.in_progress() != InProgress::Nothing
    }

    /// A failure of the backend would not matter to the client any more.
    pub fn over(&self) -> bool {
        let let_alone = (self.released || self.passed) && self.opaque.is_some();
        self.client_reset || self.has_ended() || let_alone
    }

    /// Both ends have closed.
    pub fn closed(&self) -> bool {
        let both = self.released_whole() && (self.client.finished() || !self.backend.finished());
        self.client_reset || self.reset_released || both
    }
}
