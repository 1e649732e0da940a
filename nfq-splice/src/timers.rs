//! When which connection must be looked at: a heap that is only corrected where it must be.
//!
//! Most timers never run out: they are moved to later, or their connection does not need them any more. So a later time
//! leaves the entry where it is (when it comes due, the connection says when it is really due), and an entry that is not
//! wanted any more stays until it comes due or until such entries are the majority.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use packet::Time;

/// Entries from which it is worth while to remove those that are not wanted any more.
const CLEAN_FROM: usize = 64;

/// Timers of things that are named by `K`.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Time, K)>>,
    /// Entries that are wanted.
    live: usize,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), live: 0 }
    }

    /// `entry` is the time at which `key` is entered, kept by its owner; it is wanted at `wanted`.
    pub(crate) fn set(&mut self, key: K, entry: &mut Option<Time>, wanted: Option<Time>) {
        match (*entry, wanted) {
            (Some(entered), Some(wanted)) if entered <= wanted => {}
            (entered, Some(wanted)) => {
                self.live += usize::from(entered.is_none());
                self.heap.push(Reverse((wanted, key)));
                *entry = Some(wanted);
            }
            (Some(_), None) => {
                self.live -= 1;
                *entry = None;
            }
            (None, None) => {}
        }
    }

    /// The time of the first entry; its connection may say that it is due later.
    pub(crate) fn first(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((time, _))| *time)
    }

    /// Takes out an entry that is due. It counts only if its owner still has this time as its entry: then the owner must
    /// [`Self::taken`].
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(Time, K)> {
        let Reverse((time, key)) = *self.heap.peek()?;
        if time > now {
            return None;
        }
        self.heap.pop();
        Some((time, key))
    }

    /// The entry that was taken out was the owner's.
    pub(crate) fn taken(&mut self, entry: &mut Option<Time>) {
        self.live -= usize::from(entry.take().is_some());
    }

    /// Removes entries that are not their owner's, first of all those in front, and all of them where they are the majority.
    pub(crate) fn clean(&mut self, is_wanted: impl Fn(Time, K) -> bool) {
        while let Some(Reverse((time, key))) = self.heap.peek()
            && !is_wanted(*time, *key)
        {
            self.heap.pop();
        }
        if self.heap.len() > CLEAN_FROM + 2 * self.live {
            self.heap.retain(|Reverse((time, key))| is_wanted(*time, *key));
            self.heap.shrink_to(2 * self.heap.len());
        }
    }

    /// Entries, wanted or not.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use packet::Time;
    use proptest::prelude::*;

    use super::{CLEAN_FROM, Timers};

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Set(u8, Option<u64>),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u8>(), prop::option::of(0..200_u64)).prop_map(|(key, after)| Step::Set(key % 20, after)),
            (0..50_u64).prop_map(Step::Advance),
        ]
    }

    /// Owners, each with its entry and the time at which it really wants to be called.
    type Owners = BTreeMap<u8, (Option<Time>, Option<Time>)>;

    /// As the engine does it: calls those that are due, in a loop.
    fn run_due(timers: &mut Timers<u8>, owners: &mut Owners, now: Time) -> Vec<u8> {
        let mut called = Vec::new();
        while let Some((time, key)) = timers.pop_due(now) {
            let Some((entry, wanted)) = owners.get_mut(&key) else { continue };
            if *entry != Some(time) {
                continue;
            }
            timers.taken(entry);
            if wanted.is_some_and(|wanted| wanted <= now) {
                called.push(key);
                *wanted = None;
            }
            timers.set(key, entry, *wanted);
        }
        timers.clean(|time, key| owners.get(&key).is_some_and(|(entry, _)| *entry == Some(time)));
        called
    }

    proptest! {
        /// Each is called when it is due, once, never early and never late; the heap does not grow.
        #[test]
        fn due_means_due(steps in prop::collection::vec(step(), 0..400)) {
            let (mut timers, mut owners, mut now) = (Timers::new(), Owners::new(), 0);
            for step in steps {
                match step {
                    Step::Set(key, after) => {
                        let wanted = after.map(|after| Time::from_millis(now + after));
                        let owner = owners.entry(key).or_default();
                        owner.1 = wanted;
                        timers.set(key, &mut owner.0, wanted);
                    }
                    Step::Advance(by) => now += by,
                }
                let time = Time::from_millis(now);
                let due: Vec<u8> = owners.iter().filter(|(_, o)| o.1.is_some_and(|w| w <= time)).map(|(k, _)| *k).collect();
                let mut called = run_due(&mut timers, &mut owners, time);
                called.sort_unstable();
                prop_assert_eq!(called, due);
                let next = owners.values().filter_map(|owner| owner.1).min();
                prop_assert!(timers.first().is_none_or(|first| next.is_some_and(|next| first <= next)));
                prop_assert!(next.is_none() || timers.first().is_some());
                prop_assert!(timers.len() <= CLEAN_FROM + 2 * owners.len());
            }
        }
    }
}
