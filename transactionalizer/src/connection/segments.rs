//! What a logged segment does to its connection.

use cluster::tags::TagRules;
use packet::{Flags, TcpSegment, Time};
use segment_log::LeftOut;

use crate::direction::{Direction, Taken};
use crate::request::Lost;
use crate::response::Progress;
use crate::spans::Record;

use super::{Connection, Measured};

/// Where a logged segment's data is.
#[derive(Debug, Clone, Copy)]
pub enum Payload {
    /// In this record.
    In(Record),
    /// Nowhere: a large file's.
    LeftOut(LeftOut),
}

impl Connection {
    /// A segment from the client. `false`: it shows that the log lacks segments.
    pub fn handle_client(
        &mut self,
        segment: &TcpSegment<'_>,
        record: Record,
        now: Time,
        rules: &TagRules,
    ) -> bool {
        if segment.flags().rst() {
            self.client_reset |= self.client.acceptable_reset(segment.seq());
            return true;
        }
        self.client_reset = false;
        let acceptable = segment.flags().ack() && self.backend.acceptable_ack(segment.ack());
        let plausible = self.take_ack(segment, now);
        if acceptable {
            self.take_client_data(segment, record, now, rules);
            if segment.flags().fin() {
                self.client.handle_fin(segment.seq() + segment.payload().len() as u32);
            }
        }
        self.note_debt(now);
        plausible
    }

    fn take_ack(&mut self, segment: &TcpSegment<'_>, now: Time) -> bool {
        if !segment.flags().ack() {
            return true;
        }
        // A backend drops what lies before all that it has acknowledged (RFC 9293 §3.10.7.4), and learns no window from it.
        let end = segment.seq() + segment.sequence_length();
        let dropped = end.before(self.client.seq(self.client.acked()));
        let window = if dropped { self.backend.window_field() } else { segment.window() };
        let plausible = self.backend.handle_ack(segment.ack(), window);
        // Whoever let the backend's FIN pass, the client has it.
        if plausible && self.backend.is_end(segment.ack()) && !self.released {
            self.handle_released();
        }
        self.trim();
        if self.client_is_ready() {
            self.client_ready.get_or_insert(now);
        }
        plausible
    }

    fn take_client_data(&mut self, segment: &TcpSegment<'_>, record: Record, now: Time, rules: &TagRules) {
        let Self { client, requests, protocol, transactions, .. } = self;
        let mut lost = None;
        let taken = client.push(segment.seq(), segment.payload(), &mut |bytes| {
            if let (Some(protocol), None) = (protocol.as_mut(), lost) {
                lost = requests.push(&mut **protocol, bytes, now, rules, transactions).err();
            }
        });
        self.taint_urgent(segment);
        match (lost, taken) {
            (Some(Lost::Refused(refusal)), _) => self.lose(format!("request stream: {refusal}")),
            (Some(Lost::Ordinals), _) => self.lose("more transactions than a 32-bit ordinal counts"),
            (None, Taken::Overflow) => self.lose("too many request bytes beyond a gap in the log"),
            (None, Taken::At(start)) => self.note_upload(start, segment.payload().len(), record),
            (None, Taken::Outside) => {}
        }
    }

    /// Linux takes an urgent byte out of the stream: offsets here and in the application part.
    fn taint_urgent(&mut self, segment: &TcpSegment<'_>) {
        self.urgent |= segment.flags().contains(Flags::URG);
    }

    /// A segment from the backend. `false`: it shows that the log lacks segments.
    pub fn handle_backend(&mut self, segment: &TcpSegment<'_>, payload: Payload, now: Time) -> bool {
        self.heard = now;
        if segment.flags().rst() {
            return true;
        }
        let acceptable = segment.flags().ack() && self.client.acceptable_ack(segment.ack());
        let plausible = !segment.flags().ack() || self.client.handle_ack(segment.ack(), segment.window());
        let closed = self.backend_is_full();
        self.starved = if closed { self.starved.or(Some(now)) } else { None };
        match payload {
            Payload::LeftOut(left_out) if acceptable => {
                self.note_gap(segment.seq(), left_out.bytes, now);
                self.skip_backend_data(segment, left_out, now);
            }
            Payload::In(record) if acceptable && !segment.payload().is_empty() => {
                self.note_gap(segment.seq(), segment.payload().len() as u32, now);
                self.take_backend_data(segment, record, now);
            }
            _ => {}
        }
        if acceptable && segment.flags().fin() {
            self.backend.handle_fin(segment.seq() + segment.payload().len() as u32);
        }
        self.note_debt(now);
        plausible
    }

    fn take_backend_data(&mut self, segment: &TcpSegment<'_>, record: Record, now: Time) {
        let start = self.backend.delivered();
        let (seq, data) = (segment.seq(), segment.payload());
        let taken = self.feed_responses(start, now, |backend, deliver| backend.push(seq, data, deliver));
        self.taint_urgent(segment);
        match taken {
            Taken::Overflow => self.lose("too many response bytes beyond a gap in the log"),
            Taken::At(start) => self.note_span(start, data.len(), record),
            Taken::Outside => {}
        }
        self.trim();
    }

    /// What the backend's stream delivers, from stream offset `offset` on, when `take` has been done to it.
    pub(super) fn feed_responses<T>(
        &mut self,
        mut offset: u64,
        now: Time,
        take: impl FnOnce(&mut Direction, &mut dyn FnMut(&[u8])) -> T,
    ) -> T {
        let Self { backend, responses, protocol, .. } = self;
        let (mut refused, mut events) = (None, Vec::new());
        let taken = take(backend, &mut |bytes| {
            if let (Some(protocol), None) = (protocol.as_mut(), refused) {
                let mut then = |progress| events.push((offset, progress));
                refused = responses.push(&mut **protocol, bytes, now, &mut then).err();
            }
            offset += bytes.len() as u64;
        });
        for (start, progress) in events {
            self.take_progress(start, progress, now);
        }
        if let Some(refusal) = refused {
            self.lose(format!("response stream: {refusal}"));
        }
        taken
    }

    fn note_span(&mut self, start: i64, length: usize, record: Record) {
        let skip = (-start).max(0) as usize;
        if self.opaque.is_some() || skip >= length {
            return;
        }
        if self.spans.insert(start.max(0) as u64, length - skip, record, skip).is_err() {
            self.lose("response bytes lie in too many segments");
        }
    }

    fn take_progress(&mut self, start: u64, progress: Progress, now: Time) {
        let (response, at) = match progress {
            Progress::Begun { answer, at } => {
                self.requests.answer_begins(&answer);
                return self.note_large(start + at as u64, &answer);
            }
            Progress::Unasked(at) => return self.transactions.pass_unasked(start + at as u64),
            Progress::Switched => return self.lose("the connection speaks another protocol now"),
            Progress::Ended { response, at } => (response, at),
        };
        let Some(request) = self.requests.answered() else { return };
        let end = start + at as u64;
        self.trim_upload();
        self.transactions.end_response(end);
        self.note_update(&request, &response);
        if !request.keep_alive {
            self.responses.set_closing();
        }
        let owed_from = request.complete.map(|complete| complete.max(self.ended));
        let start =
            owed_from.filter(|from| *from <= response.started).map(|from| response.started.since(from));
        let gap = self.longest_gap.take();
        // Errors are answered faster, or slower, than what they are instead of.
        let learnt = (response.status < 400).then_some(request.kind);
        self.measured.push(Measured { learnt, start, gap });
        self.ended = now;
        self.keep_unacknowledged(&request, response, end);
    }
}
