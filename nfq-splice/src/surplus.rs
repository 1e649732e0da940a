//! What an alternate sends behind the splice point before the client takes it.
//!
//! It may send a whole segment there, however small the client's window is. Dropped, that segment would come again only when the
//! alternate's retransmission timer ends, 200 ms later on Linux, though the client may have opened its window long before.

use packet::TcpSegment;

use crate::common::Core;
use crate::flow::{Debts, Flow, Recovery, State};
use crate::leg::ClientLeg;
use crate::sender::Sender;

impl Recovery {
    /// These bytes, which no backend sends so, are the proxy's to deliver.
    pub(crate) fn own(&mut self, bytes: &[u8]) {
        self.point = self.point + own(&mut self.resend, bytes, false);
    }

    /// Takes over what the client has no room for, all or nothing: it is acknowledged to the alternate, and the proxy's to
    /// deliver. True if it did.
    pub(crate) fn absorb(&mut self, leg: &ClientLeg, beyond: &[u8], fin: bool) -> bool {
        let absorbs = !leg.takes(self.point, beyond) && self.resend.end_seq() == self.point;
        if absorbs {
            self.point = self.point + own(&mut self.resend, beyond, fin);
        }
        absorbs
    }
}

impl Debts {
    /// The same after the splice, of a segment that begins at the splice point: `most` bytes altogether. `delta` is the splice's.
    pub(crate) fn absorb(
        &mut self,
        leg: &ClientLeg,
        segment: &TcpSegment<'_>,
        delta: u32,
        most: usize,
    ) -> bool {
        let (payload, seq) = (segment.payload(), segment.seq() + delta);
        let next = seq == self.point && self.to_client.end_seq() == self.point;
        let absorbs = next && !leg.takes(self.point, payload) && self.absorbed + payload.len() <= most;
        if absorbs {
            self.absorbed += payload.len();
            self.point = self.point + own(&mut self.to_client, payload, segment.flags().fin());
            self.leg.irs = self.point - delta - 1;
        }
        absorbs
    }
}

/// Gives how far the stream has gone.
fn own(sender: &mut Sender, bytes: &[u8], fin: bool) -> u32 {
    sender.append(bytes);
    if fin {
        sender.close();
    }
    bytes.len() as u32 + u32::from(fin)
}

impl ClientLeg {
    /// The client's window has room for these bytes at `point`, as far as is known.
    fn takes(&self, point: packet::Seq, bytes: &[u8]) -> bool {
        bytes.len() <= self.room(point) as usize
    }
}

impl Core {
    /// The log's last word of the client's window may be older than its latest: an update on its way to a dead backend is not
    /// repeated. A client answers what it has acknowledged before with where it stands (RFC 9293 §3.10.7.4). Where bytes are sent
    /// to it again, it answers them.
    pub(crate) fn ask_client(&mut self, flow: &Flow) {
        let State::Recovering(recovery) = &flow.state else { return };
        if recovery.resend.is_done() {
            let (seq, ack) = (recovery.point - 1, recovery.client_ack());
            let window = self.settings.splice.hold_bytes as u32;
            self.acknowledge_client(&flow.leg, seq, ack, window);
        }
    }
}
