//! How the two streams of a connection fall into requests and responses (paper §3.1).
//!
//! A protocol is one file here: it implements [`Protocol`] and is named in [`new`]. It sees both streams in the order in which
//! they were logged, each byte once, cut anywhere. It is pure, bounded, and refuses what it does not understand: then the
//! connection cannot be recovered, and its traffic goes on.

use std::fmt::Debug;

use cluster::config::{ProtocolName, Service};
use cluster::tags;
use http1::{RequestHead, ResponseHead};

use crate::detector::KindId;

mod ending;
mod http;
mod imap;
mod lines;
mod records;
mod smtp;
mod text_lines;
mod turns;

/// Requests without a response yet at most: as many as the ordinal in a transaction's name can count.
pub(crate) const MAX_OUTSTANDING: usize = http1::MAX_OUTSTANDING;

/// Why a stream has no boundaries any more.
pub type Refused = &'static str;

/// The outcome of one call.
#[derive(Debug)]
pub struct Step<E> {
    /// Bytes of the argument that this event accounts for; the next call gets what follows them.
    pub consumed: usize,
    /// What they were.
    pub event: E,
}

impl<E> Step<E> {
    fn new(consumed: usize, event: E) -> Self {
        Self { consumed, event }
    }
}

/// What the consumed bytes of a client's stream were.
#[derive(Debug)]
pub enum RequestEvent {
    /// A part of a request.
    Part,
    /// A part of a request that completes what tells what is asked.
    Asked(Asked),
    /// No bytes: the request is complete.
    End,
    /// No bytes: everything was consumed, there is nothing to say before more arrives.
    NeedMore,
}

/// What the consumed bytes of a server's stream were.
#[derive(Debug)]
pub enum ResponseEvent {
    /// A part of a head, interim ones included: values of fields in it may differ between two executions.
    Head,
    /// Perhaps the last part of a head. A protocol without heads says it of no bytes when a response begins.
    Answer(Answer),
    /// A part of what follows the head.
    Body,
    /// No bytes: the response is complete.
    End,
    /// They belong to no transaction: a greeting, or news that nobody asked for.
    Unasked,
    /// No bytes: from here on the connection speaks another protocol.
    Switched,
    /// No bytes: everything was consumed, there is nothing to say before more arrives.
    NeedMore,
}

/// What is asked.
#[derive(Debug)]
pub enum Asked {
    /// HTTP.
    Http(Box<RequestHead>),
    /// Another protocol's command.
    Command {
        /// In upper case where the protocol does not tell cases apart.
        verb: String,
        /// The whole line, without its end.
        line: String,
        /// The server closes after the answer.
        last: bool,
    },
}

impl Asked {
    /// As rules see it.
    pub fn subject(&self) -> tags::Asked<'_> {
        match self {
            Self::Http(head) => tags::Asked::from(&**head),
            Self::Command { verb, line, .. } => {
                tags::Asked { method: verb, host: None, path: line, query: None, head: None }
            }
        }
    }

    /// For messages.
    pub fn line(&self) -> &str {
        match self {
            Self::Http(head) => head.line(),
            Self::Command { line, .. } => line,
        }
    }

    /// Whose response times are comparable: of other protocols, all requests with this command.
    pub fn kind(&self) -> KindId {
        match self {
            Self::Http(head) => KindId::of(head.method(), head.path()),
            Self::Command { verb, .. } => KindId::of(verb, ""),
        }
    }

    /// The connection goes on after the answer.
    pub fn keep_alive(&self) -> bool {
        match self {
            Self::Http(head) => head.keep_alive,
            Self::Command { last, .. } => !last,
        }
    }
}

/// What a response's head says.
#[derive(Debug, Default)]
pub struct Answer {
    /// 200 where the protocol says it nowhere, or not at the beginning.
    pub status: u16,
    /// Another head follows.
    pub interim: bool,
    /// The response ends with the connection.
    pub until_close: bool,
    /// The server closes after this response.
    pub closing: bool,
    /// HTTP's whole head.
    pub head: Option<Box<ResponseHead>>,
}

impl Answer {
    /// Of a protocol without heads.
    fn begun() -> Self {
        Self { status: 200, ..Self::default() }
    }
}

/// One connection's protocol. Call each of both with what has arrived, then again with what it did not consume, until it says that
/// it needs more. After a refusal it must not be called again.
pub trait Protocol: Debug + Send {
    /// What the first of `bytes`, the next ones of the client's stream, are.
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused>;

    /// What the first of `bytes`, the next ones of the server's stream, are.
    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused>;

    /// The next `bytes` of the server's stream, which nobody can see, belong to the body in progress. `false`: that is not certain.
    fn skip_body(&mut self, _bytes: u64) -> bool {
        false
    }

    /// A request that consists of nothing else asks for nothing yet.
    fn is_blank(&self, byte: u8) -> bool {
        matches!(byte, b'\r' | b'\n')
    }

    /// Why a connection could not be continued with another server, if so.
    fn bound_to_server(&self) -> Option<&'static str> {
        None
    }
}

/// The protocol of a service, at the beginning of a connection.
pub fn new(service: &Service) -> Box<dyn Protocol> {
    match service.protocol {
        ProtocolName::Http => Box::new(http::Http::new()),
        ProtocolName::Lines => Box::new(lines::Lines::new(&service.lines)),
        ProtocolName::Records => Box::new(records::Records::new(&service.records)),
        ProtocolName::Imap => Box::new(imap::Imap::default()),
        ProtocolName::Smtp => Box::new(smtp::Smtp::default()),
    }
}

#[cfg(test)]
mod tests;
