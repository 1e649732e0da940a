//! IMAP (RFC 9051, RFC 3501): a command and everything up to its tagged response is a transaction.
//!
//! What a session has logged in to and selected is with its server, so a connection is not continued elsewhere. Its transactions
//! are told apart all the same, for the auxiliary side.

use std::collections::VecDeque;

use super::text_lines::TextLine;
use super::turns::{Answering, before_request};
use super::{Asked, Protocol, Refused, RequestEvent, ResponseEvent, Step};

/// Commands without a tagged response at most; servers allow far fewer.
const MAX_COMMANDS: usize = 1024;

/// Lines and the literals within them, of one direction.
#[derive(Debug, Default)]
struct Lines {
    line: TextLine,
    /// The beginning of the first line, if literals made it several.
    first: Option<String>,
    literal: u64,
}

impl Lines {
    /// Takes bytes; gives how many, and the beginning of the line that they complete, literals included.
    fn feed(&mut self, bytes: &[u8]) -> (usize, Option<String>) {
        if self.literal > 0 {
            let taken = bytes.len().min(usize::try_from(self.literal).unwrap_or(usize::MAX));
            self.literal -= taken as u64;
            return (taken, None);
        }
        let (taken, complete) = self.line.feed(bytes);
        if !complete {
            return (taken, None);
        }
        let literal = self.line.literal();
        let text = self.line.take();
        let first = self.first.take().unwrap_or(text);
        if let Some(length) = literal {
            (self.literal, self.first) = (length, Some(first));
            return (taken, None);
        }
        (taken, Some(first))
    }

    fn is_between(&self) -> bool {
        self.line.is_empty() && self.first.is_none()
    }
}

/// A command that lasts while client and server go on talking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialogue {
    Authenticate,
    Idle,
}

#[derive(Debug, Default)]
pub(super) struct Imap {
    client: Lines,
    server: Lines,
    /// Tags of commands without a response, and whether they change the protocol.
    commands: VecDeque<(String, bool)>,
    dialogue: Option<Dialogue>,
    /// The end of a request has to be said.
    complete: bool,
    answering: Answering,
}

impl Imap {
    fn command(&mut self, text: &str) -> Result<RequestEvent, Refused> {
        if let Some(dialogue) = self.dialogue {
            if dialogue == Dialogue::Idle && text.eq_ignore_ascii_case("DONE") {
                (self.dialogue, self.complete) = (None, true);
            }
            return Ok(RequestEvent::Part);
        }
        if text.is_empty() {
            return Ok(RequestEvent::Part);
        }
        let mut words = text.split(' ');
        let (Some(tag), Some(verb)) = (words.next().filter(|tag| is_tag(tag)), words.next()) else {
            return Err("not an IMAP command");
        };
        if self.commands.len() >= MAX_COMMANDS {
            return Err("too many commands without a response");
        }
        let verb = match (verb.to_ascii_uppercase(), words.next()) {
            (uid, Some(verb)) if uid == "UID" => format!("UID {}", verb.to_ascii_uppercase()),
            (verb, _) => verb,
        };
        self.dialogue = match verb.as_str() {
            "AUTHENTICATE" => Some(Dialogue::Authenticate),
            "IDLE" => Some(Dialogue::Idle),
            _ => None,
        };
        self.complete = self.dialogue.is_none();
        self.commands.push_back((tag.to_owned(), matches!(verb.as_str(), "STARTTLS" | "COMPRESS")));
        let line = text.get(tag.len() + 1..).unwrap_or_default().to_owned();
        let last = verb == "LOGOUT";
        Ok(RequestEvent::Asked(Asked::Command { verb, line, last }))
    }

    /// A whole line of the server.
    fn response(&mut self, text: &str) -> Result<(), Refused> {
        let (tag, rest) = text.split_once(' ').unwrap_or((text, ""));
        if matches!(tag, "*" | "+") {
            return Ok(());
        }
        let Some((_, switches)) = self.commands.front().filter(|(expected, _)| expected == tag) else {
            return Err("a tagged response to no command, or out of order");
        };
        let ok = rest.get(..2).is_some_and(|status| status.eq_ignore_ascii_case("OK"));
        self.answering = if *switches && ok { Answering::Switched } else { Answering::Complete };
        Ok(())
    }

    /// The first command has its response.
    fn answered(&mut self) {
        self.commands.pop_front();
        // A dialogue belongs to the last command: none can follow while it lasts.
        if self.commands.is_empty() && self.dialogue.take().is_some() {
            self.complete = true;
        }
    }
}

/// RFC 9051 §9: no `+`, no specials.
fn is_tag(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"(){%*\"\\+".contains(&b))
}

impl Protocol for Imap {
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused> {
        if let Some(step) = before_request(&mut self.complete, bytes) {
            return Ok(step);
        }
        let (taken, text) = self.client.feed(bytes);
        let event = text.map_or(Ok(RequestEvent::Part), |text| self.command(&text))?;
        Ok(Step::new(taken, event))
    }

    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused> {
        let begins = !self.commands.is_empty() && self.server.is_between();
        if let Some(step) = self.answering.before(bytes, begins) {
            if matches!(step.event, ResponseEvent::End) {
                self.answered();
            }
            return Ok(step);
        }
        let now = self.answering;
        let (taken, text) = self.server.feed(bytes);
        if let Some(text) = text {
            self.response(&text)?;
        }
        Ok(now.part(taken))
    }

    fn bound_to_server(&self) -> Option<&'static str> {
        Some("an IMAP session's state is with its server")
    }
}
