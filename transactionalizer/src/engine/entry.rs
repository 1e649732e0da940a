//! What the engine keeps of a flow.

use cluster::control::{ConnectionReport, Flow};
use packet::{Seq, SynOptions, Time};

use crate::connection::Connection;
use crate::judge::End;

use super::swallowed::Swallowing;

/// A SYN that has not been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embryo {
    pub(super) isn: Seq,
    pub(super) options: SynOptions,
    pub(super) base: u32,
    /// When it was logged first.
    pub(super) since: Time,
}

/// A connection whose beginning is not in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Middle {
    pub(super) ack_cl: Seq,
    pub(super) client_next: Seq,
    pub(super) ended: bool,
}

impl Middle {
    /// That it cannot be recovered.
    pub(super) fn report(&self, flow: Flow) -> ConnectionReport {
        ConnectionReport {
            ack_tl: self.ack_cl.0,
            ack_cl: self.ack_cl.0,
            client_next: self.client_next.0,
            unrecoverable: Some("log began in mid-connection".to_owned()),
            ..ConnectionReport::new(flow)
        }
    }
}

/// What is known of a flow.
#[derive(Debug, Default)]
pub(super) enum State {
    /// At most a SYN.
    #[default]
    Unseen,
    /// From the handshake on.
    Open(Box<Connection>),
    /// Only that it exists.
    Middle(Middle),
    /// Reported as failed, with its client's ISN if that is known: everything that its backend still sends is void.
    Failed(Option<Seq>),
}

/// A segment that the logger holds for us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) hold: u64,
    pub(super) end: End,
    pub(super) time: Time,
}

/// A debt of the application that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    /// Since when it could have paid.
    pub(super) since: Time,
    /// When it was first found to be late.
    pub(super) suspected: Time,
    /// When to look again.
    pub(super) next: Time,
}

/// One flow.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Absent from the handshake on.
    pub(super) embryo: Option<Box<Embryo>>,
    /// The number of a SYN that has been withdrawn by a reset, and not been logged yet.
    pub(super) withdrawn: Option<Seq>,
    pub(super) state: State,
    pub(super) held: Vec<Held>,
    /// Where it stands in the engine's timers.
    pub(super) queued: Option<Time>,
    pub(super) touched: Time,
    /// The log was lapped, and not all segments since then prove that nothing is missing: (client's, backend's).
    pub(super) suspect: (bool, bool),
    /// It is in the queue of ended flows.
    pub(super) ending: bool,
    /// A failure was found while nobody listened; it is not looked for again.
    pub(super) given_up: bool,
    /// The application's debt that is overdue; few connections have one.
    pub(super) late: Option<Box<Late>>,
    /// Its backend has been fenced under this barrier; it is reported when the fence holds.
    pub(super) failing: Option<u64>,
    /// The logger was told to fence it, and has let no SYN pass since that was in force.
    pub(super) fenced: bool,
    /// What the client sends into the fence; absent before there is something, or a report.
    pub(super) swallowing: Option<Box<Swallowing>>,
}

impl Entry {
    /// Its connection has failed; what it was.
    pub(super) fn fail(&mut self) -> State {
        let isn = self.open().map(Connection::client_isn);
        std::mem::replace(&mut self.state, State::Failed(isn))
    }

    /// The connection, if its handshake was logged.
    pub(super) fn open(&self) -> Option<&Connection> {
        match &self.state {
            State::Open(connection) => Some(connection),
            _ => None,
        }
    }

    /// The SYN that a backend's answer of this number answers.
    pub(super) fn asked(&self, backend_isn: Seq, now: Time) -> Option<Embryo> {
        let anew = || {
            let (isn, options, base) = self.open()?.answered_anew(backend_isn)?;
            Some(Embryo { isn, options, base, since: now })
        };
        self.embryo.as_deref().copied().or_else(anew)
    }

    /// The application's debt that is overdue.
    pub(super) fn late(&self) -> Option<Late> {
        self.late.as_deref().copied()
    }

    /// A failure of the backend would matter to the client.
    pub(super) fn concerned(&self) -> bool {
        let state = match &self.state {
            State::Open(connection) => !connection.over(),
            State::Middle(middle) => !middle.ended,
            State::Unseen | State::Failed(_) => false,
        };
        state && !self.given_up && self.failing.is_none()
    }

    /// Nothing more is expected of it.
    pub(super) fn ended(&self) -> bool {
        match &self.state {
            State::Open(connection) => connection.closed(),
            State::Middle(middle) => middle.ended,
            State::Unseen => self.embryo.is_none(),
            State::Failed(_) => true,
        }
    }
}
