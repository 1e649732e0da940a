//! Flows of which nothing passes any more, until they are opened anew.

use std::collections::{HashMap, VecDeque};

use cluster::control::Flow;
use packet::{SegmentBuilder, Seq, TcpSegment};

/// The packet of a fence's record in the segment log ([`Flags::FENCED`](segment_log::Flags::FENCED)): from the flow's client to its
/// backend, with no flag and no byte, as no TCP sends it.
pub fn fence_record(flow: Flow) -> Vec<u8> {
    SegmentBuilder::new(flow.client, flow.backend).build()
}

/// The flow that a record of a fence names, or that a client's SYN opens.
pub(crate) fn recorded_flow(packet: &[u8]) -> Option<Flow> {
    let segment = TcpSegment::parse(packet).ok()?;
    Some(Flow { client: segment.source(), backend: segment.destination() })
}

/// Which epoch of the flow is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fence {
    isn: Option<Seq>,
    /// The client's side has acknowledged the backend's answer, or has reset it since: it does not repeat its SYN.
    connected: bool,
    number: u64,
}

/// Bounded; at the limit the oldest fence is forgotten.
#[derive(Debug)]
pub(crate) struct Fences {
    by_flow: HashMap<Flow, Fence>,
    /// In order of making; entries whose number is not the flow's fence's are void.
    order: VecDeque<(u64, Flow)>,
    made: u64,
    limit: usize,
}

impl Fences {
    pub(crate) fn new(limit: usize) -> Self {
        Self { by_flow: HashMap::new(), order: VecDeque::new(), made: 0, limit: limit.max(1) }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_flow.len()
    }

    pub(crate) fn contains(&self, flow: &Flow) -> bool {
        !self.by_flow.is_empty() && self.by_flow.contains_key(flow)
    }

    /// All of them.
    pub(crate) fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        self.by_flow.keys().copied()
    }

    /// Fences the flow's epoch: the client's `isn`, if known, and whether the client's side had acknowledged the answer to its
    /// SYN. Gives whether an older fence was forgotten for it. A flow that is fenced already stays as it is.
    pub(crate) fn insert(&mut self, flow: Flow, isn: Option<Seq>, connected: bool) -> bool {
        if self.by_flow.contains_key(&flow) {
            return false;
        }
        self.made += 1;
        self.by_flow.insert(flow, Fence { isn, connected, number: self.made });
        self.order.push_back((self.made, flow));
        self.forget_oldest()
    }

    fn forget_oldest(&mut self) -> bool {
        let before = self.by_flow.len();
        while self.by_flow.len() > self.limit || self.order.len() > 2 * self.limit {
            let Some((number, flow)) = self.order.pop_front() else { break };
            if self.by_flow.get(&flow).is_some_and(|fence| fence.number == number) {
                self.by_flow.remove(&flow);
            }
        }
        self.by_flow.len() < before
    }

    /// It has been opened anew.
    pub(crate) fn remove(&mut self, flow: &Flow) -> bool {
        self.by_flow.remove(flow).is_some()
    }

    /// The client's side has reset the fenced epoch: it is done with it.
    pub(crate) fn leave(&mut self, flow: &Flow) {
        if let Some(fence) = self.by_flow.get_mut(flow) {
            fence.connected = true;
        }
    }

    /// A SYN of the client's side: lifts the fence, unless it can be a repetition of the fenced epoch's own SYN. A replay
    /// of all the client has sent starts at the same number again, so an equal number is new once the old one's answer was
    /// acknowledged: whoever lacks that answer repeats its SYN, of which the report says nothing.
    pub(crate) fn reopen(&mut self, flow: &Flow, isn: Seq) -> bool {
        let repeated = |fence: &Fence| fence.isn == Some(isn) && !fence.connected;
        match self.by_flow.get(flow) {
            Some(fence) if !repeated(fence) => self.remove(flow),
            _ => false,
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
    fn only_a_new_opening_lifts_it() {
        let mut fences = Fences::new(4);
        fences.insert(flow(1), Some(Seq(5)), false);
        assert!(!fences.reopen(&flow(1), Seq(5)));
        assert!(fences.reopen(&flow(1), Seq(6)));
        assert!(!fences.contains(&flow(1)));
        fences.insert(flow(1), Some(Seq(6)), true);
        assert!(fences.reopen(&flow(1), Seq(6)));
        fences.insert(flow(1), Some(Seq(6)), false);
        fences.leave(&flow(1));
        assert!(fences.reopen(&flow(1), Seq(6)));
    }

    #[test]
    fn at_the_limit_the_oldest_goes() {
        let mut fences = Fences::new(2);
        assert!(!fences.insert(flow(1), None, true));
        assert!(!fences.insert(flow(2), None, true));
        assert!(!fences.insert(flow(1), None, true));
        assert!(fences.insert(flow(3), None, true));
        assert!(!fences.contains(&flow(1)) && fences.contains(&flow(2)) && fences.contains(&flow(3)));
    }

    #[test]
    fn fencing_and_lifting_for_ever_stays_bounded() {
        let mut fences = Fences::new(3);
        for n in 0..1000 {
            assert!(!fences.insert(flow(7), Some(Seq(n)), true));
            assert!(fences.reopen(&flow(7), Seq(n + 1)));
            assert!(fences.order.len() <= 6);
        }
    }
}
