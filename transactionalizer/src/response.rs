//! A backend's stream as responses; of the one in progress, what a replay is compared with.

use cluster::control::PartialResponse;
use http1::{Event, Refusal, ResponseFramer, ResponseFraming, ResponseHead};
use packet::Time;
use xxhash_rust::xxh3::Xxh3;

use crate::judge::InProgress;

/// The response in progress.
#[derive(Default)]
pub struct Response {
    /// Interim heads included: all that came before the body.
    head: Vec<u8>,
    head_complete: bool,
    until_close: bool,
    body_bytes: u64,
    hash: Option<Box<Xxh3>>,
    /// When its first byte was logged.
    pub started: Time,
    /// 0 until the head is complete.
    pub status: u16,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response({} + {} bytes, status {})", self.head.len(), self.body_bytes, self.status)
    }
}

impl Response {
    fn push_body(&mut self, part: &[u8]) {
        self.body_bytes += part.len() as u64;
        self.hash.get_or_insert_with(Box::default).update(part);
    }
}

/// What bytes of a response brought about.
#[derive(Debug)]
pub enum Progress {
    /// This response is fully logged; it ended at this offset of the bytes given.
    Ended {
        /// It.
        response: Response,
        /// Bytes of the argument up to its end.
        at: usize,
    },
    /// The final head of this response is complete.
    Begun(Box<ResponseHead>),
    /// The connection no longer speaks HTTP.
    Switched,
}

/// A backend's stream as responses.
#[derive(Debug)]
pub struct Responses {
    framer: ResponseFramer,
    current: Option<Response>,
    closing: bool,
}

impl Default for Responses {
    fn default() -> Self {
        Self { framer: ResponseFramer::new(http1::DEFAULT_MAX_HEAD), current: None, closing: false }
    }
}

impl Responses {
    /// A request was sent.
    pub fn expect(&mut self, method: &str) -> Result<(), Refusal> {
        self.framer.expect(method)
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8], now: Time, then: &mut dyn FnMut(Progress)) -> Result<(), Refusal> {
        let mut at = 0;
        loop {
            let step = self.framer.feed(bytes.get(at..).unwrap_or_default())?;
            let part = bytes.get(at..at + step.consumed).unwrap_or_default();
            at += step.consumed;
            match step.event {
                Event::NeedMore => return Ok(()),
                Event::HeadPart => self.begun(now).head.extend_from_slice(part),
                Event::Head(head) => {
                    self.begun(now).head.extend_from_slice(part);
                    self.take_head(head, then);
                }
                Event::Body => self.begun(now).push_body(part),
                Event::MessageEnd => {
                    if let Some(response) = self.current.take() {
                        then(Progress::Ended { response, at });
                    }
                }
            }
        }
    }

    fn begun(&mut self, now: Time) -> &mut Response {
        self.current.get_or_insert_with(|| Response { started: now, ..Response::default() })
    }

    fn take_head(&mut self, head: Box<ResponseHead>, then: &mut dyn FnMut(Progress)) {
        if head.interim() {
            return;
        }
        self.closing |= !head.keep_alive;
        if let Some(current) = &mut self.current {
            current.head_complete = true;
            current.status = head.status;
            current.until_close = head.framing == ResponseFraming::UntilClose;
        }
        let switched = head.framing == ResponseFraming::Opaque;
        then(Progress::Begun(head));
        if switched {
            then(Progress::Switched);
        }
    }

    /// The last response said that the connection closes after it.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// The connection closes after the response in progress: its request said so.
    pub fn set_closing(&mut self) {
        self.closing = true;
    }

    /// The response in progress.
    pub fn current(&self) -> Option<&Response> {
        self.current.as_ref()
    }

    /// The final head of the response in progress is complete: its body is what is owed.
    pub fn in_body(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.head_complete)
    }

    /// Bytes of the response in progress after its head.
    pub fn body_bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.body_bytes)
    }

    /// How far the response in progress has come, for the judge.
    pub fn in_progress(&self) -> InProgress {
        match &self.current {
            None => InProgress::Nothing,
            Some(current) if current.until_close => InProgress::UntilClose,
            Some(_) => InProgress::Framed,
        }
    }

    /// What was logged of the response in progress, without the tail.
    pub fn report(&self) -> PartialResponse {
        let Some(current) = &self.current else { return PartialResponse::default() };
        PartialResponse {
            head: current.head.clone(),
            head_complete: current.head_complete,
            body_bytes: current.body_bytes,
            body_hash: current
                .hash
                .as_ref()
                .map_or_else(|| Xxh3::default().digest128(), |hash| hash.digest128()),
            tail: Vec::new(),
        }
    }
}
