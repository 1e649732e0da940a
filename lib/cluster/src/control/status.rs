//! What the daemons answer to `resplice status`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Client, Evidence, Flow};
use crate::config::BackendState;

/// Logger to whoever asked [`ToLogger::Status`] or [`ToLogger::Fences`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggerStatus {
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// The flows of which nothing passes, if asked for.
    pub fenced: Vec<Flow>,
}

/// State of the transactionalizer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Backends and whether they are up.
    pub backends: Vec<(SocketAddr, bool)>,
    /// The same in detail.
    pub health: Vec<BackendHealth>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// How the detector sees a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthState {
    /// In use.
    Up,
    /// In use, but something is owed for too long: its host or its application is being asked.
    Suspected,
    /// Failed.
    Down,
    /// Failed, and good heartbeats come again.
    Returning,
    /// The operator's: it is neither asked nor declared.
    Maintenance,
}

impl HealthState {
    /// For people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspected => "suspected",
            Self::Down => "down",
            Self::Returning => "returning",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A backend as the detector sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendHealth {
    /// Where it listens.
    pub address: SocketAddr,
    /// In one word.
    pub state: HealthState,
    /// Milliseconds since it last failed or came back.
    pub since_ms: u64,
    /// Good heartbeats in a row since it failed,
    pub good: u32,
    /// of so many that it needs to be used again.
    pub needed: u32,
    /// Recent failures: the more, the more good heartbeats it needs.
    pub flaps: u32,
    /// Connections on which its application is overdue.
    pub late: u64,
    /// How many times longer than usual it may take, after suspicions that were wrong.
    pub margin: u32,
}

/// State of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// At most 10,000 of them.
    pub connections: Vec<ConnectionStatus>,
    /// Connections known, also those left out above.
    pub total: u64,
    /// All that are configured, and those that still have connections.
    pub backends: Vec<BackendStatus>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// One backend at the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// `None`: it is not configured any more.
    pub name: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What the operator wants of it.
    pub state: BackendState,
    /// It failed, and does not answer again yet.
    pub down: bool,
    /// Connections that are with it now.
    pub connections: u64,
}

impl BackendStatus {
    /// New connections may go to it.
    pub fn serves(&self) -> bool {
        self.name.is_some() && self.state == BackendState::Up && !self.down
    }
}

/// One connection at the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The client.
    pub client: Client,
    /// Its present backend.
    pub backend: Option<SocketAddr>,
    /// `syn-received`, `collecting`, `connecting`, `spliced-young` (by the fast path alone), `spliced-kernel`, `spliced-userspace`, `recovering`, `answering`.
    pub state: String,
    /// How often it was re-spliced.
    pub resplices: u32,
}

/// State of a recovery manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// The last recoveries, newest last.
    pub recoveries: Vec<RecoveryRecord>,
    /// Connected to the proxy's splice daemon.
    pub proxy_connected: bool,
    /// Loggers, and whether they are connected.
    pub loggers: Vec<(String, bool)>,
    /// Backends the manager believes to be down.
    pub down: Vec<SocketAddr>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// One finished recovery, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryRecord {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The client and the failed backend.
    pub flow: Flow,
    /// The alternate, if one was tried.
    pub alternate: Option<SocketAddr>,
    /// How the failure was noticed.
    pub evidence: Evidence,
    /// Microseconds from the evidence to the failure notice's arrival.
    pub noticed_us: u64,
    /// T_L.
    pub t_l: u32,
    /// p.
    pub p: u64,
    /// The request that was in progress, if any.
    pub request: Option<String>,
    /// Whether and how it ended, in words.
    pub outcome: String,
    /// The client kept its connection.
    pub ok: bool,
    /// Steps and the microseconds from the failure notice's arrival to their end.
    pub steps: Vec<(String, u64)>,
}

/// Responses that an alternate gave differently, for people who write tag rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatches {
    /// How many there were of each kind of request.
    pub kinds: BTreeMap<String, u64>,
    /// The last ones, newest last.
    pub last: Vec<Mismatch>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Unix time of the failure in milliseconds.
    pub at_ms: u64,
    /// The client and the failed backend.
    pub flow: Flow,
    /// Who answered differently.
    pub alternate: SocketAddr,
    /// The request, like `GET /files/1m`.
    pub request: String,
    /// Method and path without what looks like a name of one object.
    pub kind: String,
    /// The first byte that is known to differ, in the response with its head; the first one of the body if only its hash shows that
    /// it differs.
    pub position: u64,
    /// What both sent before it, some bytes.
    pub before: Vec<u8>,
    /// What the client was sent there; none: not kept.
    pub logged: Vec<u8>,
    /// What the alternate sent there.
    pub sent: Vec<u8>,
}
