//! SMTP (RFC 5321; pipelining: RFC 2920; BDAT: RFC 3030): a command and its reply are a transaction; DATA, the message and
//! both replies are one.
//!
//! What a session has said before is with its server, so a connection is not continued elsewhere. Its transactions are told apart
//! all the same, for the auxiliary side.

use std::collections::VecDeque;

use super::ending::{Ending, Progress};
use super::text_lines::TextLine;
use super::turns::{Answering, before_request};
use super::{Asked, Protocol, Refused, RequestEvent, ResponseEvent, Step};

/// Commands without a reply at most; servers allow far fewer.
const MAX_COMMANDS: usize = 1024;
/// What ends a message.
const END_OF_DATA: &[u8] = b"\r\n.\r\n";

/// What the client sends next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sends {
    #[default]
    Commands,
    /// DATA or AUTH was sent: what follows depends on the reply.
    Waits,
    /// Lines of an authentication.
    Secrets,
    Message(Progress),
    /// So many bytes of a chunk.
    Chunk(u64),
}

/// What a command may lead to besides its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    Nowhere,
    ToMessage,
    ToSecrets,
    ToTls,
}

#[derive(Debug, Default)]
pub(super) struct Smtp {
    sends: Sends,
    client: TextLine,
    server: TextLine,
    commands: VecDeque<Leads>,
    /// The end of a request has to be said.
    complete: bool,
    answering: Answering,
}

impl Smtp {
    fn command(&mut self) -> Result<RequestEvent, Refused> {
        let line = self.client.take();
        if line.is_empty() {
            return Ok(RequestEvent::Part);
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err("too many commands without a reply");
        }
        let mut words = line.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        if !verb.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("not an SMTP command");
        }
        let leads = match verb.as_str() {
            "DATA" => Leads::ToMessage,
            "AUTH" => Leads::ToSecrets,
            "STARTTLS" => Leads::ToTls,
            _ => Leads::Nowhere,
        };
        self.sends = match leads {
            Leads::ToMessage | Leads::ToSecrets => Sends::Waits,
            _ if verb == "BDAT" => {
                let length = words.next().and_then(|length| length.parse::<u32>().ok());
                Sends::Chunk(length.ok_or("BDAT without a length")?.into())
            }
            _ => Sends::Commands,
        };
        self.complete = matches!(self.sends, Sends::Commands | Sends::Chunk(0));
        if self.complete {
            self.sends = Sends::Commands;
        }
        self.commands.push_back(leads);
        let last = verb == "QUIT";
        Ok(RequestEvent::Asked(Asked::Command { verb, line, last }))
    }

    /// A whole reply, by its last line.
    fn reply(&mut self, line: &str) -> Result<(), Refused> {
        let code: u16 = line.get(..3).and_then(|code| code.parse().ok()).ok_or("not an SMTP reply")?;
        let Some(leads) = self.commands.front().copied() else { return Ok(()) };
        match (leads, code) {
            (Leads::ToMessage, 354) if self.sends == Sends::Waits => {
                self.sends = Sends::Message(Ending::after(2));
            }
            (Leads::ToSecrets, 334) => self.sends = Sends::Secrets,
            (Leads::ToTls, 220) => self.answering = Answering::Switched,
            _ => self.answering = Answering::Complete,
        }
        Ok(())
    }

    /// The first command has its last reply.
    fn replied(&mut self) {
        let leads = self.commands.pop_front();
        let waited = matches!(self.sends, Sends::Waits | Sends::Secrets);
        if waited && matches!(leads, Some(Leads::ToMessage | Leads::ToSecrets)) {
            (self.sends, self.complete) = (Sends::Commands, true);
        }
    }
}

impl Protocol for Smtp {
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused> {
        if let Some(step) = before_request(&mut self.complete, bytes) {
            return Ok(step);
        }
        let (taken, ended) = match &mut self.sends {
            Sends::Message(progress) => {
                let end = Ending::new(END_OF_DATA).find(progress, bytes);
                (end.unwrap_or(bytes.len()), end.is_some())
            }
            Sends::Chunk(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Sends::Commands => {
                let (taken, complete) = self.client.feed(bytes);
                let event = if complete { self.command()? } else { RequestEvent::Part };
                return Ok(Step::new(taken, event));
            }
            Sends::Waits | Sends::Secrets => (bytes.len(), false),
        };
        if ended {
            (self.sends, self.complete) = (Sends::Commands, true);
        }
        Ok(Step::new(taken, RequestEvent::Part))
    }

    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused> {
        let begins = !self.commands.is_empty() && self.server.is_empty();
        if let Some(step) = self.answering.before(bytes, begins) {
            if matches!(step.event, ResponseEvent::End) {
                self.replied();
            }
            return Ok(step);
        }
        let now = self.answering;
        let (taken, complete) = self.server.feed(bytes);
        if complete {
            let line = self.server.take();
            // RFC 5321 §4.2.1: a hyphen after the code, and more lines follow.
            if line.as_bytes().get(3) != Some(&b'-') {
                self.reply(&line)?;
            }
        }
        Ok(now.part(taken))
    }

    fn bound_to_server(&self) -> Option<&'static str> {
        Some("an SMTP session's state is with its server")
    }
}
