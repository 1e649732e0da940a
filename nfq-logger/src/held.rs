//! Segments that wait for a judgement.

use std::collections::{BTreeMap, BTreeSet};

use cluster::control::Flow;
use packet::Time;

/// What a held segment ends its connection with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Fin,
    Reset,
}

/// A segment without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// The queue's number for the packet.
    pub(crate) id: u32,
    pub(crate) flow: Flow,
    pub(crate) ending: Ending,
    /// Not held any longer than this. Never decreases with the hold number.
    pub(crate) until: Time,
}

/// By hold number, and by flow.
#[derive(Debug, Default)]
pub(crate) struct HeldSegments {
    by_number: BTreeMap<u64, Held>,
    by_flow: BTreeSet<(Flow, Ending, u64)>,
}

impl HeldSegments {
    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(crate) fn contains(&self, flow: Flow, ending: Ending) -> bool {
        self.by_flow.range((flow, ending, 0)..=(flow, ending, u64::MAX)).next().is_some()
    }

    pub(crate) fn insert(&mut self, number: u64, held: Held) {
        self.by_flow.insert((held.flow, held.ending, number));
        self.by_number.insert(number, held);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.by_number.remove(&number)?;
        self.by_flow.remove(&(held.flow, held.ending, number));
        Some(held)
    }

    /// The number of one that the flow has here.
    pub(crate) fn of_flow(&self, flow: Flow) -> Option<u64> {
        let range = (flow, Ending::Fin, 0)..=(flow, Ending::Reset, u64::MAX);
        self.by_flow.range(range).next().map(|(_, _, number)| *number)
    }

    /// The one that has been held longest.
    pub(crate) fn first(&self) -> Option<(u64, Held)> {
        self.by_number.first_key_value().map(|(number, held)| (*number, *held))
    }
}
