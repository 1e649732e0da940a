//! A failed connection as the log knows it.

use std::net::SocketAddr;

use http1::ChunkPlace;
use packet::SynOptions;
use serde::{Deserialize, Serialize};

use super::Flow;

/// Tags of a transaction (paper §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tags {
    /// The same request and state always give the same response.
    pub deterministic: bool,
    /// Does not change the application's state.
    pub read_only: bool,
    /// Running it twice has the effect of running it once.
    pub idempotent: bool,
    /// Its response can be had again from where it was broken off: it need not be logged whole.
    pub large_file: bool,
}

/// A stretch of a client's stream that lies in a logger's segment log: it is had in pieces of at most [`PIECE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRequest {
    /// The connection on which it was logged.
    pub flow: Flow,
    /// The client's initial sequence number there, which tells this connection from others of the same name.
    pub client_isn: u32,
    /// Stream offset of its first byte, counted from the first one after the SYN.
    pub from: u64,
    /// Its length.
    pub bytes: u64,
}

/// What is still to come of the requests that are replayed, and whose transactionalizer has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// The logger's name.
    pub logger: String,
    /// Where it is.
    pub logged: LoggedRequest,
}

/// Bytes of a piece at most.
pub const PIECE_BYTES: usize = 256 << 10;

/// A request whose response is not fully logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRequest {
    /// Its place on the client's connection, from 1.
    pub ordinal: u32,
    /// For messages, like `GET /files/1m`.
    pub summary: String,
    /// What the rules say of it.
    pub tags: Tags,
    /// Response fields whose values may differ, if a rule says so; otherwise those of `[recovery]`.
    pub volatile_headers: Option<Vec<String>>,
    /// All of it has been logged; otherwise `bytes` is its beginning.
    pub complete: bool,
    /// As the client sent it, head and body, up to where [`ConnectionReport::rest`] begins.
    #[serde(with = "super::bytes")]
    pub bytes: Vec<u8>,
}

/// An answered update: an alternate without its effect runs it again (paper §4.3, `[T_R, T_L]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredUpdate {
    /// Its place on the client's connection, from 1.
    pub ordinal: u32,
    /// For messages, like `POST /cart`.
    pub summary: String,
    /// What the rules say of it.
    pub tags: Tags,
    /// As the client sent it, head and body.
    #[serde(with = "super::bytes")]
    pub bytes: Vec<u8>,
    /// Of its final response.
    pub status: u16,
    /// What followed that one's head, as it was sent.
    pub body: Option<Stretch>,
}

/// What an alternate without the connection's state lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Updates {
    /// All transactions up to T_L that are not read-only, in order.
    pub answered: Vec<AnsweredUpdate>,
    /// Backends on which some of them ran, or may have run.
    pub ran_at: Vec<SocketAddr>,
}

impl Updates {
    /// Memory that they take, about.
    pub fn bytes(&self) -> usize {
        self.answered.iter().map(AnsweredUpdate::bytes).sum()
    }
}

impl AnsweredUpdate {
    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        size_of_val(self) + self.bytes.len() + self.summary.len()
    }
}

/// What has been logged of the response of T_L + 1: p = `head.len() + body_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartialResponse {
    /// The head as logged, to the empty line, or as far as it came.
    pub head: Vec<u8>,
    /// The empty line has been logged.
    pub head_complete: bool,
    /// Bytes after the head (of the message as sent: chunk framing included).
    pub body_bytes: u64,
    /// Of those bytes, consecutive stretches from the first on. What they do not reach was left out of the log.
    pub hashes: Vec<Stretch>,
    /// What they hold, if the body is chunked and all of it was logged, and if another framing can go on behind it.
    pub content: Option<ChunkedContent>,
    /// The last of those bytes, at most [`TAIL_BYTES`], to check a `Range` answer against.
    #[serde(with = "super::bytes")]
    pub tail: Vec<u8>,
    /// Body bytes behind those that passed, but were left out of the log as a large file's: the client may have them. At most
    /// [`LEFT_OUT_BYTES`].
    pub left_out: u64,
}

impl PartialResponse {
    /// Every byte of the body can be compared.
    pub fn is_hashed(&self) -> bool {
        self.hashes.iter().fold(0, |sum: u64, stretch| sum.saturating_add(stretch.bytes)) == self.body_bytes
    }
}

/// Some consecutive bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stretch {
    /// How many.
    pub bytes: u64,
    /// Their xxh3-128.
    pub hash: u128,
}

/// The content of a chunked body as far as it came: the same from servers that cut it into other chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkedContent {
    /// Without the framing.
    pub content: Stretch,
    /// Where the framing was broken off.
    pub place: ChunkPlace,
}

/// Bytes of [`PartialResponse::left_out`] at most: greater than any usual receive window.
pub const LEFT_OUT_BYTES: u64 = 64 << 20;

/// Bytes of [`PartialResponse::tail`] at most.
pub const TAIL_BYTES: usize = 16 << 10;

/// A client's receive window as its acknowledgements offered it, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientWindow {
    /// From Ack_CL on.
    pub now: u32,
    /// The largest one; 0: none was logged.
    pub most: u32,
}

/// Bytes of [`ConnectionReport::beyond`], holes included, at most.
pub const BEYOND_BYTES: usize = 1 << 20;

/// One connection of a failed backend, as far as it was logged (paper §4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Which one.
    pub flow: Flow,
    /// The client's initial sequence number there; of no meaning if the log began later.
    pub client_isn: u32,
    /// What the client offered in its SYN, as the backend saw it; `None` if the log began later.
    pub options: Option<SynOptions>,
    /// T_L: ordinal of the last transaction whose response is fully logged; 0: none.
    pub t_l: u32,
    /// Ack_TL: the sequence number after T_L's last response byte.
    pub ack_tl: u32,
    /// Ack_CL: the client's last acknowledgement that was logged.
    pub ack_cl: u32,
    /// What the client takes.
    pub client_window: ClientWindow,
    /// S: the client's next sequence number, one after its last logged byte.
    pub client_next: u32,
    /// The client's FIN was logged (it sits at `client_next`, which does not count it).
    pub client_fin: bool,
    /// Transactions up to T_L that changed something; `None`: not kept, because the backends share their state.
    pub updates: Option<Updates>,
    /// Requests T_L + 1 and following, in order; the last may be incomplete.
    pub pending: Vec<PendingRequest>,
    /// The end of the pending requests, if they are more than the transactionalizer keeps: it comes from the log.
    pub rest: Option<LoggedRequest>,
    /// What was logged of the response of T_L + 1.
    pub partial: PartialResponse,
    /// Response bytes `[Ack_CL, Ack_TL + p)`, still in the log.
    #[serde(with = "super::bytes")]
    pub unacked: Vec<u8>,
    /// Response bytes that passed behind a hole: each piece's distance from Ack_TL + p, ascending, and its bytes. The client may
    /// have them, though p does not count them. At most [`BEYOND_BYTES`] from the end of what was
    /// [left out](PartialResponse::left_out) on.
    pub beyond: Vec<(u64, Vec<u8>)>,
    /// Why this connection cannot be recovered, if so.
    pub unrecoverable: Option<String>,
}

impl ConnectionReport {
    /// One of which nothing is known.
    pub fn new(flow: Flow) -> Self {
        Self {
            flow,
            client_isn: 0,
            options: None,
            t_l: 0,
            ack_tl: 0,
            ack_cl: 0,
            client_window: ClientWindow::default(),
            client_next: 0,
            client_fin: false,
            updates: None,
            pending: Vec::new(),
            rest: None,
            partial: PartialResponse::default(),
            unacked: Vec::new(),
            beyond: Vec::new(),
            unrecoverable: None,
        }
    }

    /// Bytes of requests and responses in it, about: what it costs to keep it, or to send it.
    pub fn bytes(&self) -> usize {
        let requests: usize = self.pending.iter().map(|request| request.bytes.len()).sum();
        let updates = self.updates.as_ref().map_or(0, Updates::bytes);
        requests + updates + self.unacked.len() + self.partial.head.len() + self.partial.tail.len()
    }
}
