//! What a backend's detector finds out and wants done.

use packet::Time;

use super::probing::{ProbeId, Question};

/// What was found out about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Its host answered no probe while something was owed.
    HostSilent,
    /// The network called its host unreachable while something was owed.
    HostUnreachable,
    /// Its host answers, but refuses connections, while something was owed.
    ServiceGone,
    /// The second opinion that was asked for: it serves.
    Serves,
    /// The second opinion that was asked for: it does not.
    ServesNot,
    /// The application answers the operator's check, asked at this moment.
    Answers(Time),
    /// It does not.
    AnswersNot(Time),
    /// Idle heartbeats failed.
    HeartbeatLost,
    /// Its application accepts, but answers no heartbeats: frozen, or busy with what it was asked before.
    HeartbeatMute,
    /// It is down, and that was no mistake: its service is gone.
    Gone,
    /// Heartbeats succeed again.
    Up,
}

/// What a backend wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a probe.
    Probe(ProbeId, Question),
    /// A first probe of its host was not answered: ask on a connection, too. A host whose queue of new connections is full
    /// drops SYNs, but answers there.
    KeepAlive,
    /// React.
    Found(Finding),
}
