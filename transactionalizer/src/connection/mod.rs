//! One connection between a client and a backend: streams, transactions, and what recovery can ask for (paper §4.2).

use std::time::Duration;

use cluster::config::Cluster;
use cluster::control::Flow;
use packet::{Seq, SynOptions, TcpSegment, Time};

use crate::direction::Direction;
use crate::endpoint::Endpoint;
use crate::kept::Share;
use crate::protocol::{self, Protocol};
use crate::request::Requests;
use crate::response::Responses;
use crate::spans::Spans;
use crate::transactions::Transactions;

mod debt;
mod end;
mod large;
mod names;
mod repeated;
mod report;
mod segments;
mod updates;
mod upload;

pub use debt::{Measured, Owed};
pub use segments::Payload;
pub use upload::Upload;

use large::Large;
use updates::History;

/// Response bytes beyond a gap that are kept; greater than any usual receive window.
const BACKEND_GAP_BYTES: usize = 8 << 20;
/// Request bytes beyond a gap that are kept.
const CLIENT_GAP_BYTES: usize = 4 << 20;

/// What a connection's handshake told.
#[derive(Debug, Clone, Copy)]
pub struct Handshake {
    /// The client's initial sequence number.
    pub client_isn: Seq,
    /// The backend's.
    pub backend_isn: Seq,
    /// The client's options.
    pub options: SynOptions,
    /// The backend's.
    pub backend_options: SynOptions,
    /// The ordinal before its first transaction's: T_L of the connection that this one continues, or 0.
    pub base: u32,
}

/// A connection whose beginning was logged.
#[derive(Debug)]
pub struct Connection {
    client_address: Endpoint,
    backend_address: Endpoint,
    options: SynOptions,
    client: Direction,
    backend: Direction,
    /// Its part of what all may keep.
    share: Share,
    /// None once the connection has become opaque.
    protocol: Option<Box<dyn Protocol>>,
    requests: Requests,
    responses: Responses,
    transactions: Transactions,
    spans: Spans,
    /// Where the pending requests lie that are not kept; absent before the first of them.
    upload: Option<Box<Spans>>,
    /// Absent where backends share their state.
    updates: Option<Box<History>>,
    /// Absent before the first large file.
    large: Option<Box<Large>>,
    /// The transactions cannot be told apart (any more).
    opaque: Option<Box<str>>,
    /// Urgent data came: recovery could not reproduce it.
    urgent: bool,
    client_reset: bool,
    /// The client was let have the backend's FIN or RST, or has acknowledged that FIN.
    released: bool,
    /// A FIN passed that nobody judged: whether the client has it is not known.
    passed: bool,
    /// It was an RST.
    reset_released: bool,
    /// How often its backend was asked on it what a reset meant.
    asked: u8,
    /// When T_L's response ended.
    ended: Time,
    /// When the backend was last heard on this connection.
    heard: Time,
    /// Since when something is owed.
    owed_since: Option<Time>,
    /// Since when the client has everything that was sent, and room for more.
    client_ready: Option<Time>,
    /// Since when the backend has everything that it had room for, and room for no more.
    starved: Option<Time>,
    longest_gap: Option<Duration>,
    measured: Vec<Measured>,
}

impl Connection {
    /// After the handshake, completed at `now`.
    pub fn new(flow: Flow, handshake: &Handshake, cluster: &Cluster, share: Share, now: Time) -> Self {
        let mut client = Direction::new(handshake.client_isn, CLIENT_GAP_BYTES);
        let mut backend = Direction::new(handshake.backend_isn, BACKEND_GAP_BYTES);
        let scales = (handshake.options.window_scale, handshake.backend_options.window_scale);
        if let (Some(of_client), Some(of_backend)) = scales {
            backend.set_scale(of_client);
            client.set_scale(of_backend);
        }
        Self {
            client_address: flow.client.into(),
            backend_address: flow.backend.into(),
            options: handshake.options,
            client,
            backend,
            share,
            protocol: Some(protocol::new(&cluster.service)),
            requests: Requests::new(handshake.base, cluster.recovery.request_bytes),
            responses: Responses::default(),
            transactions: Transactions::new(handshake.base),
            spans: Spans::default(),
            upload: None,
            updates: None,
            large: None,
            opaque: None,
            urgent: false,
            client_reset: false,
            released: false,
            passed: false,
            reset_released: false,
            asked: 0,
            ended: now,
            heard: now,
            owed_since: None,
            client_ready: None,
            starved: None,
            longest_gap: None,
            measured: vec![],
        }
    }

    fn flow(&self) -> Flow {
        Flow { client: self.client_address.into(), backend: self.backend_address.into() }
    }

    /// Its client's ISN: another one is another connection.
    pub fn client_isn(&self) -> Seq {
        self.client.isn()
    }

    /// Its client has reset it, and nothing has come since that shows that the backend did not believe that.
    pub fn is_reset(&self) -> bool {
        self.client_reset
    }

    /// What its SYN said, if a SYN-ACK of this number is the backend's first that counts: the process that sent another one has
    /// ended before anybody acknowledged that, and the SYN was repeated to the next.
    pub fn answered_anew(&self, backend_isn: Seq) -> Option<(Seq, SynOptions, u32)> {
        let anew = self.backend.isn() != backend_isn && !self.backend.is_acknowledged();
        anew.then(|| (self.client.isn(), self.options, self.transactions.t_l()))
    }

    /// The client acknowledges the backend's SYN-ACK, first of all.
    pub fn is_taken_up_by(&self, segment: &TcpSegment<'_>) -> bool {
        let acknowledges = segment.flags().ack() && !segment.flags().rst();
        acknowledges && !self.backend.is_acknowledged() && self.backend.acceptable_ack(segment.ack())
    }

    /// The transactions cannot be told apart (any more), for this reason.
    pub fn lose(&mut self, reason: impl Into<String>) {
        self.opaque.get_or_insert_with(|| reason.into().into_boxed_str());
        self.protocol = None;
        self.requests.become_opaque();
        self.spans = Spans::default();
        self.upload = None;
        self.updates = None;
    }

    /// Counts what is kept. Where all connections together keep too much, the one that grows gives up: `false`.
    pub fn account(&mut self) -> bool {
        if self.share.set(self.kept()) {
            return true;
        }
        self.lose("all connections together keep more than recovery.kept_bytes");
        self.client.keep_nothing();
        self.backend.keep_nothing();
        self.responses.keep_nothing();
        self.share.set(self.kept());
        false
    }

    fn kept(&self) -> usize {
        self.client.kept()
            + self.backend.kept()
            + self.requests.kept()
            + self.responses.kept()
            + self.spans.bytes()
            + self.updates_kept()
            + self.upload.as_ref().map_or(0, |upload| upload.bytes())
            + self.large.as_ref().map_or(0, |large| large.kept())
    }

    /// S.
    pub fn client_next(&self) -> Seq {
        self.client.seq(self.client.delivered())
    }

    /// The request in progress, for messages.
    pub fn request(&self) -> Option<&str> {
        self.requests.first().map(|request| request.summary.as_str())
    }

    /// Data conflicts seen beyond gaps: bytes that came again with other content.
    pub fn conflicts(&self) -> u64 {
        u64::from(self.client.conflicts) + u64::from(self.backend.conflicts)
    }
}
