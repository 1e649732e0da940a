//! The logger's daemon: an IP hop that commits each segment to the log before it passes.

use cluster::control::{Flow, ToLogger};
use nfq_logger::{Arrival, Decision, Engine, Limits, fence_record};
use packet::TcpSegment;
use segment_log::{Flags, LeftOut};

use super::*;
use crate::addresses::backend_number;
use crate::log::{Entry, SegmentLog};
use crate::net::show;

const LIMITS: Limits = Limits { flows: 64, fences: 64, held: 64, judgement: Duration::from_secs(2) };

pub(super) struct Logger {
    pub(super) engine: Engine,
    pub(super) down: bool,
    pub(super) life: u64,
    pub(super) log: SegmentLog,
    /// Writers of the log so far.
    writer: u32,
    next_packet: u32,
    /// Packets that the kernel keeps for a verdict.
    held: BTreeMap<u32, Packet>,
    /// Flows fenced, until their client opens them anew: by the record of this number.
    fenced: BTreeMap<Flow, u64>,
    /// The last reset from the proxy's side of each flow, and whether a SYN has come since.
    resets: BTreeMap<Flow, (u64, bool)>,
}

impl Logger {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            engine: engine(scenario, 1),
            down: false,
            life: 0,
            log: SegmentLog::new(scenario.ring_bytes),
            writer: 1,
            next_packet: 0,
            held: BTreeMap::new(),
            fenced: BTreeMap::new(),
            resets: BTreeMap::new(),
        }
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.engine.poll_timeout().filter(|_| !self.down)
    }

    /// The log stays; the queue's packets are dropped with it.
    pub(super) fn die(&mut self) {
        self.down = true;
        self.held.clear();
    }

    pub(super) fn restart(&mut self, scenario: &Scenario) {
        self.writer += 1;
        self.engine = engine(scenario, self.writer);
        self.log.fences().for_each(|record| self.engine.restore(record.flags, &record.packet));
        self.fenced.retain(|_, record| *record >= self.log.oldest());
        self.down = false;
    }
}

fn engine(scenario: &Scenario, writer: u32) -> Engine {
    let backends = scenario.cluster.backends.values().map(|backend| backend.address);
    Engine::new(backends, writer, LIMITS)
}

impl World {
    /// Unlogged nothing passes: a queue without a daemon drops.
    pub(super) fn arrive_at_logger(&mut self, packet: Packet) {
        if self.logger.down {
            return self.note(|| format!("no logger for {}", show(&packet.bytes)));
        }
        self.logger.next_packet += 1;
        let id = self.logger.next_packet;
        let arrival = Arrival { id, gso: false, verify: true, packet: &packet.bytes };
        let decision = self.logger.engine.handle_packet(self.now, arrival);
        match decision {
            Decision::Drop => return self.note(|| format!("logger drops {}", show(&packet.bytes))),
            Decision::Swallow(flags) => {
                self.note(|| format!("logger swallows {}", show(&packet.bytes)));
                return self.commit(&packet, flags, None, None);
            }
            Decision::PassUnlogged => self.check_unlogged(&packet),
            Decision::Accept(flags) => {
                self.commit(&packet, flags, None, None);
                self.excuse_without_judge(&packet);
                self.excuse_reset_twice(&packet);
                self.excuse_late_copy(&packet);
            }
            Decision::AcceptLeavingOut { flags, headers, left_out } => {
                self.commit(&packet, flags, None, Some((headers, left_out)));
            }
            Decision::Hold(flags, hold) => {
                self.note(|| format!("hold {hold}: {}", show(&packet.bytes)));
                self.commit(&packet, flags, Some(hold), None);
                self.logger.held.insert(id, packet.clone());
            }
        }
        if self.dies(Daemon::Logger) {
            return;
        }
        if !matches!(decision, Decision::Hold(..)) {
            self.forward(packet);
        }
        self.release();
    }

    /// `left_out`: bytes of the headers, and what stands for the rest.
    fn commit(
        &mut self,
        packet: &Packet,
        flags: Flags,
        hold: Option<u64>,
        left_out: Option<(usize, LeftOut)>,
    ) {
        let (writer, time) = (self.logger.writer, self.now);
        let mut bytes = packet.bytes.clone();
        bytes.truncate(left_out.map_or(usize::MAX, |(headers, _)| headers));
        let left_out = left_out.map(|(_, left_out)| left_out);
        self.logger.log.append(Entry { number: 0, writer, time, hold, flags, packet: bytes, left_out });
        self.wake_reader();
        if flags.contains(Flags::UNFENCED) {
            self.lift_fence(&packet.bytes);
        }
        if flags.contains(Flags::FROM_BACKEND) {
            self.note_response(&packet.bytes);
        }
    }

    fn lift_fence(&mut self, syn: &[u8]) {
        if let Ok(syn) = TcpSegment::parse(syn) {
            self.logger.fenced.remove(&Flow { client: syn.source(), backend: syn.destination() });
        }
    }

    fn commit_fence(&mut self, flow: Flow) {
        let (writer, time, packet) = (self.logger.writer, self.now, fence_record(flow));
        let (flags, hold, left_out) = (Flags::FENCED, None, None);
        self.logger.log.append(Entry { number: 0, writer, time, hold, flags, packet, left_out });
        self.logger.fenced.insert(flow, self.logger.log.newest());
    }

    /// What carries a byte must not pass unlogged.
    fn check_unlogged(&mut self, packet: &Packet) {
        let carries = TcpSegment::parse(&packet.bytes).is_ok_and(|segment| segment.sequence_length() > 0);
        if carries {
            self.checks.fail(format!("bytes pass unlogged: {}", show(&packet.bytes)));
        }
    }

    fn forward(&mut self, packet: Packet) {
        let Ok(segment) = TcpSegment::parse(&packet.bytes) else { return };
        if let Some(number) = backend_number(segment.destination()) {
            let flow = Flow { client: segment.source(), backend: segment.destination() };
            if self.logger.fenced.contains_key(&flow) && segment.sequence_length() > 0 {
                return self.checks.fail(format!("bytes pass into a fence: {}", show(&packet.bytes)));
            }
            return self.transmit(2, Node::Backend(number), packet);
        }
        let flow = Flow { client: segment.destination(), backend: segment.source() };
        if self.logger.fenced.contains_key(&flow) {
            return self.checks.fail(format!("a fenced packet passes the logger: {}", show(&packet.bytes)));
        }
        self.transmit(1, Node::Proxy, packet);
    }

    fn release(&mut self) {
        while let Some(released) = self.logger.engine.poll_release() {
            let Some(packet) = self.logger.held.remove(&released.id) else { continue };
            let verdict = if released.pass { "passes" } else { "is dropped" };
            self.note(|| format!("held {verdict}: {}", show(&packet.bytes)));
            if released.pass {
                self.excuse_served_again(&packet);
                self.excuse_reset_twice(&packet);
                self.forward(packet);
            }
        }
    }

    pub(super) fn logger_timeout(&mut self) {
        let late: Vec<Packet> = self.logger.held.values().cloned().collect();
        if self.logger.engine.handle_timeout(self.now) > 0 {
            for packet in &late {
                self.excuse_unjudged(packet);
            }
        }
        self.release();
    }

    pub(super) fn logger_told(&mut self, session: u64, message: &ToLogger) {
        self.note(|| format!("logger is told {message:?}"));
        if self.dies(Daemon::Logger) {
            return;
        }
        if let ToLogger::Fence(flow) = message {
            self.commit_fence(*flow);
        }
        self.logger.engine.handle_control(session, message);
        self.release();
        if *message == ToLogger::Status {
            self.send_on(Channel::Judge, End::Client, session, Message::FencesHold);
        }
        if *message == ToLogger::Fences {
            let fenced = Message::Fenced(self.logger.engine.fenced_flows());
            self.send_on(Channel::Judge, End::Client, session, fenced);
        }
    }

    /// Without a judge, what is held passes.
    pub(super) fn judge_gone(&mut self, session: u64) {
        let held: Vec<Packet> = self.logger.held.values().cloned().collect();
        self.logger.engine.handle_disconnect(session);
        if !self.has_judge() {
            for packet in &held {
                self.excuse_unjudged(packet);
            }
        }
        self.release();
    }

    fn has_judge(&self) -> bool {
        let gauges: BTreeMap<&str, u64> = self.logger.engine.gauges().into();
        gauges["judges_now"] > 0
    }

    /// Nobody judges: the end of a backend's process passes at once.
    fn excuse_without_judge(&mut self, packet: &Packet) {
        let Some((number, flags)) = of_backend(packet) else { return };
        if self.backends[number].was_killed && (flags.fin() || flags.rst()) && !self.has_judge() {
            self.note(|| format!("nobody judges the end of a connection with backend{number}"));
            self.excuse_unjudged(packet);
        }
    }

    /// The reset of a backend that a copy of the proxy's own hit: that of the handshake which it withdrew when it learnt that this backend
    /// speaks ECN, once for each. A healthy backend's reset is its word; where nobody judges, any one's is.
    fn excuse_reset_twice(&mut self, packet: &Packet) {
        let Some((number, flags)) = of_backend(packet) else { return };
        let believed = !self.backends[number].was_killed || !self.has_judge();
        if flags.rst() && believed && self.resets_twice() {
            self.excuse(packet_client(packet), "a copy of the reset of one handshake hit the next one");
        }
    }

    /// A copy of the proxy's own reset comes after the SYN that follows it: an alternate that is asked again is sent the same numbers,
    /// and believes it. To the log that is the client's end, so that nobody asks for the connection any more.
    fn excuse_late_copy(&mut self, packet: &Packet) {
        let Ok(segment) = TcpSegment::parse(&packet.bytes) else { return };
        let (flow, flags) =
            (Flow { client: segment.source(), backend: segment.destination() }, segment.flags());
        let before = self.logger.resets.get_mut(&flow);
        match before {
            Some((_, begun)) if flags.syn() => *begun = true,
            Some((born, true)) if flags.rst() && *born == packet.born => {
                self.excuse(flow.client, "a copy of the reset of one attempt hit the next one");
            }
            _ if flags.rst() && packet.from_backend.is_none() => {
                self.logger.resets.insert(flow, (packet.born, false));
            }
            _ => {}
        }
    }

    /// The proxy has withdrawn handshakes, and links may double its resets.
    fn resets_twice(&self) -> bool {
        let doubles = self.scenario.links[1..].iter().any(|link| link.duplication > 0);
        doubles && self.proxy.engine.status().counters.contains_key("ecn_learnt")
    }

    /// A process that was killed serves again by the time of the second opinion: what was idle, or had been closed by its
    /// client, looks like an ordinary end.
    fn excuse_served_again(&mut self, packet: &Packet) {
        let Some(number) = packet.from_backend else { return };
        let state = self.backends[number];
        if state.was_killed && !state.killed {
            self.excuse(packet_client(packet), "its backend was started anew before the second opinion");
        }
    }

    fn excuse_unjudged(&mut self, packet: &Packet) {
        self.excuse(packet_client(packet), "the end of its connection passed unjudged");
    }
}

/// Which backend's it is, and its flags.
fn of_backend(packet: &Packet) -> Option<(usize, packet::Flags)> {
    Some((packet.from_backend?, TcpSegment::parse(&packet.bytes).ok()?.flags()))
}

/// To whom a backend's packet goes.
fn packet_client(packet: &Packet) -> ClientAddress {
    TcpSegment::parse(&packet.bytes).map(|segment| segment.destination()).unwrap()
}
