//! A client that nobody can help: it is reset, or answered by the proxy if it has nothing of a response yet.

use std::net::SocketAddr;

use cluster::control::RecoveryOrder;
use packet::Seq;

use crate::common::Core;
use crate::flow::{Answering, Flow, State};
use crate::recovery::{concerns, connects_to};

impl Core {
    /// Resets the client of a connection that `backend` failed and that cannot be recovered, at `end`, which is behind all that
    /// was sent to it. A client that lacks some of that challenges the reset (RFC 5961 §3) and gets an exact one; one that is
    /// reset at a byte which it has acknowledged already says nothing, and hangs.
    pub(crate) fn give_up(&mut self, flow: &mut Flow, backend: SocketAddr, end: Option<Seq>) {
        match &flow.state {
            State::Spliced(splice) if splice.backend == backend => {
                let logged = end.filter(|_| splice.kernel).map(|end| end + splice.delta);
                let seq = logged.unwrap_or(flow.server_next());
                self.reset_backend(flow.leg.client, backend, Seq(0));
                self.abort(flow, seq);
            }
            State::Recovering(recovery) if concerns(recovery, backend) => {
                self.reset_alternate(flow.leg.client, recovery);
                self.abort(flow, flow.server_next());
            }
            State::Setup(setup) if connects_to(setup, backend) => self.leave_backend(flow, backend),
            _ => self.counters.count("reset_orders_outdated"),
        }
    }

    /// Answers in the place of the backend that failed; what was logged before goes first. `order` is that of a recovery without
    /// an alternate.
    pub(crate) fn answer_for_backend(
        &mut self,
        flow: &mut Flow,
        order: RecoveryOrder,
        status: u16,
        reason: &str,
    ) {
        let backend = order.flow.backend;
        match std::mem::replace(&mut flow.state, State::Gone) {
            State::Spliced(splice) if splice.backend == backend => self.suspend(flow, splice, order),
            State::Recovering(recovery) if concerns(&recovery, backend) => {
                self.reset_alternate(flow.leg.client, &recovery);
                flow.state = State::Recovering(recovery);
            }
            other => {
                flow.state = other;
                return self.give_up(flow, backend, None);
            }
        }
        self.answer_recovering(flow, status, reason);
    }

    /// What the client sent meanwhile it has to send again.
    fn answer_recovering(&mut self, flow: &mut Flow, status: u16, reason: &str) {
        let State::Recovering(recovery) = std::mem::replace(&mut flow.state, State::Gone) else { return };
        let client_next = recovery.client_ack();
        let client_fin = recovery.order.client_fin;
        let response = self.response_to(&recovery.order.replay, status, reason);
        let mut sender = recovery.resend;
        sender.append(&response);
        sender.close();
        self.resume_packets(flow);
        self.counters.count("clients_answered");
        flow.state = State::Answering(Box::new(Answering::new(self.now, sender, client_next, client_fin)));
        self.send_answer(flow);
    }
}
