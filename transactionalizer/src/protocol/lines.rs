//! A line protocol, as the paper's command shell speaks it (§3.1): requests end in one of some bytes, such as newline and
//! semicolon, responses in a fixed sequence of bytes, such as a newline, a prompt, or a line with a dot.
//!
//! A request of nothing but blanks and line ends asks for nothing; its bytes belong to the next one.

use std::sync::Arc;

use cluster::config;

use super::ending::{Ending, Progress};
use super::turns::{Answering, before_request};
use super::{Asked, MAX_OUTSTANDING, Protocol, Refused, RequestEvent, ResponseEvent, Step};

/// Longest request, bytes.
const MAX_REQUEST: usize = 64 << 10;

/// What ends what.
#[derive(Debug)]
struct Ends {
    request: Box<[u8]>,
    response: Ending,
}

#[derive(Debug)]
pub(super) struct Lines {
    ends: Arc<Ends>,
    line: Vec<u8>,
    /// The request is complete, but it has not been said yet.
    complete: bool,
    outstanding: usize,
    /// The server speaks first.
    greets: bool,
    /// It has not done so yet.
    greeting: bool,
    answering: Answering,
    progress: Progress,
}

impl Lines {
    pub(super) fn new(config: &config::Lines) -> Self {
        let request = config.request_end.iter().flat_map(|end| end.bytes()).collect();
        let ends = Ends { request, response: Ending::new(config.response_end.as_bytes()) };
        Self {
            ends: Arc::new(ends),
            line: Vec::new(),
            complete: false,
            outstanding: 0,
            greets: config.greeting,
            greeting: config.greeting,
            answering: Answering::default(),
            progress: Progress::default(),
        }
    }

    fn asked(&mut self) -> Result<Option<Asked>, Refused> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_owned();
        let line = line.trim_matches(|c: char| c.is_ascii() && self.is_blank(c as u8)).to_owned();
        if line.is_empty() {
            return Ok(None);
        }
        if self.outstanding >= MAX_OUTSTANDING {
            return Err("too many requests without a response");
        }
        self.outstanding += 1;
        self.complete = true;
        let verb = line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
        Ok(Some(Asked::Command { verb, line, last: false }))
    }
}

impl Protocol for Lines {
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused> {
        if let Some(step) = before_request(&mut self.complete, bytes) {
            return Ok(step);
        }
        let end = bytes.iter().position(|byte| self.ends.request.contains(byte)).map(|at| at + 1);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if self.line.len() + part.len() > MAX_REQUEST {
            return Err("request longer than 64 KiB");
        }
        self.line.extend_from_slice(part);
        let asked = if end.is_some() { self.asked()? } else { None };
        Ok(Step::new(part.len(), asked.map_or(RequestEvent::Part, RequestEvent::Asked)))
    }

    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused> {
        let begins = !self.greeting && self.outstanding > 0;
        if let Some(step) = self.answering.before(bytes, begins) {
            self.outstanding -= usize::from(matches!(step.event, ResponseEvent::End));
            return Ok(step);
        }
        let now = self.answering;
        if now == Answering::Between && !self.greeting {
            return Err("response without a request");
        }
        let end = self.ends.response.find(&mut self.progress, bytes);
        if end.is_some() && !std::mem::take(&mut self.greeting) {
            self.answering = Answering::Complete;
        }
        Ok(now.part(end.unwrap_or(bytes.len())))
    }

    fn is_blank(&self, byte: u8) -> bool {
        byte.is_ascii_whitespace() || self.ends.request.contains(&byte)
    }

    fn bound_to_server(&self) -> Option<&'static str> {
        self.greets.then_some("the server greets: an alternate would greet again")
    }
}
