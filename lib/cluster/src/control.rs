//! The messages between the programs. Sequence numbers are absolute (32 bits, modular) and, unless said
//! otherwise, in the *backend's* space: what the logger sees. The proxy alone knows the client's space.
//!
//! ```text
//! nfq-logger  <run>/nfq-logger.sock  ◄── transactionalizer      ToLogger
//! transactionalizer  [logger] control ◄──► recovery-manager     FromLog, ToLog
//! nfq-splice  <run>/nfq-splice.sock  ◄──► recovery-manager, resplice   ToProxy, FromProxy
//! each daemon <run>/DAEMON.sock      ◄── resplice status
//! ```

use std::net::SocketAddr;

use packet::SynOptions;
use serde::{Deserialize, Serialize};

use crate::config::BackendState;

mod bytes;
mod report;
mod status;
mod swallowed;

pub use report::{
    AnsweredUpdate, BEYOND_BYTES, ChunkedContent, ClientWindow, ConnectionReport, LEFT_OUT_BYTES,
    LoggedRequest, PIECE_BYTES, PartialResponse, PendingRequest, Rest, Stretch, TAIL_BYTES, Tags, Updates,
};
pub use status::{
    BackendHealth, BackendStatus, ConnectionStatus, HealthState, LogStatus, LoggerStatus, ManagerStatus,
    Mismatch, Mismatches, ProxyStatus, RecoveryRecord,
};

pub use swallowed::{SWALLOWED_BYTES, Swallowed};

/// A client's address and port: with the service, the name of a connection everywhere.
pub type Client = SocketAddr;

/// One connection between a client and a backend as the logger sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// The client.
    pub client: Client,
    /// The backend.
    pub backend: SocketAddr,
}

/// The body of a response that can be had again from where it was broken off (paper §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeBody {
    /// Whose backend sends it.
    pub flow: Flow,
    /// The client's initial sequence number, which tells this connection from others of the same name.
    pub client_isn: u32,
    /// Sequence number of its first byte.
    pub from: u32,
    /// Its length.
    pub bytes: u64,
}

/// Answer to a request that is carried out or refused: what was done, or why not, for people.
pub type Done = Result<String, String>;

/// Transactionalizer to logger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLogger {
    /// The sender judges held segments from now on. Without a judge, FIN and RST pass at once.
    Judge,
    /// The held segment `hold` (as recorded in the log) may pass.
    Release {
        /// The record's hold number.
        hold: u64,
    },
    /// The held segment `hold` must never be seen by the client.
    Suppress {
        /// The record's hold number.
        hold: u64,
    },
    /// From now on nothing from this flow's backend passes, until the client opens the flow anew with a SYN. A later logger keeps to it
    /// while the record of it is in the log.
    Fence(Flow),
    /// This body need not be logged: headers will do.
    LeaveOut(LargeBody),
    /// Answer with [`LoggerStatus::fenced`]: what a predecessor of the sender has fenced.
    Fences,
    /// Answer with [`LoggerStatus`].
    Status,
    /// Read the configuration anew. Answered with [`Done`].
    Reload,
}

/// What made the detector declare a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// The backend's kernel closed the connection with a FIN before the response was complete.
    PrematureFin,
    /// The same with a RST.
    PrematureReset,
    /// The host answered no probe.
    HostSilent,
    /// The host lives but the application exceeded its adaptive timeout.
    ApplicationTimeout,
    /// The idle heartbeat failed.
    Heartbeat,
    /// The network called the host unreachable (ICMP, or a neighbour that is not found).
    Unreachable,
}

/// A part of a client's stream, read from the log again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedPiece {
    /// What was asked for.
    pub logged: LoggedRequest,
    /// It, all of it; or why it cannot be had (any more).
    pub bytes: Result<Vec<u8>, String>,
}

/// Transactionalizer to recovery manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLog {
    /// Connections whose backend failed them. The logger has already fenced the backend on each.
    Failed {
        /// Increases by one with each message of one transactionalizer.
        number: u64,
        /// How it was noticed.
        evidence: Evidence,
        /// Microseconds from the evidence's occurrence to this message.
        noticed_us: u64,
        /// The whole backend is down, not only these connections.
        backend_down: bool,
        /// The backend.
        backend: SocketAddr,
        /// At least one, or none when only the backend's state changed.
        connections: Vec<ConnectionReport>,
    },
    /// What a client sent into the fence of a failed backend; it follows the report.
    Swallowed(Swallowed),
    /// The backend answers again and may get new connections.
    BackendUp {
        /// Which one.
        backend: SocketAddr,
    },
    /// Answer to [`ToLog::Read`].
    Piece(LoggedPiece),
    /// Answer to [`ToLog::Status`].
    Status(LogStatus),
    /// Answer to [`ToLog::Reload`].
    Done(Done),
    /// The sender's orders do not count (any more): a manager of this node has a later epoch.
    Fenced {
        /// That epoch.
        epoch: u64,
    },
}

/// Recovery manager to transactionalizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLog {
    /// Failures are reported to the sender from now on. Answered with the state of each backend that is down, or with
    /// [`FromLog::Fenced`].
    Subscribe {
        /// The manager's; a later one of the same node fences it.
        epoch: u64,
    },
    /// The recovery of this client ended; ordinals continue on its connection with `backend`, if any.
    Ended {
        /// The client.
        client: Client,
        /// Where it was re-spliced to; `None`: the client was reset or is gone.
        backend: Option<SocketAddr>,
    },
    /// Answer with [`FromLog::Piece`]: this part of a failed connection's [rest](ConnectionReport::rest).
    Read(LoggedRequest),
    /// Answer with [`LogStatus`].
    Status,
    /// Read the configuration anew; only from this host. Answered with [`FromLog::Done`].
    Reload,
    /// What the operator wants of each backend.
    Wanted(Vec<(SocketAddr, BackendState)>),
}

/// What of the alternate's response the client already has (or gets from the log), and how it is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeIn {
    /// Nothing: splice right after the handshake and the replay.
    Nothing,
    /// The same request again: the first p bytes are taken in and compared.
    Prefix(Prefix),
    /// A `Range` request from `first` on: a 206 whose head is dropped, whose first bytes must equal `overlap`; or, from an
    /// alternate that ignores ranges, a 200 with the `whole`.
    Range {
        /// First byte position asked for, as `Content-Range` must repeat it.
        first: u64,
        /// Complete length of the representation, as `Content-Range` must repeat it.
        complete: u64,
        /// The body bytes at `first` as logged; taken in and compared.
        #[serde(with = "bytes")]
        overlap: Vec<u8>,
        /// How a 200 is taken in: on the same connection, because a second one with this alternate would end at the same
        /// sequence number, where late resets of the first one would be believed.
        whole: Prefix,
    },
}

/// The first p bytes of a response, as logged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prefix {
    /// The logged head, or its beginning.
    pub head: Vec<u8>,
    /// It is whole.
    pub head_complete: bool,
    /// Fields whose values may differ at equal length.
    pub volatile: Vec<String>,
    /// Body bytes to take in after the head.
    pub body_bytes: u64,
    /// What is known of them, from the first on. What is not is not compared: then a validator in the head vouches for it.
    pub hashes: Vec<Stretch>,
    /// What they hold, if a response in other chunks will do.
    pub content: Option<ChunkedContent>,
    /// The last of them, as far as they are kept: to show where another body differs.
    #[serde(with = "bytes")]
    pub tail: Vec<u8>,
}

/// A transaction before T_SP that runs again on the alternate. Its response is checked, and never sent to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// For messages, like `request 3 (POST /cart)`.
    pub name: String,
    /// Its request: so many bytes of the order's replay, behind those of the one before.
    pub request_bytes: usize,
    /// The status that the client was answered with.
    pub status: u16,
    /// Status and body must be the same, because the transaction is deterministic: this body. Otherwise the status's class will do.
    pub same: Option<Stretch>,
}

/// One connection's recovery, as the manager planned it and the proxy executes it (paper §4.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryOrder {
    /// Unique among the orders of one manager.
    pub id: u64,
    /// The client and the backend that failed it.
    pub flow: Flow,
    /// The alternate backend A.
    pub alternate: SocketAddr,
    /// What the client offered, for a proxy that did not conduct its handshake.
    pub options: Option<SynOptions>,
    /// What the client takes, from `resend_from` on.
    pub client_window: ClientWindow,
    /// S: the client's next sequence number as logged.
    pub client_next: u32,
    /// S as an earlier report had it, if that lies beyond: a replay that the log has not seen whole again. The proxy owes what is
    /// between them, or the connection is lost.
    pub client_known: u32,
    /// The client's FIN was logged at `client_next`: it follows the replay, the client may not repeat it.
    pub client_fin: bool,
    /// Transactions of `[T_R, T_L]` that run again first, one after the other.
    pub replayed: Vec<Replayed>,
    /// Requests to send to the alternate, those of `replayed` first. R is their length and that of the `rest`; the ISN is S − R − 1.
    #[serde(with = "bytes")]
    pub replay: Vec<u8>,
    /// What follows them, up to S.
    pub rest: Option<Rest>,
    /// Sequence number (failed backend's space) of `resend`'s first byte: Ack_CL.
    pub resend_from: u32,
    /// Logged response bytes to re-send to the client (eq. 1).
    #[serde(with = "bytes")]
    pub resend: Vec<u8>,
    /// What to take in from the alternate before splicing.
    pub take_in: TakeIn,
    /// As reported: what the alternate sends behind p must equal this, up to its end.
    pub beyond: Vec<(u64, Vec<u8>)>,
    /// So many bytes behind p passed, but were left out of the log: the client may have them.
    pub left_out: u64,
}

/// Recovery manager (or `resplice`) to proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProxy {
    /// Events are sent to the sender from now on, and its orders are taken; or it gets [`FromProxy::Fenced`].
    Subscribe {
        /// The manager's; a later one fences it.
        epoch: u64,
    },
    /// Fence, re-send, replay, compare, re-splice: connections that failed together. Idempotent by order id.
    Recover(Vec<RecoveryOrder>),
    /// Fence, and reset the client.
    Reset {
        /// Whose connection, and which backend failed it: a connection already on another backend is left alone.
        flow: Flow,
        /// One after the last logged response byte, in that backend's space. A client believes a RST there, or challenges it; one
        /// before its own last acknowledgement it ignores (RFC 5961 §3).
        end: Option<u32>,
        /// Logged and shown.
        reason: String,
    },
    /// Fence, re-send, then answer in the backends' place and close: nobody can continue it, and the client has nothing of the response.
    Answer {
        /// As for a recovery, but for the alternate, which is the failed backend; of the requests only the beginning is given.
        order: Box<RecoveryOrder>,
        /// 502 or 503.
        status: u16,
        /// Logged, and shown to the client's user.
        reason: String,
    },
    /// Answer to [`FromProxy::Read`].
    Piece(LoggedPiece),
    /// What the client sent into the failed backend's fence, as if it came from the client now. It follows the order; idempotent.
    Swallowed {
        /// The order's alternate.
        alternate: SocketAddr,
        /// What it sent.
        swallowed: Swallowed,
    },
    /// New connections avoid, or may use again, a backend.
    Backend {
        /// Which one.
        backend: SocketAddr,
        /// Usable.
        up: bool,
    },
    /// Answer with [`FromProxy::Status`].
    Status,
    /// What the operator wants of a backend, over reloads and restarts. Answered with [`FromProxy::Done`].
    Want {
        /// Its name.
        backend: String,
        /// Whatever the configuration says.
        state: BackendState,
    },
    /// Read the configuration anew. Answered with [`FromProxy::Done`].
    Reload,
}

/// How one recovery ended at the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The client continues on the alternate.
    Respliced {
        /// Response bytes re-sent from the log.
        resent: u64,
        /// Response bytes taken in and compared.
        taken_in: u64,
        /// Steps and the microseconds from the order's arrival to their end, in order.
        steps: Vec<(String, u64)>,
    },
    /// The alternate could not be reached or did not serve; another alternate may be tried with a new order.
    AlternateFailed(String),
    /// The alternate's bytes differ from those already sent; the client was reset.
    Mismatch {
        /// Position in the response.
        at: u64,
        /// What both have before it.
        before: Vec<u8>,
        /// What the log has there, a few bytes of context.
        logged: Vec<u8>,
        /// What the alternate sent there.
        alternate: Vec<u8>,
    },
    /// The proxy does not know this connection (any more), or the client is gone.
    Gone(String),
    /// The client is not on the backend that failed but on this one: its failure was dealt with, or it never was there.
    Elsewhere(SocketAddr),
    /// As [`Self::AlternateFailed`], but that one has said nothing at all: the handshake's segments may have been lost.
    AlternateSilent,
}

/// Proxy to recovery manager (or `resplice`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProxy {
    /// An order ended.
    Ended {
        /// The order.
        id: u64,
        /// How.
        outcome: Outcome,
    },
    /// A part of a [rest](RecoveryOrder::rest) is to be sent next: answer with [`ToProxy::Piece`]. Repeated until that comes.
    Read(Rest),
    /// Answer to [`ToProxy::Status`].
    Status(ProxyStatus),
    /// What the operator wants of each backend: to subscribers, at first and whenever it changes.
    Wanted(Vec<(SocketAddr, BackendState)>),
    /// Answer to [`ToProxy::Want`] and [`ToProxy::Reload`].
    Done(Done),
    /// The sender's orders do not count (any more): another manager has a later epoch.
    Fenced {
        /// That epoch.
        epoch: u64,
    },
}

/// Asked of the recovery manager's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToManager {
    /// Answer with [`ManagerStatus`].
    Status,
    /// Answer with [`Mismatches`].
    Mismatches,
    /// Read the configuration anew. Answered with [`Done`].
    Reload,
}
