//! The beginning of a connection, which the fast path translates alone: no conntrack entry, no element of a set. Most connections
//! end before they are older than that, and what the kernel keeps of each would cost more than its packets. What the fast path
//! does not take comes to this daemon, which translates it and sends it on.
//!
//! Conntrack believes any RST of a client until it has seen what the server acknowledges (`nf_conntrack_proto_tcp.c`,
//! `IP_CT_TCP_FLAG_MAXACK_SET`; an entry made later cannot be told). So on the kernel path the server is asked when a connection becomes conntrack's:
//! a segment that it has makes it acknowledge (RFC 9293 §3.10.7.4). Conntrack also takes its numbers from the first segments that it sees: while the
//! server has said nothing but its SYN-ACK, a forged acknowledgement makes it send a reset that fits them. So until then this daemon translates.
//!
//! It is found again by a daemon after this one, in the fast path's own map ([`Engine::handle_young`]).

use std::time::Duration;

use cluster::control::Client;
use packet::{Seq, Time};

use crate::action::Action;
use crate::common::Core;
use crate::engine::Engine;
use crate::flow::{Flow, Splice, State};
use crate::parked::Parked;

/// What lives longer goes on by way of conntrack, or in the set of queued flows, as configured. A few round trips.
const YOUTH: Duration = Duration::from_millis(250);

/// A connection that belongs to the fast path alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Young {
    /// It does until then.
    pub(crate) until: Time,
    /// The number of the client's first byte; `None`: an earlier daemon saw it.
    pub(crate) first: Option<Seq>,
    /// The fast path has nothing of it: it had ended, and another SYN of its client was answered.
    pub(crate) displaced: bool,
}

impl Splice {
    /// When something is to be done, if nothing comes.
    pub(crate) fn next_look(&self) -> Option<Time> {
        self.closing
            .deadline
            .or(self.young.map(|young| young.until))
            .or((!self.kernel).then_some(self.idle.check))
    }

    /// Both sides have closed, and lack nothing; `acked`: the client's acknowledgement.
    fn has_ended(&self, acked: Seq) -> bool {
        self.closing.client_fin && self.closing.server_fin && self.has_got_all(acked)
    }
}

impl Core {
    /// False: there is no fast path, or this connection is none that it translates whole.
    pub(crate) fn leave_to_fast_path(&mut self, flow: &mut Flow) -> bool {
        let State::Spliced(splice) = &mut flow.state else { return false };
        let plain = splice.ts.is_some()
            && splice.debts.is_none()
            && splice.lacks.is_none()
            && !flow.leg.odd_places
            && flow.leg.service.is_ipv4();
        if !self.fast_path || !plain || flow.suspended {
            return false;
        }
        let first = splice.window.map(|window| window.client_next);
        splice.young = Some(Young { until: self.now + YOUTH, first, displaced: false });
        splice.unheard = true;
        let parked = Parked::of(&flow.leg, splice);
        self.counters.count("connections_hastened");
        self.act(Action::Hasten(parked));
        true
    }

    /// It is not young any more. It stays on the fast path until there is an entry of it, for conntrack or for a daemon after this
    /// one: that finds nothing else of it.
    pub(crate) fn end_youth(&mut self, flow: &mut Flow) {
        if let State::Spliced(splice) = &mut flow.state {
            splice.young = None;
            self.act(Action::Look(flow.leg.client));
        }
    }

    /// What has ended leaves the fast path; the rest goes on as configured.
    fn look(&mut self, flow: &mut Flow) {
        let State::Spliced(splice) = &flow.state else { return };
        if splice.has_ended(flow.leg.acked) || splice.closing.reset {
            self.act(Action::Recall(flow.leg.client));
        } else {
            self.grow_up(flow);
        }
    }

    /// Nothing is left to the fast path alone any more: it has ended, or goes on as configured. Of one that has closed on one side
    /// conntrack would not learn that.
    fn grow_up(&mut self, flow: &mut Flow) {
        let State::Spliced(splice) = &mut flow.state else { return };
        splice.young = None;
        let closing = splice.closing;
        if splice.has_ended(flow.leg.acked) {
            self.counters.count("connections_ended");
            flow.state = State::Gone;
        } else if closing.client_fin || closing.server_fin {
            self.translate_here(flow);
        } else if !closing.reset {
            self.hand_to_conntrack(flow);
        }
    }

    /// If it can be: as configured otherwise.
    pub(crate) fn hand_to_conntrack(&mut self, flow: &mut Flow) {
        let State::Spliced(splice) = &flow.state else { return };
        let window = splice.window;
        self.settle(flow);
        if let State::Spliced(splice) = &flow.state
            && splice.kernel
            && let Some(window) = window
        {
            self.send(splice.old_segment(&flow.leg, window.client_next - 1));
        }
    }
}

impl Engine {
    /// There is a fast path: connections begin there.
    pub fn handle_fast_path(&mut self) {
        self.core.fast_path = true;
    }

    /// The answer to [`Action::Look`].
    pub fn handle_looked(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.table.with(&mut self.core, client, Core::look);
    }

    /// Before a packet of a connection: whether the fast path has anything of it. A numbers' proof alone may be by chance.
    pub fn handle_place(&mut self, client: Client, is_there: bool) {
        self.table.with(&mut self.core, client, |core, flow| {
            // What was left to the fast path in this round is not there yet.
            let pending = flow.acted == core.round;
            if let State::Spliced(Splice { young: Some(young), .. }) = &mut flow.state {
                young.displaced = !is_there && !pending;
            }
        });
    }

    /// The answer to [`Action::Look`] where the fast path has nothing of the connection.
    pub fn handle_displaced(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.table.with(&mut self.core, client, |core, flow| {
            if let State::Spliced(Splice { young: None, kernel: false, .. }) = &flow.state {
                core.counters.count("connections_ended");
                flow.state = State::Gone;
            }
        });
    }

    /// It was taken off the fast path because of a packet, which the engine has got by now: a daemon after this one would find nothing of
    /// it there. What has ended is looked after when its youth does.
    pub fn handle_set_aside(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.table.with(&mut self.core, client, |core, flow| {
            if let State::Spliced(splice) = &flow.state
                && splice.young.is_some()
                && !splice.closing.reset
                && !splice.has_ended(flow.leg.acked)
            {
                core.grow_up(flow);
            }
        });
    }

    /// A connection is no longer, or never was, on the fast path: the answer to [`Action::Recall`], or to an
    /// [`Action::Hasten`] that failed.
    pub fn handle_recalled(&mut self, now: Time, client: Client) {
        self.core.now = now;
        // Before its bytes go: a daemon that died in between would let them be said again.
        self.core.first(|core| {
            self.table.with(core, client, Core::grow_up);
        });
    }
}
