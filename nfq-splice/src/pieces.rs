//! Pieces of a large request come from the log, and go to the backend that has to take them.

use cluster::control::{LoggedPiece, Outcome};

use crate::common::Core;
use crate::flow::{Attempt, Flow, State};

/// Why a client is lost whose request's bytes nobody gives.
pub(crate) const STARVED: &str = "nobody answered for the request's bytes in the log";

impl Core {
    /// The answer to [`cluster::control::FromProxy::Read`].
    pub(crate) fn take_piece(&mut self, flow: &mut Flow, piece: LoggedPiece) {
        self.counters.count("replay_pieces");
        let sender = match &mut flow.state {
            State::Spliced(splice) => splice.debts.as_mut().map(|debts| &mut debts.to_backend),
            State::Recovering(recovery) => match &mut recovery.attempt {
                Attempt::TakingIn(taking) => Some(&mut taking.replay),
                Attempt::Connecting(_) | Attempt::Waiting => None,
            },
            State::Setup(_) | State::Answering(_) | State::Gone => None,
        };
        let Some(sender) = sender else { return };
        if let Err(why) = sender.supply(piece) {
            return self.replay_lost(flow, &why);
        }
        match &mut flow.state {
            State::Spliced(splice) => {
                if let Some(debts) = &mut splice.debts {
                    self.pay_backend(&flow.leg, debts);
                }
            }
            _ => self.replay(flow),
        }
    }

    /// What the client will not repeat is nowhere any more: better a reset than a client that hangs.
    pub(crate) fn replay_lost(&mut self, flow: &mut Flow, why: &str) {
        self.counters.count("replay_lost");
        self.end_recovery(flow, Outcome::Gone(format!("its request cannot be replayed: {why}")));
        if let State::Spliced(splice) = &flow.state
            && let Some(debts) = &splice.debts
        {
            self.reset_backend(flow.leg.client, splice.backend, debts.to_backend.unacknowledged());
        }
        let seq = flow.server_next();
        self.abort(flow, seq);
    }
}
