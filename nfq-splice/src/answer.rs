//! Answers of the proxy's own: 400, 404, 408, 413, 414, 431, 501, 502, 503 — complete responses, connection closed cleanly.

use std::time::Duration;

use packet::{Seq, TcpSegment};

use crate::common::Core;
use crate::flow::{Answering, Flow, State};
use crate::sender::Sender;
use crate::setup::SETUP_WINDOW;

/// Time for the client to take the answer and close.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// First retransmission timeout (RFC 6298 §2).
const TIMEOUT: Duration = Duration::from_millis(300);

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

fn response(status: u16, reason: &str) -> Vec<u8> {
    let phrase = phrase(status);
    let body = format!("{status} {phrase}: {reason}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Core {
    /// Answers a client that has no backend, and closes.
    pub(crate) fn answer(&mut self, flow: &mut Flow, status: u16, reason: &str) {
        let State::Setup(setup) = &flow.state else { return };
        self.counters.count("answered_by_proxy");
        let window = flow.leg.window.unwrap_or(0) as usize;
        let mss = flow.leg.payload_bytes(self.mss());
        let sender = Sender::new(setup.iss + 1, response(status, reason), true, mss, window, TIMEOUT);
        let client_next = setup.reassembly.next();
        let deadline = self.now + ANSWER_TIME;
        flow.state = State::Answering(Box::new(Answering { sender, client_next, deadline }));
        self.send_answer(flow);
    }

    fn send_answer(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Answering(answering) = &mut flow.state else { return };
        let ack = answering.client_next;
        while let Some(piece) = answering.sender.poll(now) {
            self.send_to_client(&flow.leg, &piece, ack, SETUP_WINDOW);
        }
    }

    /// Whatever the client still sends is acknowledged and thrown away, so that it reads the answer before a reset.
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
        if flags.ack() {
            answering.sender.handle_ack(self.now, segment.ack(), flow.leg.window.unwrap_or(0) as usize);
        }
        let end = segment.seq() + segment.sequence_length();
        let new = segment.seq().before_or_at(answering.client_next) && answering.client_next.before(end);
        if new {
            answering.client_next = end;
        }
        let done = answering.sender.is_done();
        let (seq, ack) = (answering.sender.unacknowledged(), answering.client_next);
        if segment.sequence_length() > 0 {
            self.acknowledge_client(&flow.leg, seq, ack, SETUP_WINDOW);
        }
        if done && flags.fin() && new {
            flow.state = State::Gone;
            return;
        }
        self.send_answer(flow);
    }

    pub(crate) fn handle_answering_timeout(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Answering(answering) = &mut flow.state else { return };
        if now >= answering.deadline {
            let (seq, ack): (Seq, Seq) = (answering.sender.unacknowledged(), answering.client_next);
            self.send(flow.leg.reset(now, seq, ack));
            flow.state = State::Gone;
            return;
        }
        answering.sender.handle_timeout(now);
        self.send_answer(flow);
    }
}
