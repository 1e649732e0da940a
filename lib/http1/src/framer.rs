//! Where requests begin and end in a client's stream that arrives in pieces.

use crate::body::Body;
use crate::chunked::Chunked;
use crate::head::{Refusal, Scan};
use crate::request::{RequestFraming, RequestHead};

/// What the consumed bytes of one call were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<H> {
    /// They complete this head, of which they are the last part.
    Head(Box<H>),
    /// They belong to a head that is not complete yet.
    HeadPart,
    /// They belong to the body as sent: chunk sizes, extensions and trailers included.
    Body,
    /// No bytes: the message whose head came last is complete.
    MessageEnd,
    /// No bytes: everything was consumed, there is nothing to say before more arrives.
    NeedMore,
}

/// The outcome of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<H> {
    /// Bytes of the argument that this event accounts for; the next call gets what follows them.
    pub consumed: usize,
    /// What they were.
    pub event: Event<H>,
}

impl<H> Step<H> {
    pub(crate) fn new(consumed: usize, event: Event<H>) -> Self {
        Self { consumed, event }
    }
}

/// A head that arrives in pieces. Between heads it takes 16 bytes.
#[derive(Debug, Clone)]
pub(crate) struct HeadBuffer {
    /// Bytes of a head at most.
    max: u32,
    /// Of one that has begun and is not complete.
    part: Option<Box<Part>>,
}

#[derive(Debug, Clone)]
struct Part {
    scan: Scan,
    bytes: Vec<u8>,
}

impl HeadBuffer {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: u32::try_from(max).unwrap_or(u32::MAX), part: None }
    }

    /// No byte of a head has come.
    pub(crate) fn is_empty(&self) -> bool {
        self.part.is_none()
    }

    /// Takes what belongs to the head from the beginning of `bytes`, which are not empty: its length, and the head once it is
    /// complete, `parse`d. Then the buffer is ready for the next one.
    pub(crate) fn feed<H>(
        &mut self,
        bytes: &[u8],
        scan: impl Fn(&mut Scan, &[u8]) -> Result<Option<usize>, Refusal>,
        parse: impl Fn(&[u8]) -> Result<H, Refusal>,
    ) -> Result<(usize, Option<H>), Refusal> {
        let Some(mut part) = self.part.take() else {
            let mut fresh = Scan::new(self.max as usize);
            // A small head comes whole: it need not be gathered.
            if let Some(end) = scan(&mut fresh, bytes)? {
                let whole = bytes.get(..end).unwrap_or(bytes);
                return Ok((whole.len(), Some(parse(whole)?)));
            }
            self.part = Some(Box::new(Part { scan: fresh, bytes: bytes.to_vec() }));
            return Ok((bytes.len(), None));
        };
        let end = scan(&mut part.scan, bytes)?;
        let taken = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(bytes);
        part.bytes.extend_from_slice(taken);
        let head = end.map(|_| parse(&part.bytes)).transpose()?;
        self.part = if head.is_none() { Some(part) } else { None };
        Ok((taken.len(), head))
    }
}

#[derive(Debug, Clone)]
enum State {
    Head,
    Body(Body),
    Failed(Refusal),
}

/// Finds the boundaries of pipelined requests.
///
/// Call [`feed`](Self::feed) with what has arrived, then again with what it did not consume, until the event is
/// [`Event::NeedMore`].
#[derive(Debug, Clone)]
pub struct RequestFramer {
    state: State,
    head: HeadBuffer,
}

impl RequestFramer {
    /// At the beginning of a connection. `max_head` bounds each head, in bytes.
    pub fn new(max_head: usize) -> Self {
        Self { state: State::Head, head: HeadBuffer::new(max_head) }
    }

    /// The next event in the stream. After a refusal the stream has no boundaries any more: each further call gives the
    /// same refusal.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Step<RequestHead>, Refusal> {
        let step = match &mut self.state {
            State::Failed(refusal) => return Err(*refusal),
            State::Body(body) if body.complete() => {
                self.state = State::Head;
                return Ok(Step::new(0, Event::MessageEnd));
            }
            _ if bytes.is_empty() => return Ok(Step::new(0, Event::NeedMore)),
            State::Body(body) => {
                body.feed(bytes).map(|taken| Step::new(taken, Event::Body)).map_err(Refusal::bad)
            }
            State::Head => self.feed_head(bytes),
        };
        step.inspect_err(|refusal| self.state = State::Failed(*refusal))
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<Step<RequestHead>, Refusal> {
        let (consumed, head) = self.head.feed(bytes, Scan::feed, RequestHead::parse)?;
        let Some(head) = head else { return Ok(Step::new(consumed, Event::HeadPart)) };
        self.state = State::Body(match head.framing {
            RequestFraming::None => Body::Length(0),
            RequestFraming::Length(length) => Body::Length(length),
            RequestFraming::Chunked => Body::Chunked(Chunked::new()),
        });
        Ok(Step::new(consumed, Event::Head(Box::new(head))))
    }

    /// Everything from here on is body without end: the response has switched protocols (101, CONNECT).
    pub fn become_opaque(&mut self) {
        self.state = State::Body(Body::Endless);
    }

    /// Between two requests: no byte of the next has arrived.
    pub fn between_messages(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }
}
