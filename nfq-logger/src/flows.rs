//! The flows whose sequence numbers are followed: a bounded table that forgets what was not used lately.

use std::collections::HashMap;

use cluster::control::{Flow, LargeBody};
use packet::{Flags as TcpFlags, Seq, TcpSegment};
use segment_log::{Flags, LeftOut};

use crate::large::Rest;
use crate::sequence::Sequence;

/// One connection between a client and a backend.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowState {
    /// The client's initial sequence number: the flow's epoch. `None` if its SYN was not seen.
    isn: Option<Seq>,
    /// Of a later SYN, until the backend accepts it (it may well belong to nobody, RFC 5961 §4).
    candidate: Option<Seq>,
    /// The client's side has acknowledged the backend's answer.
    connected: bool,
    from_client: Option<Sequence>,
    from_backend: Option<Sequence>,
    /// Of the body in progress, if that need not be logged.
    large: Option<Rest>,
}

impl FlowState {
    /// The epoch, if it is known, and whether the client's side has completed its handshake.
    pub(crate) fn epoch(&self) -> (Option<Seq>, bool) {
        (self.isn, self.connected)
    }

    /// All of the backend's segment was logged before.
    pub(crate) fn repeats(&self, segment: &TcpSegment<'_>) -> bool {
        let logged = |sequence: &Sequence| sequence.contains(segment.seq(), segment.sequence_length());
        self.from_backend.as_ref().is_some_and(logged)
    }

    /// Follows a segment that is logged now.
    pub(crate) fn log(&mut self, segment: &TcpSegment<'_>, from_backend: bool) -> Flags {
        let (seq, length) = (segment.seq(), segment.sequence_length());
        if segment.flags().syn() {
            self.handshake(segment, from_backend);
            if self.candidate == Some(seq) && !from_backend {
                return Flags::EMPTY;
            }
        }
        self.connected |= !from_backend && self.from_backend.is_some() && segment.flags().ack();
        let direction = if from_backend { &mut self.from_backend } else { &mut self.from_client };
        direction.get_or_insert_with(|| Sequence::new(seq)).log(seq, length)
    }

    /// The body that is to be left out. `false`: not in this flow, or not any more.
    pub(crate) fn leave_out(&mut self, body: &LargeBody) -> bool {
        let ours = self.isn == Some(Seq(body.client_isn)) && self.candidate.is_none();
        let sequence = self.from_backend.as_ref().filter(|sequence| ours && !sequence.gave_up());
        self.large = sequence.and_then(|sequence| Rest::new(body, sequence.next()));
        self.large.is_some()
    }

    /// What to log instead of the payload of a backend's segment, which was followed just now and noted `flags`.
    pub(crate) fn left_out(&mut self, segment: &TcpSegment<'_>, flags: Flags) -> Option<LeftOut> {
        let over = |rest: &Rest| segment.flags().rst() || rest.is_over(segment.seq());
        if self.from_backend.as_ref().is_none_or(Sequence::gave_up) || self.large.as_ref().is_some_and(over) {
            self.large = None;
        }
        let next = !flags.contains(Flags::RETRANSMISSION) && !flags.contains(Flags::OUT_OF_ORDER);
        self.large.as_mut().filter(|_| next)?.take(segment)
    }

    fn handshake(&mut self, segment: &TcpSegment<'_>, from_backend: bool) {
        if from_backend {
            if self.candidate.is_some_and(|isn| segment.flags().ack() && segment.ack() == isn + 1) {
                // The SYN was logged when it came.
                *self = Self::opened(self.candidate, 1);
            }
        } else if self.from_client.is_none() && self.from_backend.is_none() {
            *self = Self::opened(Some(segment.seq()), 0);
        } else if self.isn != Some(segment.seq()) && !segment.flags().contains(TcpFlags::ACK) {
            self.candidate = Some(segment.seq());
        }
    }

    fn opened(isn: Option<Seq>, logged: u32) -> Self {
        let from_client = isn.map(|isn| Sequence::new(isn + logged));
        Self { isn, from_client, ..Self::default() }
    }
}

#[derive(Debug)]
struct Slot {
    flow: Flow,
    state: FlowState,
    used: bool,
}

/// Flows by name. At the limit the first one that was not used since the hand last passed it is forgotten.
#[derive(Debug)]
pub(crate) struct Flows {
    index: HashMap<Flow, usize>,
    slots: Vec<Slot>,
    hand: usize,
    limit: usize,
}

impl Flows {
    pub(crate) fn new(limit: usize) -> Self {
        Self { index: HashMap::new(), slots: Vec::new(), hand: 0, limit: limit.max(1) }
    }

    /// The flow's state, new if need be; and whether another one was forgotten for it.
    pub(crate) fn get_or_insert(&mut self, flow: Flow) -> Option<(&mut FlowState, bool)> {
        let (place, forgotten) = match self.index.get(&flow) {
            Some(place) => (*place, false),
            None => self.insert(flow),
        };
        let slot = self.slots.get_mut(place)?;
        slot.used = true;
        Some((&mut slot.state, forgotten))
    }

    pub(crate) fn get_mut(&mut self, flow: &Flow) -> Option<&mut FlowState> {
        self.slots.get_mut(*self.index.get(flow)?).map(|slot| &mut slot.state)
    }

    pub(crate) fn get(&self, flow: &Flow) -> Option<&FlowState> {
        self.slots.get(*self.index.get(flow)?).map(|slot| &slot.state)
    }

    /// Forgets a flow, giving what was known of it.
    pub(crate) fn remove(&mut self, flow: &Flow) -> Option<FlowState> {
        let place = self.index.remove(flow)?;
        let slot = self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            self.index.insert(moved.flow, place);
        }
        Some(slot.state)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Flow> {
        self.index.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    fn insert(&mut self, flow: Flow) -> (usize, bool) {
        let slot = Slot { flow, state: FlowState::default(), used: false };
        let forgotten = self.slots.len() >= self.limit;
        let place = if forgotten { self.unused() } else { self.slots.len() };
        match self.slots.get_mut(place) {
            Some(old) => {
                self.index.remove(&old.flow);
                *old = slot;
            }
            None => self.slots.push(slot),
        }
        self.index.insert(flow, place);
        (place, forgotten)
    }

    /// Moves the hand to a flow that was not used lately; after one round there is one.
    fn unused(&mut self) -> usize {
        loop {
            let place = self.hand % self.slots.len().max(1);
            self.hand = place + 1;
            match self.slots.get_mut(place) {
                Some(slot) if slot.used => slot.used = false,
                _ => return place,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow { client: ([10, 0, 0, 1], port).into(), backend: ([10, 0, 1, 1], 80).into() }
    }

    #[test]
    fn at_the_limit_the_unused_go_first() {
        let mut flows = Flows::new(3);
        for port in 1..=3 {
            assert!(!flows.get_or_insert(flow(port)).unwrap().1);
        }
        assert!(flows.get_or_insert(flow(4)).unwrap().1);
        flows.get_or_insert(flow(3)).unwrap();
        assert!(flows.get_or_insert(flow(5)).unwrap().1);
        assert_eq!(flows.len(), 3);
        let mut kept: Vec<u16> = flows.index.keys().map(|flow| flow.client.port()).collect();
        kept.sort_unstable();
        assert_eq!(kept, [3, 4, 5]);
    }

    #[test]
    fn removal_keeps_the_index_right() {
        let mut flows = Flows::new(8);
        for port in 1..=5 {
            flows.get_or_insert(flow(port)).unwrap();
        }
        assert!(flows.remove(&flow(2)).is_some());
        assert!(flows.remove(&flow(2)).is_none());
        for (flow, place) in &flows.index {
            assert_eq!(flows.slots[*place].flow, *flow);
        }
    }
}
