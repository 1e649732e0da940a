//! `scripts/bench log`: the logger beside plain forwarding, the least that an NFQUEUE costs, and what else could record on
//! the same hop. The client talks to the server directly; the proxy's node only routes.

mod contenders;
mod measures;
mod page;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

pub use contenders::Contender;
use contenders::Hop;
pub use measures::Measure;

use super::rows::Row;
use super::splice::{allow_many_files, pin};
use super::taken::Log;
use crate::lab::Lab;

/// Round-trip time of [`Measure::Page`].
const PAGE_RTT: Duration = Duration::from_micros(250);

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Measurements of each contender.
    pub rounds: usize,
    /// Length of each; wrk's are of at least a second.
    pub length: Duration,
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// What is measured.
    pub measures: Vec<Measure>,
}

impl Plan {
    /// As the project's bounds are meant: all contenders, everything.
    pub fn new(rounds: usize, length: Duration) -> Self {
        Self { rounds, length, contenders: Contender::ALL.to_vec(), measures: Measure::ALL.to_vec() }
    }

    /// Everything but the number of rounds, which a resumed run may raise.
    fn identity(&self, version: &str) -> String {
        let Self { rounds: _, length, contenders, measures } = self;
        format!("log {version} {length:?} {contenders:?} {measures:?}")
    }

    /// Every measurement, in order.
    fn steps(&self) -> impl Iterator<Item = (usize, Measure, Contender)> + '_ {
        (1..=self.rounds).flat_map(move |round| {
            self.measures.iter().flat_map(move |measure| {
                let concerned = self.contenders.iter().filter(|contender| measure.concerns(**contender));
                concerned.map(move |contender| (round, *measure, *contender))
            })
        })
    }
}

/// Measures as planned; `log` is where an interrupted run is remembered, and `resume` goes on with it.
pub(super) fn measure(
    lab: &Lab,
    plan: &Plan,
    version: &str,
    (log, resume): (&Path, bool),
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Row>> {
    let processors = pin()?;
    allow_many_files()?;
    let mut log = Log::open(log, &plan.identity(version), resume);
    let mut hops = Hops { base: lab.name().to_owned(), up: BTreeMap::new() };
    log.fill(plan.steps(), progress, |_, _, measure, contender| {
        hops.get(contender, measure).and_then(|hop| hop.measure(measure, plan.length, &processors))
    })?;
    Ok(table::rows(plan, &log.finish()))
}

/// The contenders' labs, brought up when first needed.
struct Hops {
    base: String,
    up: BTreeMap<(Contender, bool), Hop>,
}

impl Hops {
    fn get(&mut self, contender: Contender, measure: Measure) -> Result<&mut Hop> {
        let page = measure == Measure::Page;
        if !self.up.contains_key(&(contender, page)) {
            let (base, rtt) = if page {
                (format!("{}-p", self.base), PAGE_RTT)
            } else {
                (self.base.clone(), Duration::ZERO)
            };
            self.up.insert((contender, page), Hop::up(contender, &base, rtt)?);
        }
        self.up.get_mut(&(contender, page)).context("its lab is not up")
    }
}
