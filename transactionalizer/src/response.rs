//! A backend's stream as responses; of the one in progress, what a replay is compared with.

use cluster::control::{PartialResponse, Stretch};
use http1::ResponseFraming;
use packet::{Seq, Time};
use segment_log::LeftOut;
use xxhash_rust::xxh3::Xxh3;

use crate::body::BodyHashes;
use crate::content::Content;
use crate::judge::InProgress;
use crate::protocol::{Answer, Protocol, Refused, ResponseEvent};

/// The response in progress.
#[derive(Default)]
pub struct Response {
    /// Interim heads included: all that came before the body.
    head: Vec<u8>,
    head_complete: bool,
    until_close: bool,
    body_bytes: u64,
    /// None before its body.
    hashes: Option<Box<BodyHashes>>,
    /// If it is chunked, and all of it was logged.
    content: Option<Box<Content>>,
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
    /// Head and body.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.body_bytes
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> usize {
        self.head.len()
            + self.hashes.as_ref().map_or(0, |hashes| hashes.kept())
            + self.content.as_ref().map_or(0, |content| size_of_val(&**content))
    }

    /// What was logged of it, without its tail; the last `left_out` bytes of its body were not. `None`: it has not so many.
    pub fn report_without(&self, left_out: u64) -> Option<PartialResponse> {
        let body_bytes = self.body_bytes.checked_sub(left_out)?;
        Some(PartialResponse {
            head: self.head.clone(),
            head_complete: self.head_complete,
            body_bytes,
            hashes: self.hashes.as_ref().map_or_else(Vec::new, |hashes| hashes.within(body_bytes)),
            content: self.content.as_ref().filter(|_| left_out == 0).and_then(|content| content.report()),
            tail: Vec::new(),
            left_out,
        })
    }

    /// Its body's length and hash; `None`: not all of it was hashed in one.
    pub fn hashed_whole(&self) -> Option<Stretch> {
        let nothing = || Stretch { bytes: 0, hash: Xxh3::default().digest128() };
        let Some(hashes) = &self.hashes else { return (self.body_bytes == 0).then(nothing) };
        hashes.within(self.body_bytes).first().copied().filter(|first| first.bytes == self.body_bytes)
    }

    fn push_body(&mut self, part: &[u8]) {
        self.body_bytes += part.len() as u64;
        self.hashes.get_or_insert_with(Box::default).push(part);
        if let Some(content) = &mut self.content {
            content.push(part);
        }
    }
}

/// What bytes of a response brought about.
#[derive(Debug)]
pub enum Progress {
    /// This response is fully logged; it ended at this offset of the bytes given.
    Ended {
        /// It.
        response: Box<Response>,
        /// Bytes of the argument up to its end.
        at: usize,
    },
    /// The final head of this response is complete.
    Begun {
        /// What it says.
        answer: Answer,
        /// Bytes of the argument up to its end.
        at: usize,
    },
    /// What came before this offset of the bytes given belongs to no transaction.
    Unasked(usize),
    /// The connection speaks another protocol now.
    Switched,
}

/// A backend's stream as responses.
#[derive(Debug, Default)]
pub struct Responses {
    /// Absent between two: most connections are idle.
    current: Option<Box<Response>>,
    closing: bool,
}

impl Responses {
    /// Takes the next bytes of the stream.
    pub fn push(
        &mut self,
        protocol: &mut dyn Protocol,
        bytes: &[u8],
        now: Time,
        then: &mut dyn FnMut(Progress),
    ) -> Result<(), Refused> {
        let mut at = 0;
        loop {
            let step = protocol.feed_response(bytes.get(at..).unwrap_or_default())?;
            let part = bytes.get(at..at + step.consumed).unwrap_or_default();
            at += step.consumed;
            match step.event {
                ResponseEvent::NeedMore => return Ok(()),
                ResponseEvent::Head => self.begun(now).head.extend_from_slice(part),
                ResponseEvent::Answer(answer) => {
                    self.begun(now).head.extend_from_slice(part);
                    self.take_answer(answer, at, then);
                }
                ResponseEvent::Body => self.begun(now).push_body(part),
                ResponseEvent::Unasked => then(Progress::Unasked(at)),
                ResponseEvent::Switched => then(Progress::Switched),
                ResponseEvent::End => {
                    if let Some(response) = self.current.take() {
                        then(Progress::Ended { response, at });
                    }
                }
            }
        }
    }

    /// The next bytes, from `seq` on, which belong to the body in progress, were left out of the log.
    pub fn skip(&mut self, seq: Seq, left_out: LeftOut) {
        if let Some(current) = &mut self.current {
            current.body_bytes += u64::from(left_out.bytes);
            current.content = None;
            current.hashes.get_or_insert_with(Box::default).skip(seq, left_out);
        }
    }

    /// Nobody will ask for fewer than the first `bytes` bytes of the body in progress any more.
    pub fn trim(&mut self, bytes: u64) {
        if let Some(hashes) = self.current.as_mut().and_then(|current| current.hashes.as_mut()) {
            hashes.trim(bytes);
        }
    }

    fn begun(&mut self, now: Time) -> &mut Response {
        self.current.get_or_insert_with(|| Box::new(Response { started: now, ..Response::default() }))
    }

    fn take_answer(&mut self, answer: Answer, at: usize, then: &mut dyn FnMut(Progress)) {
        if answer.interim {
            return;
        }
        self.closing |= answer.closing;
        if let Some(current) = &mut self.current {
            current.head_complete = true;
            current.status = answer.status;
            current.until_close = answer.until_close;
            let chunked = answer.head.as_ref().is_some_and(|head| head.framing == ResponseFraming::Chunked);
            current.content = chunked.then(Box::default);
        }
        then(Progress::Begun { answer, at });
    }

    /// The last response said that the connection closes after it.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// The connection closes after the response in progress: its request said so.
    pub fn set_closing(&mut self) {
        self.closing = true;
    }

    /// Bytes of heads and hashes that are kept.
    pub fn kept(&self) -> usize {
        self.current.as_ref().map_or(0, |current| current.kept())
    }

    /// Forgets the response in progress: nobody can ask for it any more.
    pub fn keep_nothing(&mut self) {
        self.current = None;
    }

    /// The response in progress.
    pub fn current(&self) -> Option<&Response> {
        self.current.as_deref()
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

    /// What was logged of the response in progress, without its tail.
    pub fn report(&self) -> PartialResponse {
        self.current.as_ref().and_then(|current| current.report_without(0)).unwrap_or_default()
    }
}
