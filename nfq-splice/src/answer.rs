//! Answers of the proxy's own: 400, 404, 408, 414, 431, 501, 502, 503, 505 — complete responses, and the connection closed
//! cleanly: what the client still sends is acknowledged and thrown away, so that no reset overtakes the answer (RFC 9112 §9.6).

use std::time::{Duration, SystemTime};

use packet::{Seq, TcpSegment, Time};

use crate::common::Core;
use crate::flow::{Answering, Flow, State};
use crate::sender::Sender;
use crate::setup::SETUP_WINDOW;

/// Patience with a client that has the answer and neither sends nor closes.
const QUIET: Duration = Duration::from_secs(5);
/// Patience with one that has not, or goes on sending.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// A connection closed on both sides is remembered this long: the last acknowledgement may have been lost.
const TIME_WAIT: Duration = Duration::from_secs(4);
/// When a client may try again that found no backend (RFC 9110 §10.2.3), seconds.
const RETRY_AFTER: &str = "Retry-After: 5\r\n";
/// First retransmission timeout (RFC 6298 §2).
const TIMEOUT: Duration = Duration::from_millis(300);

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// A response to HEAD has the fields of a body, but none (RFC 9110 §9.3.2).
fn response(status: u16, reason: &str, to_head: bool, date: &str) -> Vec<u8> {
    let phrase = phrase(status);
    let body = format!("{status} {phrase}: {reason}\n");
    let (length, retry) = (body.len(), if status == 503 { RETRY_AFTER } else { "" });
    let body = if to_head { String::new() } else { body };
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{date}{retry}Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Also of a request that is no good otherwise.
fn is_head(request: &[u8]) -> bool {
    request.trim_ascii_start().starts_with(b"HEAD ")
}

impl Answering {
    /// `sender` has the whole answer; `client_next` is the client's next number.
    pub(crate) fn new(now: Time, sender: Sender, client_next: Seq, client_fin: bool) -> Self {
        let end = now + ANSWER_TIME;
        Self { sender, client_next, client_fin, deadline: end, end }
    }

    /// Both sides have closed, and know it of each other.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_done() && self.client_fin
    }

    /// A SYN in TIME-WAIT begins a new connection if its number lies beyond the old one's (RFC 9293 §3.10.7.4).
    pub(crate) fn is_reopened(&self, syn: &TcpSegment<'_>) -> bool {
        self.is_closed() && self.client_next.before_or_at(syn.seq())
    }

    /// Takes over what of `segment` comes next; whether something did.
    fn advance(&mut self, segment: &TcpSegment<'_>) -> bool {
        let end = segment.seq() + segment.sequence_length();
        let new = segment.seq().before_or_at(self.client_next)
            && self.client_next.before(end)
            && end.since(self.client_next) <= SETUP_WINDOW as i32
            && !self.client_fin;
        if new {
            self.client_next = end;
            self.client_fin = segment.flags().fin();
        }
        new
    }
}

impl Core {
    /// Answers a client that has brought no whole head, and closes.
    pub(crate) fn answer_no_request(&mut self, flow: &mut Flow, status: u16, reason: &str) {
        if flow.is_continued() { self.abort_continued(flow) } else { self.answer(flow, status, reason) }
    }

    /// What was continued without state and brings no request: one place in 70,000 in the middle of a connection is taken for
    /// its beginning. An answer, or an end in good order, might stand in the middle of a response.
    fn abort_continued(&mut self, flow: &mut Flow) {
        self.counters.count("continued_without_request_reset");
        let end = flow.server_next();
        self.abort(flow, end);
    }

    /// Answers a client that has no backend, and closes.
    pub(crate) fn answer(&mut self, flow: &mut Flow, status: u16, reason: &str) {
        let State::Setup(setup) = &flow.state else { return };
        // Who does not speak HTTP is only closed.
        let bytes = if self.settings.http {
            self.response_to(&setup.request, status, reason)
        } else {
            self.counters.count(answered(status));
            Vec::new()
        };
        self.finish(flow, bytes);
    }

    /// The answer to a request, of which the beginning will do.
    pub(crate) fn response_to(&mut self, request: &[u8], status: u16, reason: &str) -> Vec<u8> {
        self.counters.count(answered(status));
        response(status, reason, is_head(request), &self.date())
    }

    /// RFC 9110 §6.6.1.
    fn date(&self) -> String {
        let Some((at, since_epoch)) = self.time_of_day else { return String::new() };
        let time = SystemTime::UNIX_EPOCH + since_epoch + self.now.since(at);
        format!("Date: {}\r\n", httpdate::fmt_http_date(time))
    }

    /// Closes a connection on which there is nothing to answer.
    pub(crate) fn close(&mut self, flow: &mut Flow) {
        if flow.is_continued() {
            return self.abort_continued(flow);
        }
        self.counters.count("closed_without_request");
        self.finish(flow, Vec::new());
    }

    fn finish(&mut self, flow: &mut Flow, bytes: Vec<u8>) {
        let State::Setup(setup) = &flow.state else { return };
        let window = flow.leg.window.unwrap_or(0) as usize;
        let mss = flow.leg.payload_bytes(self.mss());
        let sender = Sender::new(setup.iss + 1, bytes, true, mss, window, TIMEOUT);
        let answering = Answering::new(self.now, sender, setup.reassembly.next(), false);
        flow.state = State::Answering(Box::new(answering));
        self.send_answer(flow);
    }

    /// The client's FIN came with the end of what it sent before the answer.
    pub(crate) fn take_fin(&mut self, flow: &mut Flow) {
        let State::Answering(answering) = &mut flow.state else { return };
        answering.client_fin = true;
        answering.client_next = answering.client_next + 1;
        let (seq, ack) = (answering.sender.sent_seq(), answering.client_next);
        self.acknowledge_client(&flow.leg, seq, ack, SETUP_WINDOW);
    }

    pub(crate) fn send_answer(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Answering(answering) = &mut flow.state else { return };
        let ack = answering.client_next;
        while let Some(piece) = answering.sender.poll(now) {
            self.send_to_client(&flow.leg, &piece, ack, SETUP_WINDOW);
        }
    }

    /// Whatever the client still sends is acknowledged and thrown away.
    pub(crate) fn handle_answered(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Answering(answering) = &mut flow.state else { return };
        let flags = segment.flags();
        if flags.rst() {
            let next = answering.client_next;
            if segment.seq() != next {
                return self.challenge_reset(flow, segment, next, SETUP_WINDOW);
            }
            flow.state = State::Gone;
            return;
        }
        let lacked = !answering.sender.is_done();
        if flags.ack() {
            answering.sender.handle_ack(self.now, segment.ack(), flow.leg.window.unwrap_or(0) as usize);
        }
        let has_it = answering.sender.is_done();
        if (answering.advance(segment) || lacked) && has_it {
            answering.deadline = (self.now + QUIET).min(answering.end);
        }
        if answering.is_closed() {
            answering.deadline = self.now + TIME_WAIT;
        }
        // As all of it has been sent at most: a FIN that is under way keeps its number.
        let (seq, ack) = (answering.sender.sent_seq(), answering.client_next);
        if segment.sequence_length() > 0 {
            self.acknowledge_client(&flow.leg, seq, ack, SETUP_WINDOW);
        }
        self.send_answer(flow);
    }

    pub(crate) fn handle_answering_timeout(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Answering(answering) = &mut flow.state else { return };
        if now >= answering.deadline {
            if !answering.is_closed() {
                self.counters.count("answer_not_taken_reset");
                let (seq, ack) = (answering.sender.unacknowledged(), answering.client_next);
                self.send(flow.leg.reset(now, seq, ack));
            }
            flow.state = State::Gone;
            return;
        }
        answering.sender.handle_timeout(now);
        self.send_answer(flow);
    }
}

impl Flow {
    fn is_continued(&self) -> bool {
        matches!(&self.state, State::Setup(setup) if setup.continued)
    }
}

/// One counter for each status.
fn answered(status: u16) -> &'static str {
    match status {
        400 => "answered_400",
        404 => "answered_404",
        408 => "answered_408",
        414 => "answered_414",
        431 => "answered_431",
        501 => "answered_501",
        502 => "answered_502",
        503 => "answered_503",
        505 => "answered_505",
        _ => "answered_other",
    }
}
