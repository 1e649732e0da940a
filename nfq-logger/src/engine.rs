//! What becomes of each packet.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Flow, LargeBody, ToLogger};
use packet::{TcpSegment, Time};
use segment_log::{Flags, LeftOut};

use crate::Counters;
use crate::fences::{Fences, recorded_flow};
use crate::flows::Flows;
use crate::held::{Ending, Held, HeldSegments};

/// Bounds of the engine's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows whose sequence numbers are followed.
    pub flows: usize,
    /// Fenced flows.
    pub fences: usize,
    /// Held segments, for less than the queue may hold. Further FIN and RST are dropped; TCP repeats them.
    pub held: usize,
    /// Time for a judgement; then the segment passes.
    pub judgement: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 131_072, fences: 131_072, held: 4096, judgement: Duration::from_secs(2) }
    }
}

/// A packet from the queue.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The queue's number for it.
    pub id: u32,
    /// Several segments in one.
    pub gso: bool,
    /// Its checksum is filled in and nobody has verified it.
    pub verify: bool,
    /// The whole IP packet.
    pub packet: &'a [u8],
}

/// What to do with a packet. What is to be logged must be committed before anything passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Log it with these flags, then let it pass.
    Accept(Flags),
    /// Log it with these flags, but of the packet its headers only, then let it pass.
    AcceptLeavingOut {
        /// Its properties.
        flags: Flags,
        /// Bytes of the packet's IP and TCP header.
        headers: usize,
        /// What is logged instead of the rest.
        left_out: LeftOut,
    },
    /// Log it with these flags and this hold number; no verdict yet.
    Hold(Flags, u64),
    /// Log it with these flags, then drop it: what the client sends into a fence is wanted for its recovery.
    Swallow(Flags),
    /// Do not log it; drop it.
    Drop,
    /// Do not log it, let it pass: it carries no byte.
    PassUnlogged,
}

/// A verdict on a packet that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The queue's number for it.
    pub id: u32,
    /// Let it pass, or drop it.
    pub pass: bool,
}

/// The logger's decisions. Order of calls: any `handle_*`, then [`poll_release`](Self::poll_release) until it gives
/// `None`, then sleep until something happens or [`poll_timeout`](Self::poll_timeout) is due.
#[derive(Debug)]
pub struct Engine {
    backends: HashSet<SocketAddr>,
    limits: Limits,
    flows: Flows,
    fences: Fences,
    held: HeldSegments,
    judges: BTreeSet<u64>,
    released: VecDeque<Released>,
    next_hold: u64,
    counters: Counters,
}

impl Engine {
    /// `epoch` is the segment log's: hold numbers of different writers never coincide.
    pub fn new(backends: impl IntoIterator<Item = SocketAddr>, epoch: u32, limits: Limits) -> Self {
        Self {
            backends: backends.into_iter().collect(),
            flows: Flows::new(limits.flows),
            fences: Fences::new(limits.fences),
            held: HeldSegments::default(),
            judges: BTreeSet::new(),
            released: VecDeque::new(),
            next_hold: (u64::from(epoch) << 32) | 1,
            counters: Counters::default(),
            limits,
        }
    }

    /// A record that tells of a fence ([`Flags::tells_of_fence`]), found in the log: to be told of each, oldest first, before the first
    /// packet. What has been overwritten the transactionalizer tells again. As then, the fenced epoch is not known any more: any
    /// SYN of the client's side lifts it.
    pub fn restore(&mut self, flags: Flags, packet: &[u8]) {
        let Some(flow) = recorded_flow(packet) else { return };
        if flags.contains(Flags::FENCED) {
            self.counters.fences_restored += 1;
            self.counters.fences_forgotten += u64::from(self.fences.insert(flow, None, true));
        } else {
            self.fences.remove(&flow);
        }
    }

    /// The backends from now on. Leave none out that [`Self::backends_in_use`] names: its segments would be dropped.
    pub fn set_backends(&mut self, backends: impl IntoIterator<Item = SocketAddr>) {
        self.backends = backends.into_iter().collect();
    }

    /// Backends of the flows that are known now.
    pub fn backends_in_use(&self) -> HashSet<SocketAddr> {
        self.flows.keys().map(|flow| flow.backend).collect()
    }

    /// Decides on a packet from the queue.
    pub fn handle_packet(&mut self, now: Time, arrival: Arrival<'_>) -> Decision {
        let Some((segment, flow, from_backend)) = self.examine(&arrival) else { return Decision::Drop };
        let unfences = self.fences.contains(&flow);
        if unfences && let Some(decision) = self.fenced(&segment, flow, from_backend, arrival.gso) {
            return decision;
        }
        let ending = ending(&segment).filter(|_| from_backend && !self.judges.is_empty());
        if ending.is_some_and(|ending| !self.may_hold(&segment, flow, ending)) {
            return Decision::Drop;
        }
        let (flags, left_out) = self.follow(&segment, flow, from_backend);
        let flags = flags.with(Flags::FROM_BACKEND, from_backend).with(Flags::GSO, arrival.gso);
        let flags = flags.with(Flags::UNFENCED, unfences);
        self.counters.segments += 1;
        match (ending, left_out) {
            (Some(ending), _) => self.hold(now, arrival.id, flow, ending, flags),
            (None, None) => Decision::Accept(flags),
            (None, Some(left_out)) => {
                self.counters.left_out_segments += 1;
                self.counters.left_out_bytes += u64::from(left_out.bytes);
                Decision::AcceptLeavingOut { flags, headers: segment.header_bytes(), left_out }
            }
        }
    }

    /// Refuses what is no segment between a client and a backend.
    fn examine<'a>(&mut self, arrival: &Arrival<'a>) -> Option<(TcpSegment<'a>, Flow, bool)> {
        let Ok(segment) = TcpSegment::parse(arrival.packet) else {
            self.counters.unparsable += 1;
            return None;
        };
        if arrival.verify && !arrival.gso && !segment.checksums_valid() {
            self.counters.bad_checksum += 1;
            return None;
        }
        if is_nonsense(&segment) {
            self.counters.nonsense += 1;
            return None;
        }
        let (source, destination) = (segment.source(), segment.destination());
        if self.backends.contains(&source) {
            Some((segment, Flow { client: destination, backend: source }, true))
        } else if self.backends.contains(&destination) {
            Some((segment, Flow { client: source, backend: destination }, false))
        } else {
            self.counters.not_ours += 1;
            None
        }
    }

    /// The decision on a segment of a fenced flow; `None` if it is not any more.
    fn fenced(
        &mut self,
        segment: &TcpSegment<'_>,
        flow: Flow,
        from_backend: bool,
        gso: bool,
    ) -> Option<Decision> {
        let flags = segment.flags();
        if !from_backend && flags.syn() && !flags.ack() && self.fences.reopen(&flow, segment.seq()) {
            self.counters.fences_lifted += 1;
            return None;
        }
        if !from_backend && flags.rst() && segment.payload().is_empty() {
            self.counters.fenced_resets += 1;
            self.fences.leave(&flow);
            return Some(Decision::PassUnlogged);
        }
        self.counters.fenced_dropped += 1;
        if from_backend || flags.syn() || flags.rst() || segment.payload().is_empty() {
            return Some(Decision::Drop);
        }
        self.counters.fenced_logged += 1;
        Some(Decision::Swallow(Flags::SWALLOWED.with(Flags::GSO, gso)))
    }

    /// What is to be noted of it, and logged instead of its payload, if that is left out.
    fn follow(
        &mut self,
        segment: &TcpSegment<'_>,
        flow: Flow,
        from_backend: bool,
    ) -> (Flags, Option<LeftOut>) {
        let Some((state, forgotten)) = self.flows.get_or_insert(flow) else { return (Flags::EMPTY, None) };
        let flags = state.log(segment, from_backend);
        let left_out = if from_backend { state.left_out(segment, flags) } else { None };
        self.counters.flows_forgotten += u64::from(forgotten);
        self.counters.retransmissions += u64::from(flags.contains(Flags::RETRANSMISSION));
        self.counters.out_of_order += u64::from(flags.contains(Flags::OUT_OF_ORDER));
        (flags, left_out)
    }

    /// Counts why not. What is refused is neither logged nor passed; TCP repeats it. A repetition of what is held says
    /// nothing new, unless it brings data that is missing from the log.
    fn may_hold(&mut self, segment: &TcpSegment<'_>, flow: Flow, ending: Ending) -> bool {
        let repeats = || self.flows.get(&flow).is_some_and(|state| state.repeats(segment));
        if self.held.contains(flow, ending) && (ending == Ending::Reset || repeats()) {
            self.counters.held_duplicates += 1;
            false
        } else if self.held.len() >= self.limits.held {
            self.counters.held_overflow += 1;
            false
        } else {
            true
        }
    }

    fn hold(&mut self, now: Time, id: u32, flow: Flow, ending: Ending, flags: Flags) -> Decision {
        let number = self.next_hold;
        self.next_hold = number.wrapping_add(1);
        self.held.insert(number, Held { id, flow, ending, until: now + self.limits.judgement });
        self.counters.held += 1;
        Decision::Hold(flags | Flags::HELD, number)
    }

    /// A message on control connection `peer`. [`ToLogger::Status`] and [`ToLogger::Fences`] are answered by the caller, from
    /// [`counters`](Self::counters) and [`fenced_flows`](Self::fenced_flows).
    ///
    /// A fence is to be logged first: [`fence_record`](crate::fence_record), as [`Flags::FENCED`].
    ///
    /// A status answer that follows a fence on the same connection says that the fence holds: everything of the flow that
    /// passed is committed, and nothing more will pass.
    pub fn handle_control(&mut self, peer: u64, message: &ToLogger) {
        match message {
            ToLogger::Judge => {
                self.judges.insert(peer);
            }
            ToLogger::Release { hold } => self.judge(*hold, true),
            ToLogger::Suppress { hold } => self.judge(*hold, false),
            ToLogger::Fence(flow) => self.fence(*flow),
            ToLogger::LeaveOut(body) => self.leave_out(body),
            ToLogger::Fences | ToLogger::Status | ToLogger::Reload => {}
        }
    }

    fn leave_out(&mut self, body: &LargeBody) {
        let known = self.flows.get_mut(&body.flow).is_some_and(|state| state.leave_out(body));
        self.counters.large_bodies += u64::from(known);
        self.counters.large_bodies_unknown += u64::from(!known);
    }

    fn judge(&mut self, number: u64, pass: bool) {
        match self.held.remove(number) {
            Some(segment) => {
                self.released.push_back(Released { id: segment.id, pass });
                self.counters.released += u64::from(pass);
                self.counters.suppressed += u64::from(!pass);
            }
            None => self.counters.judgements_unknown += 1,
        }
    }

    fn fence(&mut self, flow: Flow) {
        while let Some(held) = self.held.of_flow(flow).and_then(|number| self.held.remove(number)) {
            self.released.push_back(Released { id: held.id, pass: false });
            self.counters.held_fenced += 1;
        }
        let (isn, connected) = self.flows.remove(&flow).map_or((None, true), |state| state.epoch());
        self.counters.fences += 1;
        self.counters.fences_forgotten += u64::from(self.fences.insert(flow, isn, connected));
    }

    /// Control connection `peer` has ended. Without any judge everything held passes.
    pub fn handle_disconnect(&mut self, peer: u64) {
        if !self.judges.remove(&peer) || !self.judges.is_empty() {
            return;
        }
        while let Some((number, held)) = self.held.first() {
            self.held.remove(number);
            self.released.push_back(Released { id: held.id, pass: true });
            self.counters.judges_lost += 1;
        }
    }

    /// Lets pass what was held for too long; gives how many those were.
    pub fn handle_timeout(&mut self, now: Time) -> usize {
        let mut late = 0;
        while let Some((number, held)) = self.held.first().filter(|(_, held)| held.until <= now) {
            self.held.remove(number);
            self.released.push_back(Released { id: held.id, pass: true });
            late += 1;
        }
        self.counters.judgements_late += late as u64;
        late
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.held.first().map(|(_, held)| held.until)
    }

    /// The next verdict on a packet that was held.
    pub fn poll_release(&mut self) -> Option<Released> {
        self.released.pop_front()
    }

    /// No packet waits for a judgement, nor for a verdict that [`poll_release`](Self::poll_release) would give.
    pub fn holds_nothing(&self) -> bool {
        self.held.len() == 0 && self.released.is_empty()
    }

    /// Events so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Flows of which nothing passes, in order of their names.
    pub fn fenced_flows(&self) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self.fences.flows().collect();
        flows.sort_unstable();
        flows
    }

    /// How full the tables are.
    pub fn gauges(&self) -> [(&'static str, u64); 4] {
        [
            ("flows_now", self.flows.len() as u64),
            ("fenced_now", self.fences.len() as u64),
            ("held_now", self.held.len() as u64),
            ("judges_now", self.judges.len() as u64),
        ]
    }
}

fn ending(segment: &TcpSegment<'_>) -> Option<Ending> {
    let flags = segment.flags();
    if flags.rst() { Some(Ending::Reset) } else { flags.fin().then_some(Ending::Fin) }
}

/// No TCP sends these; what its receiver makes of them is not defined.
fn is_nonsense(segment: &TcpSegment<'_>) -> bool {
    let flags = segment.flags();
    flags.syn() && (flags.fin() || flags.rst()) || !(flags.syn() || flags.ack() || flags.rst())
}
