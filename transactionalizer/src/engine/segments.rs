//! What a logged segment does.

use cluster::control::{Flow, LargeBody};
use packet::TcpSegment;

use crate::connection::{Connection, Payload};
use crate::spans::LogBytes;

use super::entry::{Entry, Middle, State};
use super::{Action, Engine, Logged};

/// Why a connection that lost records is not recoverable.
pub(super) const LAPPED: &str = "the log was overwritten before it was read";

/// Connections that a message names at most.
const NAMED: usize = 16;

/// A segment with what is known of it.
pub(super) struct Seen<'a> {
    pub(super) flow: Flow,
    pub(super) segment: TcpSegment<'a>,
    pub(super) logged: Logged<'a>,
}

impl Engine {
    /// A record of the segment log, in the order of the log.
    pub fn handle_record(&mut self, logged: &Logged<'_>, log: &dyn LogBytes, out: &mut Vec<Action>) {
        self.check_writer(logged.writer, out);
        self.counters.records += 1;
        self.counters.held += u64::from(logged.hold.is_some());
        let Some(seen) = self.see(logged) else {
            return self.release(logged.hold, out);
        };
        if logged.swallowed {
            return self.handle_swallowed(&seen, out);
        }
        if let Some(backend) = self.backends.get_mut(&seen.flow.backend).filter(|_| logged.from_backend) {
            backend.health.handle_heard(logged.time);
        }
        let flags = seen.segment.flags();
        match (flags.syn(), flags.ack(), logged.from_backend) {
            (true, false, false) => self.handle_syn(seen.flow, &seen.segment, logged.time, log),
            (true, true, true) => self.handle_syn_ack(seen.flow, &seen.segment, logged.time, out),
            // Nonsense (RFC 9293 §3.10.7): no endpoint takes it.
            (true, _, _) => {}
            (false, _, _) => self.handle_segment(&seen, log),
        }
        self.order_leaving_out(seen.flow, out);
        self.check_late(seen.flow, logged.from_backend, logged.time);
        self.judge(&seen, out);
        self.schedule(seen.flow);
        self.note_end(seen.flow, logged.time);
    }

    fn see<'a>(&mut self, logged: &Logged<'a>) -> Option<Seen<'a>> {
        let parse = if logged.left_out.is_some() { TcpSegment::parse_headers } else { TcpSegment::parse };
        let Ok(segment) = parse(logged.packet) else {
            self.counters.malformed += 1;
            return None;
        };
        let (source, destination) = (segment.source(), segment.destination());
        let flow = if logged.from_backend {
            Flow { client: destination, backend: source }
        } else {
            Flow { client: source, backend: destination }
        };
        if !self.backends.contains_key(&flow.backend) {
            self.counters.foreign += 1;
            return None;
        }
        Some(Seen { flow, segment, logged: *logged })
    }

    fn handle_segment(&mut self, seen: &Seen<'_>, log: &dyn LogBytes) {
        let Some(entry) = self.entry(seen.flow, seen.logged.time) else { return };
        match &mut entry.state {
            // The answer to a SYN that was refused.
            State::Unseen if entry.embryo.is_some() => {}
            // An old connection's last breath, or a client's reset that has overtaken the SYN that it withdraws.
            State::Unseen if seen.segment.flags().rst() => {
                entry.withdrawn = (!seen.logged.from_backend).then(|| seen.segment.seq() - 1);
            }
            State::Unseen => {
                entry.state = State::Middle(Middle::default());
                self.counters.opened_in_the_middle += 1;
                self.handle_middle(seen);
            }
            State::Middle(_) => self.handle_middle(seen),
            State::Failed(_) => {}
            State::Open(connection) => {
                let arrives = !seen.logged.from_backend && connection.is_taken_up_by(&seen.segment);
                if arrives && self.live.is_none() {
                    self.leave_others(seen.flow, seen.logged.time, log);
                }
                self.handle_open(seen, log);
            }
        }
    }

    fn handle_middle(&mut self, seen: &Seen<'_>) {
        let Some(Entry { state: State::Middle(middle), .. }) = self.entries.get_mut(&seen.flow) else {
            return;
        };
        let segment = &seen.segment;
        if !seen.logged.from_backend {
            middle.ended |= segment.flags().rst();
            middle.ack_cl = segment.ack();
            middle.client_next = segment.seq() + segment.sequence_length();
        }
    }

    fn handle_open(&mut self, seen: &Seen<'_>, log: &dyn LogBytes) {
        let Engine { entries, rules, counters, backends, kinds, .. } = self;
        let Some(entry) = entries.get_mut(&seen.flow) else { return };
        let suspect = entry.suspect;
        let State::Open(connection) = &mut entry.state else { return };
        let now = seen.logged.time;
        let conflicts = connection.conflicts();
        let contradicts = connection.contradicts(&seen.segment, seen.logged.from_backend, log);
        let (contiguous, plausible) = if seen.logged.from_backend {
            let contiguous = connection.expected_from_backend(seen.segment.seq());
            let payload = match seen.logged.left_out {
                Some(left_out) => Payload::LeftOut(left_out),
                None => Payload::In(seen.logged.record),
            };
            (contiguous, connection.handle_backend(&seen.segment, payload, now))
        } else {
            let contiguous = connection.expected_from_client(seen.segment.seq());
            (contiguous, connection.handle_client(&seen.segment, seen.logged.record, now, rules))
        };
        counters.kept_bytes_limit_lost += u64::from(!connection.account());
        counters.conflicts += connection.conflicts() - conflicts + u64::from(contradicts);
        counters.implausible_acks += u64::from(!plausible);
        let side = if seen.logged.from_backend { &mut entry.suspect.1 } else { &mut entry.suspect.0 };
        match contiguous {
            _ if suspect == (false, false) => {}
            Some(true) if plausible => *side = false,
            Some(false) if plausible => {}
            _ => connection.lose(LAPPED),
        }
        let Some(backend) = backends.get_mut(&seen.flow.backend) else { return };
        let carries = !seen.segment.payload().is_empty() || seen.logged.left_out.is_some();
        if seen.logged.from_backend && carries {
            backend.progressed = now;
        }
        while let Some(measured) = connection.poll_measured() {
            counters.transactions += 1;
            if let Some(kind) = measured.learnt {
                kinds.learn(backend.pool, kind, measured.start, measured.gap);
            }
        }
    }

    /// A response has begun that need not be logged. Old ones, read after a start, are logged already.
    fn order_leaving_out(&mut self, flow: Flow, out: &mut Vec<Action>) {
        let least_bytes = self.cluster.recovery.range_from_bytes;
        let wanted = |body: &LargeBody| self.live.is_some() && body.bytes >= least_bytes;
        let Some(Entry { state: State::Open(connection), .. }) = self.entries.get_mut(&flow) else { return };
        if let Some(body) = connection.poll_large_body().filter(wanted) {
            self.counters.large_bodies += 1;
            out.push(Action::LeaveOut(body));
        }
    }

    /// Records were overwritten before they were read: nothing is certain until each side's next byte is seen to be the
    /// expected one.
    pub fn handle_lapped(&mut self, records: u64, out: &mut Vec<Action>) {
        self.counters.lapped_records += records;
        let mut suspects = 0;
        let mut named = Vec::new();
        for (flow, entry) in self.entries.iter_mut() {
            entry.embryo = None;
            if matches!(entry.state, State::Open(_)) {
                entry.suspect = (true, true);
                suspects += 1;
                if named.len() < NAMED {
                    named.push(flow.client.to_string());
                }
            }
        }
        self.counters.lapped_connections += suspects;
        let named = names(&named, suspects);
        let text = format!(
            "{records} records of the segment log were overwritten before they were read: {suspects} connections are not \
             recoverable until their streams are seen to be whole{named}"
        );
        out.push(Action::Note(text));
    }

    /// The log's file was replaced: the bytes of all connections are gone.
    pub fn handle_replaced(&mut self, out: &mut Vec<Action>) {
        let mut lost = 0;
        for entry in self.entries.values_mut() {
            entry.embryo = None;
            entry.held.clear();
            if let State::Open(connection) = &mut entry.state {
                connection.lose("the segment log was replaced");
                lost += 1;
            }
        }
        out.push(Action::Note(format!(
            "the segment log was replaced: {lost} connections are not recoverable"
        )));
    }

    /// Another logger writes the log: what the one before held is void.
    fn check_writer(&mut self, writer: u32, out: &mut Vec<Action>) {
        if self.writer.replace(writer).is_none_or(|before| before == writer) {
            return;
        }
        self.entries.values_mut().for_each(|entry| entry.held.clear());
        self.backends.values_mut().for_each(|backend| backend.asking.clear());
        out.push(Action::Note(format!("the segment log has a new writer, its {writer}th")));
    }

    /// The open connection of a flow.
    pub(super) fn connection(&self, flow: Flow) -> Option<&Connection> {
        self.entries.get(&flow)?.open()
    }
}

/// `: 10.0.0.1:4000, 10.0.0.2:4001 and 3 more`
fn names(named: &[String], all: u64) -> String {
    let more = all - named.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if named.is_empty() { String::new() } else { format!(": {}{more}", named.join(", ")) }
}
