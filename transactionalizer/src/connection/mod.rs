//! One connection between a client and a backend: streams, transactions, and what recovery can ask for (paper §4.2).

use std::time::Duration;

use cluster::config::Cluster;
use cluster::control::Flow;
use cluster::tags::TagRules;
use packet::{Flags, Seq, SynOptions, TcpSegment, Time};
use segment_log::LeftOut;

use crate::direction::{Direction, Taken};
use crate::endpoint::Endpoint;
use crate::kept::Share;
use crate::protocol::{self, Protocol};
use crate::request::{Lost, Requests};
use crate::response::{Progress, Responses};
use crate::spans::{Record, Spans};
use crate::transactions::Transactions;

mod debt;
mod end;
mod large;
mod names;
mod repeated;
mod report;
mod upload;

pub use debt::{Measured, Owed};
pub use upload::Upload;

use large::Large;

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

/// Where a logged segment's data is.
#[derive(Debug, Clone, Copy)]
pub enum Payload {
    /// In this record.
    In(Record),
    /// Nowhere: a large file's.
    LeftOut(LeftOut),
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
    /// Absent before the first large file.
    large: Option<Box<Large>>,
    /// The transactions cannot be told apart (any more).
    opaque: Option<Box<str>>,
    /// Urgent data came: recovery could not reproduce it.
    urgent: bool,
    client_reset: bool,
    released: bool,
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
            large: None,
            opaque: None,
            urgent: false,
            client_reset: false,
            released: false,
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

    /// The transactions cannot be told apart (any more), for this reason.
    pub fn lose(&mut self, reason: impl Into<String>) {
        self.opaque.get_or_insert_with(|| reason.into().into_boxed_str());
        self.protocol = None;
        self.requests.become_opaque();
        self.spans = Spans::default();
        self.upload = None;
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
            + self.upload.as_ref().map_or(0, |upload| upload.bytes())
            + self.large.as_ref().map_or(0, |large| large.kept())
    }

    /// A segment from the client. `false`: it shows that the log lacks segments.
    pub fn handle_client(
        &mut self,
        segment: &TcpSegment<'_>,
        record: Record,
        now: Time,
        rules: &TagRules,
    ) -> bool {
        if segment.flags().rst() {
            self.client_reset |= self.client.acceptable_reset(segment.seq());
            return true;
        }
        self.client_reset = false;
        let acceptable = segment.flags().ack() && self.backend.acceptable_ack(segment.ack());
        let plausible = self.take_ack(segment, now);
        if acceptable {
            self.take_client_data(segment, record, now, rules);
            if segment.flags().fin() {
                self.client.handle_fin(segment.seq() + segment.payload().len() as u32);
            }
        }
        self.note_debt(now);
        plausible
    }

    fn take_ack(&mut self, segment: &TcpSegment<'_>, now: Time) -> bool {
        if !segment.flags().ack() {
            return true;
        }
        let plausible = self.backend.handle_ack(segment.ack(), segment.window());
        // Whoever let the backend's FIN pass, the client has it.
        if plausible && self.backend.is_end(segment.ack()) && !self.released {
            self.handle_released();
        }
        self.trim();
        if self.client_is_ready() {
            self.client_ready.get_or_insert(now);
        }
        plausible
    }

    fn take_client_data(&mut self, segment: &TcpSegment<'_>, record: Record, now: Time, rules: &TagRules) {
        let Self { client, requests, protocol, transactions, .. } = self;
        let mut lost = None;
        let taken = client.push(segment.seq(), segment.payload(), &mut |bytes| {
            if let (Some(protocol), None) = (protocol.as_mut(), lost) {
                lost = requests.push(&mut **protocol, bytes, now, rules, transactions).err();
            }
        });
        self.taint_urgent(segment);
        match (lost, taken) {
            (Some(Lost::Refused(refusal)), _) => self.lose(format!("request stream: {refusal}")),
            (Some(Lost::Ordinals), _) => self.lose("more transactions than a 32-bit ordinal counts"),
            (None, Taken::Overflow) => self.lose("too many request bytes beyond a gap in the log"),
            (None, Taken::At(start)) => self.note_upload(start, segment.payload().len(), record),
            (None, Taken::Outside) => {}
        }
    }

    /// Linux takes an urgent byte out of the stream: offsets here and in the application part.
    fn taint_urgent(&mut self, segment: &TcpSegment<'_>) {
        self.urgent |= segment.flags().contains(Flags::URG);
    }

    /// A segment from the backend. `false`: it shows that the log lacks segments.
    pub fn handle_backend(&mut self, segment: &TcpSegment<'_>, payload: Payload, now: Time) -> bool {
        self.heard = now;
        if segment.flags().rst() {
            return true;
        }
        let acceptable = segment.flags().ack() && self.client.acceptable_ack(segment.ack());
        let plausible = !segment.flags().ack() || self.client.handle_ack(segment.ack(), segment.window());
        let closed = self.backend_is_full();
        self.starved = if closed { self.starved.or(Some(now)) } else { None };
        match payload {
            Payload::LeftOut(left_out) if acceptable => {
                self.note_gap(now);
                self.skip_backend_data(segment, left_out, now);
            }
            Payload::In(record) if acceptable && !segment.payload().is_empty() => {
                self.note_gap(now);
                self.take_backend_data(segment, record, now);
            }
            _ => {}
        }
        if acceptable && segment.flags().fin() {
            self.backend.handle_fin(segment.seq() + segment.payload().len() as u32);
        }
        self.note_debt(now);
        plausible
    }

    fn take_backend_data(&mut self, segment: &TcpSegment<'_>, record: Record, now: Time) {
        let start = self.backend.delivered();
        let (seq, data) = (segment.seq(), segment.payload());
        let taken = self.feed_responses(start, now, |backend, deliver| backend.push(seq, data, deliver));
        self.taint_urgent(segment);
        match taken {
            Taken::Overflow => self.lose("too many response bytes beyond a gap in the log"),
            Taken::At(start) => self.note_span(start, data.len(), record),
            Taken::Outside => {}
        }
        self.trim();
    }

    /// What the backend's stream delivers, from stream offset `offset` on, when `take` has been done to it.
    fn feed_responses<T>(
        &mut self,
        mut offset: u64,
        now: Time,
        take: impl FnOnce(&mut Direction, &mut dyn FnMut(&[u8])) -> T,
    ) -> T {
        let Self { backend, responses, protocol, .. } = self;
        let (mut refused, mut events) = (None, Vec::new());
        let taken = take(backend, &mut |bytes| {
            if let (Some(protocol), None) = (protocol.as_mut(), refused) {
                let mut then = |progress| events.push((offset, progress));
                refused = responses.push(&mut **protocol, bytes, now, &mut then).err();
            }
            offset += bytes.len() as u64;
        });
        for (start, progress) in events {
            self.take_progress(start, progress, now);
        }
        if let Some(refusal) = refused {
            self.lose(format!("response stream: {refusal}"));
        }
        taken
    }

    fn note_span(&mut self, start: i64, length: usize, record: Record) {
        let skip = (-start).max(0) as usize;
        if self.opaque.is_some() || skip >= length {
            return;
        }
        if self.spans.insert(start.max(0) as u64, length - skip, record, skip).is_err() {
            self.lose("response bytes lie in too many segments");
        }
    }

    fn take_progress(&mut self, start: u64, progress: Progress, now: Time) {
        let (response, at) = match progress {
            Progress::Begun { answer, at } => {
                self.requests.answer_begins(&answer);
                return self.note_large(start + at as u64, &answer);
            }
            Progress::Unasked(at) => return self.transactions.pass_unasked(start + at as u64),
            Progress::Switched => return self.lose("the connection speaks another protocol now"),
            Progress::Ended { response, at } => (response, at),
        };
        let Some(request) = self.requests.answered() else { return };
        let end = start + at as u64;
        self.trim_upload();
        self.transactions.end_response(end);
        if !request.keep_alive {
            self.responses.set_closing();
        }
        let owed_from = request.complete.map(|complete| complete.max(self.ended));
        let start =
            owed_from.filter(|from| *from <= response.started).map(|from| response.started.since(from));
        let gap = self.longest_gap.take();
        // Errors are answered faster, or slower, than what they are instead of.
        let learnt = (response.status < 400).then_some(request.kind);
        self.measured.push(Measured { learnt, start, gap });
        self.ended = now;
        self.keep_unacknowledged(&request, response, end);
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
