//! Where responses begin and end in a server's stream that arrives in pieces.

use std::collections::VecDeque;

use crate::body::Body;
use crate::chunked::Chunked;
use crate::framer::{Event, HeadBuffer, Step};
use crate::head::Refusal;
use crate::response::{RequestKind, ResponseFraming, ResponseHead, scan_response};

/// Requests without a response yet at most; as many as the ordinal of a transaction ID can count.
pub const MAX_OUTSTANDING: usize = u16::MAX as usize;

/// What the end of the server's stream means for the message it ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It lies between two messages. Whether answers are owed says [`ResponseFramer::outstanding`].
    Between,
    /// It ends a body that is delimited by it, or an opaque stream. A crash looks the same.
    Complete,
    /// The message is cut off.
    Premature,
}

#[derive(Debug, Clone)]
enum State {
    Head,
    Body(Body),
    Failed(Refusal),
}

/// Finds the boundaries of responses. Each request must be announced by [`expect`](Self::expect) before its response
/// is fed: as soon as its head is complete, for a server may answer before the body is.
///
/// Call [`feed`](Self::feed) with what has arrived, then again with what it did not consume, until the event is
/// [`Event::NeedMore`]. An interim response (1xx) is a head without a message end; the response to the same
/// request follows.
#[derive(Debug, Clone)]
pub struct ResponseFramer {
    state: State,
    head: HeadBuffer,
    expected: VecDeque<RequestKind>,
}

impl ResponseFramer {
    /// At the beginning of a connection. `max_head` bounds each head, in bytes.
    pub fn new(max_head: usize) -> Self {
        Self { state: State::Head, head: HeadBuffer::new(max_head), expected: VecDeque::new() }
    }

    /// A request with this method was sent: its response comes after those expected before. Refused beyond
    /// [`MAX_OUTSTANDING`].
    pub fn expect(&mut self, method: &str) -> Result<(), Refusal> {
        if self.expected.len() >= MAX_OUTSTANDING {
            return Err(Refusal::new(502, "too many requests without a response"));
        }
        self.expected.push_back(RequestKind::of(method));
        Ok(())
    }

    /// Requests whose response is not complete.
    pub fn outstanding(&self) -> usize {
        self.expected.len()
    }

    /// The next event in the stream. After a refusal the stream has no boundaries any more: each further call gives the
    /// same refusal.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Step<ResponseHead>, Refusal> {
        let step = match &mut self.state {
            State::Failed(refusal) => return Err(*refusal),
            State::Body(body) if body.complete() => {
                self.state = State::Head;
                self.expected.pop_front();
                return Ok(Step::new(0, Event::MessageEnd));
            }
            _ if bytes.is_empty() => return Ok(Step::new(0, Event::NeedMore)),
            State::Body(body) => body
                .feed(bytes)
                .map(|taken| Step::new(taken, Event::Body))
                .map_err(|reason| Refusal::new(502, reason)),
            State::Head => self.feed_head(bytes),
        };
        step.inspect_err(|refusal| self.state = State::Failed(*refusal))
    }

    /// The next `bytes`, which nobody has seen, are of the body whose head said how long it is. `false`: such a body has not so
    /// many left, and nothing was done.
    pub fn skip(&mut self, bytes: u64) -> bool {
        let State::Body(Body::Length(left)) = &mut self.state else { return false };
        let rest = left.checked_sub(bytes);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<Step<ResponseHead>, Refusal> {
        let kind = *self.expected.front().ok_or(Refusal::new(502, "response without a request"))?;
        let (consumed, head) = self.head.feed(bytes, scan_response, |raw| ResponseHead::parse(raw, kind))?;
        let Some(head) = head else { return Ok(Step::new(consumed, Event::HeadPart)) };
        if !head.interim() {
            self.state = State::Body(match head.framing {
                ResponseFraming::None => Body::Length(0),
                ResponseFraming::Length(length) => Body::Length(length),
                ResponseFraming::Chunked => Body::Chunked(Chunked::new()),
                ResponseFraming::UntilClose | ResponseFraming::Opaque => Body::Endless,
            });
        }
        Ok(Step::new(consumed, Event::Head(Box::new(head))))
    }

    /// The server's FIN: what it means where the stream stands. Drain [`feed`](Self::feed) to
    /// [`Event::NeedMore`] first.
    pub fn finish(&self) -> Finish {
        match &self.state {
            State::Head if self.head.is_empty() => Finish::Between,
            State::Body(Body::Endless) => Finish::Complete,
            State::Body(body) if body.complete() => Finish::Between,
            State::Head | State::Body(_) | State::Failed(_) => Finish::Premature,
        }
    }
}
