//! The large-file rule (paper §3.1): bodies that the logger need not keep, because they can be had again.

use cluster::control::{ConnectionReport, LargeBody, PendingRequest};
use http1::ResponseFraming;
use packet::{TcpSegment, Time};
use segment_log::LeftOut;

use crate::protocol::Answer;
use crate::request::Request;
use crate::response::Response;

use super::Connection;

/// Why a connection is lost whose logger has left out what it was not told to.
const MISPLACED: &str = "payload was left out of the log that is no part of a large file's body";

/// What is left out of the log.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// The logger is to be told.
    order: Option<LargeBody>,
    /// Stream offset after the last byte that was.
    end: u64,
    /// A response that ended before the client had acknowledged what was left out of it.
    last: Option<Last>,
}

/// A response that is complete, but neither in the log nor known to be with the client.
#[derive(Debug)]
struct Last {
    request: PendingRequest,
    response: Box<Response>,
    /// Stream offset after it.
    end: u64,
}

impl Large {
    pub(super) fn kept(&self) -> usize {
        let last = self.last.as_ref().map_or(0, |last| last.request.bytes.len() + last.response.kept());
        size_of::<Self>() + last
    }
}

impl Connection {
    /// A body that has begun since the last call, and that the logger need not keep.
    pub fn poll_large_body(&mut self) -> Option<LargeBody> {
        self.large.as_mut()?.order.take()
    }

    /// A response to the first request begins, its body at stream offset `from`.
    pub(super) fn note_large(&mut self, from: u64, answer: &Answer) {
        if let Some(body) = self.large_body(from, answer) {
            self.large.get_or_insert_default().order = Some(body);
        }
    }

    /// Only where recovery could ask for the rest: a range of a body with a strong validator, asked for by a request that may be
    /// repeated and that is kept whole.
    fn large_body(&self, from: u64, answer: &Answer) -> Option<LargeBody> {
        let request = self.requests.first()?;
        let whole = request.complete.is_some() && request.is_kept();
        if !request.tags.large_file || !self.repeatable() || !whole {
            return None;
        }
        let head = answer.head.as_ref()?;
        let ResponseFraming::Length(bytes) = head.framing else { return None };
        let asked = http1::parse_request(request.bytes(), usize::MAX).ok()??;
        http1::continuation(&asked, head)?;
        let client_isn = self.client.isn().0;
        Some(LargeBody { flow: self.flow(), client_isn, from: self.backend.seq(from).0, bytes })
    }

    /// The data of a backend's segment was left out of the log.
    pub(super) fn skip_backend_data(&mut self, segment: &TcpSegment<'_>, left_out: LeftOut, now: Time) {
        let seq = segment.seq();
        let distance = self.backend.offset(seq) - self.backend.delivered() as i64;
        if distance + i64::from(left_out.bytes) <= 0 {
            return;
        }
        let protocol = self.protocol.as_mut().filter(|_| distance == 0);
        let in_body = protocol.map(|protocol| protocol.skip_body(u64::from(left_out.bytes)));
        if distance != 0 || in_body == Some(false) {
            return self.lose(MISPLACED);
        }
        self.responses.skip(seq, left_out);
        let end = self.backend.delivered() + u64::from(left_out.bytes);
        self.large.get_or_insert_default().end = end;
        let skipped = self.feed_responses(end, now, |backend, deliver| {
            deliver(&[]);
            backend.skip(left_out.bytes, deliver)
        });
        if !skipped {
            self.lose(MISPLACED);
        }
        self.trim();
    }

    /// The client lacks bytes that were left out.
    fn lacks_left_out(&self) -> Option<&Large> {
        self.large.as_deref().filter(|large| large.end > self.backend.acked())
    }

    /// Stream offset up to which the response bytes that the client has not acknowledged were logged.
    pub(super) fn readable_end(&self) -> u64 {
        let delivered = self.backend.delivered();
        self.lacks_left_out().map_or(delivered, |_| self.spans.end_from(self.backend.acked()).min(delivered))
    }

    /// A response has ended. It counts as not fully logged while the client lacks what was left out of it.
    pub(super) fn keep_unacknowledged(&mut self, request: &Request, response: Box<Response>, end: u64) {
        let acked = self.backend.acked();
        if let Some(large) = self.large.as_mut().filter(|large| large.end > acked) {
            large.last = Some(Last { request: request.report(), response, end });
        }
    }

    pub(super) fn forget_acknowledged(&mut self) {
        if self.lacks_left_out().is_none()
            && let Some(large) = &mut self.large
        {
            large.last = None;
        }
    }

    /// Takes `left_out` bytes that the client may lack, the last ones of the stream, from what `report` says was logged. `false`:
    /// they are of more than one response.
    pub(super) fn report_left_out(&self, left_out: u64, report: &mut ConnectionReport) -> bool {
        let response = match self.large.as_ref().and_then(|large| large.last.as_ref()) {
            None => self.responses.current(),
            Some(last) if last.end == self.backend.delivered() => {
                report.t_l = report.t_l.saturating_sub(1);
                report.ack_tl = self.backend.seq(last.end - last.response.bytes()).0;
                report.pending.insert(0, last.request.clone());
                if let Some(updates) = &mut report.updates {
                    updates.answered.retain(|update| update.ordinal <= report.t_l);
                }
                Some(&*last.response)
            }
            Some(_) => None,
        };
        let cut = response.and_then(|response| response.report_without(left_out));
        report.partial = cut.unwrap_or_default();
        report.beyond.iter_mut().for_each(|(at, _)| *at += left_out);
        report.partial.left_out == left_out
    }
}
