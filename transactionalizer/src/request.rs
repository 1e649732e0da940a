//! The requests of a connection whose responses are not fully logged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cluster::control::{PendingRequest, Tags};
use cluster::tags::{Answered, Decision, Rule, TagRules};
use packet::Time;

use crate::detector::KindId;
use crate::protocol::{Answer, Asked, Protocol, Refused, RequestEvent};
use crate::transactions::Transactions;

/// What is asked is cut to this many bytes in messages.
const SUMMARY_BYTES: usize = 120;

/// A request whose tags depend on its response.
#[derive(Debug)]
struct Open {
    asked: Asked,
    rules: Vec<Arc<Rule>>,
    otherwise: Option<Arc<Rule>>,
}

/// One request, as far as it was logged.
#[derive(Debug, Default)]
pub struct Request {
    /// Its place on the client's connection, from 1.
    pub ordinal: u32,
    /// For messages.
    pub summary: String,
    /// What the rules say; the conservative default until it is known what is asked.
    pub tags: Tags,
    /// Which response times are comparable.
    pub kind: KindId,
    /// The client wants to go on after the response.
    pub keep_alive: bool,
    /// When its last byte was logged.
    pub complete: Option<Time>,
    /// Nothing but blanks: nothing is asked for yet.
    blank: bool,
    /// The rule that decided.
    rule: Option<Arc<Rule>>,
    /// Kept while rules depend on the response: those, and what they are matched with.
    open: Option<Box<Open>>,
    /// Stream offset of its first byte.
    start: u64,
    bytes: Vec<u8>,
    /// It has more bytes than may be kept, or follows one that has: what follows `bytes` is in the log only.
    spilled: bool,
}

impl Request {
    fn new(ordinal: u32, start: u64, spilled: bool) -> Self {
        let summary = "incomplete request".to_owned();
        Self { ordinal, summary, keep_alive: true, blank: true, start, spilled, ..Self::default() }
    }

    fn take_asked(&mut self, asked: Asked, rules: &TagRules) {
        self.blank = false;
        self.summary = asked.line().chars().take(SUMMARY_BYTES).collect();
        self.keep_alive = asked.keep_alive();
        let Decision { tags, rule, open, .. } = rules.decide(&asked.subject(), None);
        (self.tags, self.rule) = (tags, rule.clone());
        self.kind = asked.kind().tagged(tags);
        self.open = (!open.is_empty()).then(|| Box::new(Open { asked, rules: open, otherwise: rule }));
    }

    /// The head of its response has come.
    fn answer_begins(&mut self, answer: &Answer) {
        let Some(open) = self.open.take() else { return };
        let content_type = answer.head.as_ref().and_then(|head| head.fields.text("content-type"));
        let (asked, answered) = (open.asked.subject(), Answered { status: answer.status, content_type });
        let decided = open.rules.into_iter().find(|rule| rule.decides(&asked, &answered)).or(open.otherwise);
        self.tags = decided.as_ref().map(|rule| rule.tags).unwrap_or_default();
        self.rule = decided;
    }

    /// It, as far as it was logged and is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All that was logged of it is kept.
    pub fn is_kept(&self) -> bool {
        !self.spilled
    }

    /// For a report.
    pub fn report(&self) -> PendingRequest {
        PendingRequest {
            ordinal: self.ordinal,
            summary: self.summary.clone(),
            tags: self.tags,
            volatile_headers: self.rule.as_ref().and_then(|rule| rule.written.volatile_headers.clone()),
            complete: self.complete.is_some(),
            bytes: self.bytes.clone(),
        }
    }

    /// Bounds of its application timeouts: the rule's, or else these.
    pub fn timeouts(&self, floor: Duration, ceiling: Duration) -> (Duration, Duration) {
        let Some(rule) = &self.rule else { return (floor, ceiling) };
        let ceiling = rule.written.timeout_ceiling_ms.map_or(ceiling, Duration::from_millis);
        let floor = rule.written.timeout_floor_ms.map_or(floor, Duration::from_millis);
        (floor.min(ceiling), ceiling)
    }
}

/// Why the stream of requests has no boundaries (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The protocol does not understand it.
    Refused(Refused),
    /// More transactions than ordinals.
    Ordinals,
}

/// A client's stream as requests.
#[derive(Debug)]
pub struct Requests {
    pending: VecDeque<Request>,
    /// A request was answered in full before it was complete; its rest is still to come.
    rest_of_answered: bool,
    last_ordinal: u32,
    /// Bytes of the stream so far.
    at: u64,
    kept: usize,
    max: usize,
}

impl Requests {
    /// The first request gets the ordinal `base + 1`; bytes of pending requests are kept up to `max`.
    pub fn new(base: u32, max: usize) -> Self {
        Self { pending: VecDeque::new(), rest_of_answered: false, last_ordinal: base, at: 0, kept: 0, max }
    }

    /// Takes the next bytes of the stream.
    pub fn push(
        &mut self,
        protocol: &mut dyn Protocol,
        mut bytes: &[u8],
        now: Time,
        rules: &TagRules,
        map: &mut Transactions,
    ) -> Result<(), Lost> {
        loop {
            let step = protocol.feed_request(bytes).map_err(Lost::Refused)?;
            let (part, rest) = bytes.split_at(step.consumed.min(bytes.len()));
            bytes = rest;
            self.at += part.len() as u64;
            match step.event {
                RequestEvent::NeedMore => return Ok(()),
                RequestEvent::Part => self.keep(part, protocol)?,
                RequestEvent::Asked(asked) => {
                    self.keep(part, protocol)?;
                    if let Some(request) = self.pending.back_mut() {
                        request.take_asked(asked, rules);
                    }
                }
                RequestEvent::End => {
                    map.end_request(self.at);
                    self.complete(now);
                }
            }
        }
    }

    fn keep(&mut self, part: &[u8], protocol: &dyn Protocol) -> Result<(), Lost> {
        if self.rest_of_answered {
            return Ok(());
        }
        if self.pending.back().is_none_or(|last| last.complete.is_some()) {
            let ordinal = self.last_ordinal.checked_add(1).ok_or(Lost::Ordinals)?;
            self.last_ordinal = ordinal;
            let spilled = self.pending.back().is_some_and(|last| last.spilled);
            let start = self.at - part.len() as u64;
            self.pending.push_back(Request::new(ordinal, start, spilled));
        }
        let Some(request) = self.pending.back_mut() else { return Ok(()) };
        request.blank = request.blank && part.iter().all(|byte| protocol.is_blank(*byte));
        request.spilled |= self.kept + part.len() > self.max;
        if !request.spilled {
            self.kept += part.len();
            request.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    fn complete(&mut self, now: Time) {
        if std::mem::take(&mut self.rest_of_answered) {
            return;
        }
        if let Some(request) = self.pending.back_mut() {
            request.complete = Some(now);
        }
    }

    /// The head of the response to the first pending request has come.
    pub fn answer_begins(&mut self, answer: &Answer) {
        if let Some(request) = self.pending.front_mut() {
            request.answer_begins(answer);
        }
    }

    /// The response to the first pending request is fully logged.
    pub fn answered(&mut self) -> Option<Request> {
        let request = self.pending.pop_front()?;
        self.kept -= request.bytes.len();
        self.rest_of_answered |= request.complete.is_none();
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        Some(request)
    }

    /// Bytes of pending requests that are kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// So many bytes at the end of the stream are kept.
    pub fn tail_length(&self) -> u64 {
        self.tail().map(|bytes| bytes.len() as u64).sum()
    }

    /// At most `length` bytes of the stream, from `distance` before its end on, which is not more than [`Self::tail_length`].
    pub fn before_end(&self, distance: usize, length: usize) -> Vec<u8> {
        let skip = (self.tail_length() as usize).saturating_sub(distance);
        let parts: Vec<&[u8]> = self.tail().collect();
        parts.into_iter().rev().flatten().skip(skip).take(length).copied().collect()
    }

    /// Requests whose bytes are kept, the last one first.
    fn tail(&self) -> impl Iterator<Item = &[u8]> {
        let kept = self.pending.iter().rev().filter(|_| !self.rest_of_answered);
        kept.take_while(|request| !request.spilled).map(|request| request.bytes.as_slice())
    }

    /// Nothing that follows can be understood.
    pub fn become_opaque(&mut self) {
        self.pending = VecDeque::new();
        self.kept = 0;
    }

    /// The request that is to be answered next, if anything was asked.
    pub fn first(&self) -> Option<&Request> {
        self.pending.front().filter(|request| !request.blank)
    }

    /// Why the pending requests could not be sent to another backend.
    pub fn unrecoverable(&self) -> Option<&'static str> {
        self.rest_of_answered.then_some("a response was complete before its request was")
    }

    /// Stream offset from which on the pending requests are not kept.
    pub fn spilled_from(&self) -> Option<u64> {
        let first = self.pending.iter().find(|request| request.spilled);
        first.map(|request| request.start + request.bytes.len() as u64)
    }

    /// The pending requests, for a report.
    pub fn report(&self) -> Vec<PendingRequest> {
        self.pending.iter().map(Request::report).collect()
    }
}
