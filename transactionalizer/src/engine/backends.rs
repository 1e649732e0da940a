//! What the engine keeps of a backend.

use std::collections::{BTreeSet, HashSet};

use cluster::control::{Evidence, Flow};
use packet::Time;

use crate::detector::backend::{Backend, Limits};

/// A backend and its connections.
#[derive(Debug)]
pub(super) struct BackendEntry {
    /// The detector's view.
    pub(super) health: Backend,
    /// Its flows in the table.
    pub(super) flows: HashSet<Flow>,
    /// Flows with a held segment that waits for a second opinion.
    pub(super) asking: BTreeSet<Flow>,
    /// When it last sent data on any connection.
    pub(super) progressed: Time,
    /// Application timeouts since it last completed a response.
    pub(super) timeouts: u32,
    /// Why its state was asked for last.
    pub(super) suspicion: Option<(Evidence, Time)>,
}

impl BackendEntry {
    pub(super) fn new(limits: Limits, now: Time) -> Self {
        Self {
            health: Backend::new(limits, now),
            flows: HashSet::new(),
            asking: BTreeSet::new(),
            progressed: now,
            timeouts: 0,
            suspicion: None,
        }
    }
}
