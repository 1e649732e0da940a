//! Which transactions a segment's bytes belong to: the N-th request of a connection with a backend, and its response.
//!
//! The numbers are those of the connection with one backend: after a recovery the alternate counts what is replayed to it
//! from 1. Bytes beyond a hole, of a connection whose beginning is not in the log, or after what is no HTTP, belong to none.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;

use cluster::control::Flow;
use http1::{
    DEFAULT_MAX_HEAD, Event, Refusal, RequestFramer, RequestHead, ResponseFramer, ResponseFraming,
    ResponseHead, Step,
};
use packet::{Seq, TcpSegment};
use transactionalizer::direction::{Direction, Taken};

use super::view::View;

/// Connections followed at a time; further ones have no transactions.
const CONNECTIONS: usize = 65_536;
/// Message beginnings remembered of each direction; bytes before them belong to none any more.
const BEGINNINGS: usize = 4096;
/// Bytes kept beyond a hole of each direction; with more, the stream is lost.
const GAP_BYTES: usize = 4 << 20;

/// Follows all connections of a log.
#[derive(Debug, Default)]
pub struct Transactions {
    connections: HashMap<Flow, Connection>,
}

#[derive(Debug, Default)]
struct Connection {
    /// Of the client's last SYN.
    asked: Option<Seq>,
    streams: Option<Streams>,
}

#[derive(Debug)]
struct Streams {
    client: Direction,
    backend: Direction,
    requests: RequestFramer,
    responses: ResponseFramer,
    requested: Beginnings,
    responded: Beginnings,
}

/// Where messages begin in a stream. `None` instead of an ordinal: from here on nothing is known.
#[derive(Debug)]
struct Beginnings {
    offset: u64,
    ordinal: u64,
    between: bool,
    lost: bool,
    starts: VecDeque<(u64, Option<u64>)>,
}

impl Transactions {
    /// Follows a record; records must come in the order of the log.
    pub fn follow(&mut self, view: &View<'_>) -> Option<RangeInclusive<u64>> {
        let flow = view.flow();
        if view.is_apart() {
            return None;
        }
        if !self.connections.contains_key(&flow) && self.connections.len() >= CONNECTIONS {
            return None;
        }
        let connection = self.connections.entry(flow).or_default();
        let segment = &view.segment;
        match (segment.flags().syn(), view.from_backend()) {
            (true, false) => connection.asked = Some(segment.seq()),
            (true, true) => connection.open(segment),
            (false, _) if segment.flags().rst() => drop(self.connections.remove(&flow)),
            (false, true) if view.left_out() > 0 => {
                return connection.streams.as_mut()?.skip(segment, view.left_out() as u32);
            }
            (false, from_backend) => return connection.streams.as_mut()?.follow(segment, from_backend),
        }
        None
    }
}

impl Connection {
    /// The backend takes the client's SYN: an older connection of these ends is over.
    fn open(&mut self, segment: &TcpSegment<'_>) {
        if let Some(isn) = self.asked.take().filter(|isn| segment.ack() == *isn + 1) {
            self.streams = Some(Streams::new(isn, segment.seq()));
        }
    }
}

impl Streams {
    fn new(client: Seq, backend: Seq) -> Self {
        Self {
            client: Direction::new(client, GAP_BYTES),
            backend: Direction::new(backend, GAP_BYTES),
            requests: RequestFramer::new(DEFAULT_MAX_HEAD),
            responses: ResponseFramer::new(DEFAULT_MAX_HEAD),
            requested: Beginnings::new(),
            responded: Beginnings::new(),
        }
    }

    /// The next `length` bytes of a body were left out of the log; otherwise nothing is known any more.
    fn skip(&mut self, segment: &TcpSegment<'_>, length: u32) -> Option<RangeInclusive<u64>> {
        self.client.handle_ack(segment.ack(), u16::MAX);
        let Self { backend, responses, responded, .. } = self;
        let next = backend.offset(segment.seq()) == backend.delivered() as i64 && backend.kept() == 0;
        if !next || !responses.skip(u64::from(length)) || !backend.skip(length, &mut |_| {}) {
            responded.lose();
            return None;
        }
        responded.advance(length as usize);
        let offset = responded.offset - u64::from(length);
        follow(responded, &[], &mut |more| responses.feed(more), &mut |_| Ok(()));
        responded.of(offset, u64::from(length))
    }

    fn follow(&mut self, segment: &TcpSegment<'_>, from_backend: bool) -> Option<RangeInclusive<u64>> {
        let (seq, data) = (segment.seq(), segment.payload());
        if from_backend {
            self.client.handle_ack(segment.ack(), u16::MAX);
        } else {
            self.backend.handle_ack(segment.ack(), u16::MAX);
        }
        let Self { client, backend, requests, responses, requested, responded } = self;
        let (taken, beginnings) = if from_backend {
            let mut head = |head: &ResponseHead| {
                if head.framing == ResponseFraming::Opaque {
                    requests.become_opaque();
                }
                Ok(())
            };
            let mut deliver =
                |bytes: &[u8]| follow(responded, bytes, &mut |more| responses.feed(more), &mut head);
            (backend.push(seq, data, &mut deliver), responded)
        } else {
            let mut head = |head: &RequestHead| responses.expect(head.method());
            let mut deliver =
                |bytes: &[u8]| follow(requested, bytes, &mut |more| requests.feed(more), &mut head);
            (client.push(seq, data, &mut deliver), requested)
        };
        match taken {
            Taken::At(offset) => beginnings.of(u64::try_from(offset).ok()?, data.len() as u64),
            Taken::Outside => None,
            Taken::Overflow => {
                beginnings.lose();
                None
            }
        }
    }
}

/// What a framer says of some bytes.
type Fed<H> = Result<Step<H>, Refusal>;

/// Takes `bytes` through a framer, `feed`; `head` is told of each message and may say that the stream is lost.
fn follow<H>(
    beginnings: &mut Beginnings,
    mut bytes: &[u8],
    feed: &mut dyn FnMut(&[u8]) -> Fed<H>,
    head: &mut dyn FnMut(&H) -> Result<(), Refusal>,
) {
    while !beginnings.lost {
        let Ok(step) = feed(bytes) else { return beginnings.lose() };
        beginnings.advance(step.consumed);
        bytes = bytes.get(step.consumed..).unwrap_or_default();
        match step.event {
            Event::Head(found) if head(&found).is_err() => return beginnings.lose(),
            Event::MessageEnd => beginnings.end_message(),
            Event::NeedMore => return,
            _ => {}
        }
    }
}

impl Beginnings {
    fn new() -> Self {
        Self { offset: 0, ordinal: 1, between: true, lost: false, starts: VecDeque::new() }
    }

    /// `bytes` of the present message, or of the next one, follow.
    fn advance(&mut self, bytes: usize) {
        if bytes > 0 && std::mem::take(&mut self.between) {
            self.note(Some(self.ordinal));
        }
        self.offset += bytes as u64;
    }

    fn end_message(&mut self) {
        self.between = true;
        self.ordinal += 1;
    }

    fn lose(&mut self) {
        self.lost = true;
        self.note(None);
    }

    fn note(&mut self, ordinal: Option<u64>) {
        if self.starts.len() >= BEGINNINGS {
            self.starts.pop_front();
        }
        self.starts.push_back((self.offset, ordinal));
    }

    /// Those of `length` bytes from `offset` on.
    fn of(&self, offset: u64, length: u64) -> Option<RangeInclusive<u64>> {
        if length == 0 || offset >= self.offset {
            return None;
        }
        let at = |place: u64| {
            let after = self.starts.partition_point(|(start, _)| *start <= place);
            self.starts.get(after.checked_sub(1)?)?.1
        };
        let first = at(offset)?;
        let last = at((offset + length).min(self.offset).saturating_sub(1)).unwrap_or(first);
        Some(first..=last)
    }
}
