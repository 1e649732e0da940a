//! What a client sent between the fence of its failed backend and the un-splice, as the logger has it: it is taken as if the client
//! sent it now. It still owns it, and repeats it when its retransmission timer ends, which is what shall not be waited for.

use std::net::SocketAddr;

use cluster::control::Swallowed;
use packet::{Seq, SynOptions};

use crate::common::Core;
use crate::flow::{Flow, Splice, State};
use crate::leg::{BackendLeg, ClientLeg};

/// Where the bytes may lie: behind S, and not farther from it than is held.
fn is_near(swallowed: &Swallowed, most: usize) -> bool {
    let Swallowed { client_next, seq, bytes, .. } = swallowed;
    let (from, length) = (Seq(*seq).since(Seq(*client_next)), bytes.len());
    let end = i64::from(from) + length as i64;
    0 < length && length <= most && 0 < end && i64::from(from) <= most as i64
}

impl Splice {
    /// The client's side of the connection with the backend, as far as it is known where nothing is owed.
    fn speaker(&self, leg: &ClientLeg) -> BackendLeg {
        let mss = self.lacks.mss.or(Some(leg.announced_mss));
        let echo = self.ts.map(|offset| leg.clock_floor.wrapping_sub(offset));
        BackendLeg {
            backend: self.backend,
            irs: leg.acked - self.delta - 1,
            options: SynOptions { mss, timestamp: echo, ..leg.options },
            ts_recent: echo.unwrap_or(0),
            window: 0,
            server_scale: self.server_scale,
            client_scale: self.client_scale,
            has_spoken: true,
        }
    }

    /// False if the client was never allowed to send up to `end`, or what ends there has been acknowledged.
    fn takes(&mut self, seq: Seq, end: Seq) -> bool {
        let Some(window) = &mut self.window else { return true };
        let limit = window.client_limit + window.unsure;
        let takes = window.client_next.before(end) && seq.before_or_at(limit);
        if takes {
            window.client_end = window.client_end.max(end);
        }
        takes
    }
}

impl Core {
    /// Idempotent, as the client's own segments are. `alternate`: that of the recovery.
    pub(crate) fn take_swallowed(&mut self, flow: &mut Flow, alternate: SocketAddr, swallowed: &Swallowed) {
        let near = is_near(swallowed, self.settings.splice.hold_bytes);
        let again = flow.resplices > 0;
        let taken = match &mut flow.state {
            State::Recovering(recovery) if near && recovery.order.flow == swallowed.flow => {
                let taken = recovery.held.push(Seq(swallowed.seq), &swallowed.bytes);
                if taken {
                    note_timestamp(&mut flow.leg, swallowed);
                }
                taken
            }
            State::Spliced(splice) if near && again && splice.backend == alternate => {
                note_timestamp(&mut flow.leg, swallowed);
                self.forward_swallowed(flow, swallowed)
            }
            _ => false,
        };
        self.counters.count(if taken { "swallowed_taken" } else { "swallowed_dropped" });
    }

    /// The re-splice came first.
    fn forward_swallowed(&mut self, flow: &mut Flow, swallowed: &Swallowed) -> bool {
        let State::Spliced(splice) = &mut flow.state else { return false };
        let seq = Seq(swallowed.seq);
        if !splice.takes(seq, seq + swallowed.bytes.len() as u32) {
            return false;
        }
        if let Some(debts) = &mut splice.debts {
            let taken = debts.held.push(seq, &swallowed.bytes);
            self.release_held(&flow.leg, debts);
            return taken;
        }
        let to = splice.speaker(&flow.leg);
        let (ack, window) = (to.irs + 1, flow.leg.room(flow.leg.acked));
        self.forward_client_bytes(&flow.leg, &to, seq, &swallowed.bytes, ack, window);
        true
    }
}

fn note_timestamp(leg: &mut ClientLeg, swallowed: &Swallowed) {
    if let Some(value) = swallowed.timestamp.filter(|_| leg.has_timestamps()) {
        leg.note_timestamp(value);
    }
}
