//! The beginning of a connection on the userspace path, which the fast path translates alone: no conntrack entry, no element of
//! a set. Most connections end before they are older than that, and what the kernel keeps of each would cost more than its
//! packets. What the fast path does not take comes to this daemon, which translates it and sends it on.
//!
//! On the kernel path conntrack has the connection from its beginning: one that it got later, and that was silent then, was ended by
//! a blind RST, probably because conntrack believes any until it has seen what the server acknowledges.
//!
//! It is found again by a daemon after this one, in the fast path's own map ([`Engine::handle_parked`]).

use std::time::Duration;

use cluster::control::Client;
use packet::Time;

use crate::action::Action;
use crate::common::Core;
use crate::engine::Engine;
use crate::flow::{Flow, Splice, State};
use crate::parked::Parked;

/// What lives longer goes on in the set of queued flows. A few round trips.
const YOUTH: Duration = Duration::from_millis(250);

impl Splice {
    /// When something is to be done, if nothing comes.
    pub(crate) fn next_look(&self) -> Option<Time> {
        self.closing.deadline.or(self.young).or((!self.kernel).then_some(self.idle.check))
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
        if !self.fast_path || !plain || flow.suspended || self.prefers_kernel() {
            return false;
        }
        splice.young = Some(self.now + YOUTH);
        let parked = Parked::of(&flow.leg, splice);
        self.counters.count("connections_hastened");
        self.act(Action::Hasten(parked));
        true
    }

    /// It is not young any more.
    pub(crate) fn recall(&mut self, flow: &mut Flow) {
        if let State::Spliced(splice) = &mut flow.state {
            splice.young = None;
            self.act(Action::Recall(flow.leg.client));
        }
    }

    /// Nothing goes past any more: it has ended, or is queued from now on.
    fn grow_up(&mut self, flow: &mut Flow) {
        let State::Spliced(splice) = &mut flow.state else { return };
        splice.young = None;
        let closing = splice.closing;
        if closing.client_fin && closing.server_fin && splice.has_got_all(flow.leg.acked) {
            self.counters.count("connections_ended");
            flow.state = State::Gone;
        } else if !closing.reset {
            self.suspend_packets(flow);
            self.park(flow);
        }
    }
}

impl Engine {
    /// There is a fast path: connections begin there.
    pub fn handle_fast_path(&mut self) {
        self.core.fast_path = true;
    }

    /// A connection is no longer, or never was, on the fast path: the answer to [`Action::Recall`], or to an
    /// [`Action::Hasten`] that failed.
    pub fn handle_recalled(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.table.with(&mut self.core, client, Core::grow_up);
    }
}
