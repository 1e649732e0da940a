//! Explicit congestion notification (RFC 3168), carried end to end. The marks of IP and the flags of TCP pass through a splice
//! untouched; what has to be decided is who is promised ECN, because the client is answered before its backend is asked.
//!
//! A client that asks for it is promised ECN once all usable backends are known to speak it, and then the backend is asked in
//! its name. Until then a backend is asked, too, with a SYN of a client that is promised nothing. If it says yes, it is known to
//! speak ECN, and its handshake is withdrawn and begun anew without: it would mark its packets for a client that does not
//! echo the marks. That happens once for each backend.
//!
//! An alternate that does not speak ECN behind a client that was promised it leaves the client's marks unanswered, which is
//! what RFC 3168 §6.1.1 has a receiver without ECN do. What the proxy itself sends is not ECN-capable (nor may
//! repetitions be, §6.1.5), and marks on what it takes itself are not echoed.

use packet::{Flags, TcpSegment};

use crate::common::Core;
use crate::flow::{Flow, Repeat, State};
use crate::leg::{self, ClientLeg};

/// What became of a client's wish for ECN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ecn {
    /// It has none.
    #[default]
    NotAsked,
    /// Refused, but its backend may be asked.
    Refused,
    /// It marks its packets and echoes marks.
    Promised,
}

impl Core {
    /// What to answer to a SYN. A wish for `AccECN` is answered as one for ECN (RFC 9768 §3.1.2): the client falls back.
    pub(crate) fn judge_ecn(&self, syn: &TcpSegment<'_>) -> Ecn {
        if !syn.flags().contains(Flags::ECN) {
            return Ecn::NotAsked;
        }
        let mut usable = self.settings.routing.usable().peekable();
        let all = usable.peek().is_some() && usable.all(|backend| self.learnt.speaks_ecn(backend));
        if all { Ecn::Promised } else { Ecn::Refused }
    }

    /// Whether the first SYN to `backend` asks for ECN. Repetitions do not: something on the way may drop such SYNs (§6.1.1.1).
    pub(crate) fn asks_for_ecn(&self, leg: &ClientLeg, backend: std::net::SocketAddr) -> bool {
        match leg.ecn {
            Ecn::NotAsked => false,
            Ecn::Refused => self.learnt.may_ask(self.now, backend),
            Ecn::Promised => true,
        }
    }

    /// What a SYN-ACK says of ECN. True: nothing more is to be done with it, because the handshake has begun anew.
    pub(crate) fn withdraws_ecn(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) -> bool {
        let State::Setup(setup) = &mut flow.state else { return false };
        let Some(connect) = &mut setup.connect else { return false };
        let granted = grants(segment);
        if let Some((_, tries)) = connect.withdrawn.filter(|(irs, _)| *irs == segment.seq()) {
            // To a SYN that was repeated: the reset was lost. Until then it is a copy. Not once for each answer: where resets never
            // arrive, that would go on as fast as the path lets it.
            let sent = setup.repeat.map_or(tries, |repeat| repeat.tries);
            if sent > tries {
                connect.withdrawn = Some((segment.seq(), sent));
                self.begin_without_ecn(flow);
            }
            return true;
        }
        if connect.asks_for_ecn {
            self.learnt.note_ecn(self.now, connect.backend, granted);
        }
        if !granted || !connect.asks_for_ecn || flow.leg.ecn != Ecn::Refused {
            return false;
        }
        self.counters.count("ecn_learnt");
        connect.asks_for_ecn = false;
        let repeat = Repeat::after(self.now, crate::connect::SYN_TIMEOUT);
        connect.withdrawn = Some((segment.seq(), repeat.tries));
        setup.repeat = Some(repeat);
        self.begin_without_ecn(flow);
        true
    }

    fn begin_without_ecn(&mut self, flow: &Flow) {
        let State::Setup(setup) = &flow.state else { return };
        let Some(connect) = &setup.connect else { return };
        let syn = leg::syn(&flow.leg, connect.backend, setup.irs, false);
        self.reset_backend(flow.leg.client, connect.backend, setup.irs + 1);
        self.send(syn);
    }
}

/// An ECN-setup SYN-ACK (RFC 3168 §6.1.1).
pub(crate) fn grants(segment: &TcpSegment<'_>) -> bool {
    let flags = segment.flags();
    flags.contains(Flags::ECE) && !flags.contains(Flags::CWR)
}
