//! What the engine keeps of a backend.

use std::collections::BTreeSet;

use cluster::control::{Evidence, Flow};
use packet::Time;

use crate::detector::backend::Backend;
use crate::detector::kinds::Pool;
use crate::detector::limits::Limits;
use crate::detector::margin::Margin;

/// A backend and its connections.
#[derive(Debug)]
pub(super) struct BackendEntry {
    /// The detector's view.
    pub(super) health: Backend,
    /// Flows with a held segment that waits for a second opinion.
    pub(super) asking: BTreeSet<Flow>,
    /// When it last sent data on any connection.
    pub(super) progressed: Time,
    /// The pool whose kinds of request its answers tell of.
    pub(super) pool: Pool,
    /// Flows on which its application is late.
    pub(super) late: BTreeSet<Flow>,
    /// How much later than usual it may be.
    pub(super) margin: Margin,
    /// When its application last answered a check, and when that check began.
    pub(super) answered: Time,
    /// When one of its processes last was seen to end: its other connections end with it.
    pub(super) premature: Option<Time>,
    /// It is down because its application seemed to be.
    pub(super) down_by_timeout: bool,
    /// Why its state was asked for last.
    pub(super) suspicion: Option<(Evidence, Time)>,
}

impl BackendEntry {
    pub(super) fn new(limits: Limits, pool: Pool, now: Time) -> Self {
        Self {
            health: Backend::new(limits, now),
            asking: BTreeSet::new(),
            progressed: now,
            pool,
            late: BTreeSet::new(),
            margin: Margin::new(now),
            answered: Time::default(),
            premature: None,
            down_by_timeout: false,
            suspicion: None,
        }
    }
}
