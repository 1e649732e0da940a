//! Events by name, for operators. Names say what happened, like verdicts.

use std::collections::BTreeMap;

/// Counts since start.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// One more of `event`.
    pub(crate) fn count(&mut self, event: &'static str) {
        *self.0.entry(event).or_default() += 1;
    }

    /// All of them.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }
}
