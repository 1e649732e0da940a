//! The control connections between the daemons: streams that keep their order, are late, break, and are made again.

use std::collections::BTreeSet;

use cluster::control::{Flow, FromLog, FromProxy, ToLog, ToLogger, ToProxy};
use packet::Time;

/// Which two daemons it connects. The first named one connects, the second listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Transactionalizer to logger.
    Judge,
    /// Recovery manager to transactionalizer.
    Reports,
    /// Recovery manager to proxy.
    Orders,
}

pub const CHANNELS: [Channel; 3] = [Channel::Judge, Channel::Reports, Channel::Orders];

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Client,
    Server,
}

impl End {
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What goes over them.
#[derive(Debug, Clone)]
pub enum Message {
    ToLogger(ToLogger),
    /// Answer to [`ToLogger::Status`].
    FencesHold,
    /// Answer to [`ToLogger::Fences`].
    Fenced(Vec<Flow>),
    ToLog(ToLog),
    FromLog(FromLog),
    ToProxy(ToProxy),
    FromProxy(FromProxy),
}

/// One channel as its ends see it.
#[derive(Debug, Default)]
pub struct Line {
    /// Number of the last session.
    pub session: u64,
    /// The one that the client has open.
    pub client: Option<u64>,
    /// Those that the server has open: it may not know yet that an earlier one is broken.
    pub server: BTreeSet<u64>,
    /// Broken, which that end does not know yet; nothing arrives on it.
    pub dying: BTreeSet<(End, u64)>,
    /// When the last message to client and server arrives.
    last: [Time; 2],
}

impl Line {
    /// Messages of one direction keep their order.
    pub fn in_order(&mut self, to: End, at: Time) -> Time {
        let last = &mut self.last[usize::from(to == End::Server)];
        *last = at.max(*last);
        *last
    }

    pub fn is_open(&self, end: End, session: u64) -> bool {
        match end {
            End::Client => self.client == Some(session),
            End::Server => self.server.contains(&session),
        }
    }

    /// False if that end did not have it open.
    pub fn close(&mut self, end: End, session: u64) -> bool {
        match end {
            End::Client => self.client.take_if(|open| *open == session).is_some(),
            End::Server => self.server.remove(&session),
        }
    }
}
