//! Kinds of request: what is expected of the response to `GET /orders/4711` is learnt from `GET /orders/*`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use cluster::control::Tags;

use super::MovingAverage;

/// Path segments that tell kinds apart; what follows them is one kind.
const SEGMENTS: usize = 8;
/// Longer segments are data, not structure.
const LONG_SEGMENT: usize = 32;

/// Kinds of a pool that have been met before a new one is expected to be like them.
const PRIOR_AFTER: u32 = 4;
/// How much more patience a new kind gets than those before it needed when they were new.
const NEW_KIND: u32 = 2;

/// The name of a kind: its method, path template and tags, hashed. A collision merges two kinds, nothing worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KindId(u64);

impl KindId {
    /// The kind of a request with this method and request target.
    pub fn of(method: &str, target: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        method.hash(&mut hasher);
        let path = target.split(['?', '#']).next().unwrap_or_default();
        for segment in path.split('/').take(SEGMENTS + 1) {
            if is_variable(segment) { "*" } else { segment }.hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

impl KindId {
    /// The same with these tags, which the rules may make of more than method and path.
    #[must_use]
    pub fn tagged(self, tags: Tags) -> Self {
        let mut hasher = DefaultHasher::new();
        (self, tags.deterministic, tags.read_only, tags.idempotent).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Numbers, hexadecimal identifiers (dashes allowed, as in UUIDs) and long segments name things, not kinds.
fn is_variable(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().any(u8::is_ascii_digit);
    let all = |test: fn(&u8) -> bool| !bytes.is_empty() && bytes.iter().all(test);
    bytes.len() > LONG_SEGMENT
        || all(u8::is_ascii_digit)
        || (digits && bytes.len() >= 8 && all(|byte| byte.is_ascii_hexdigit() || *byte == b'-'))
}

/// What is known of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Kind {
    /// From the request's last byte to the response's first.
    pub start: MovingAverage,
    /// The longest silence within a response while the backend owed bytes.
    pub gap: MovingAverage,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The beginning of a response.
    Start,
    /// More of it.
    Gap,
}

impl Kind {
    fn part(&self, part: Part) -> &MovingAverage {
        match part {
            Part::Start => &self.start,
            Part::Gap => &self.gap,
        }
    }
}

/// Bounds of the adaptive timeouts, from `[detector]`.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Least timeout.
    pub floor: Duration,
    /// Of kinds of which nothing can be said.
    pub ceiling: Duration,
    /// Greatest timeout of a known kind.
    pub longest: Duration,
}

/// How long a response may take before somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until then nothing is suspicious.
    pub timeout: Duration,
    /// The kind's own history says so.
    pub known: bool,
}

/// A pool's number.
pub type Pool = usize;

/// Bounded table of kinds, each of one pool; those beyond the bound share one entry.
#[derive(Debug)]
pub struct Kinds {
    known: HashMap<(Pool, KindId), Kind>,
    /// How the kinds of each pool were when they were new, and how many there have been.
    priors: HashMap<Pool, (Kind, u32)>,
    common: Kind,
    max: usize,
    /// Samples that went to the common kind because the table was full.
    pub overflowed: u64,
}

impl Kinds {
    /// Learns at most `max` kinds.
    pub fn new(max: usize) -> Self {
        let (known, priors) = (HashMap::new(), HashMap::new());
        Self { known, priors, common: Kind::default(), max, overflowed: 0 }
    }

    /// Another bound; what is known already is kept.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// What is known of a kind.
    pub fn get(&self, pool: Pool, id: KindId) -> &Kind {
        let unknown = || if self.known.len() < self.max { &UNKNOWN } else { &self.common };
        self.known.get(&(pool, id)).unwrap_or_else(unknown)
    }

    /// How long the response may take. A new kind that may be run again without harm (`safe`) starts from what the pool's
    /// kinds were like when they were new, any other one from the ceiling.
    pub fn patience(&self, pool: Pool, id: KindId, part: Part, safe: bool, bounds: &Bounds) -> Patience {
        let average = self.get(pool, id).part(part);
        if average.known() {
            return Patience { timeout: average.timeout(bounds.floor, bounds.longest), known: true };
        }
        let prior = self.priors.get(&pool).filter(|(_, kinds)| safe && *kinds >= PRIOR_AFTER);
        let expected = prior.map(|(kind, _)| kind.part(part)).filter(|average| average.known());
        let timeout = expected.map(|prior| prior.timeout(bounds.floor, bounds.ceiling) * NEW_KIND);
        Patience { timeout: timeout.unwrap_or(bounds.ceiling).min(bounds.ceiling), known: false }
    }

    /// Learns from a finished response.
    pub fn learn(&mut self, pool: Pool, id: KindId, start: Option<Duration>, gap: Option<Duration>) {
        let new = !self.known.contains_key(&(pool, id));
        let full = new && self.known.len() >= self.max;
        self.overflowed += u64::from(full);
        let kind = if full { &mut self.common } else { self.known.entry((pool, id)).or_default() };
        let (prior, kinds) = self.priors.entry(pool).or_default();
        *kinds = kinds.saturating_add(u32::from(new && !full));
        for (sample, own, prior) in
            [(start, &mut kind.start, &mut prior.start), (gap, &mut kind.gap, &mut prior.gap)]
        {
            let Some(sample) = sample else { continue };
            if !own.known() {
                prior.add(sample);
            }
            own.add(sample);
        }
    }

    /// Kinds in the table.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Nothing has been learnt yet.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

static UNKNOWN: Kind = Kind { start: MovingAverage::NONE, gap: MovingAverage::NONE };

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Tags = Tags { deterministic: true, read_only: true, idempotent: true, large_file: false };
    const BOUNDS: Bounds = Bounds {
        floor: Duration::from_millis(200),
        ceiling: Duration::from_secs(5),
        longest: Duration::from_secs(120),
    };

    fn of(target: &str) -> KindId {
        KindId::of("GET", target).tagged(READS)
    }

    fn same(a: &str, b: &str) -> bool {
        of(a) == of(b)
    }

    fn learn(kinds: &mut Kinds, id: KindId, millis: u64, times: u32) {
        (0..times).for_each(|_| kinds.learn(0, id, Some(Duration::from_millis(millis)), None));
    }

    #[test]
    fn identifiers_collapse_and_words_do_not() {
        assert!(same("/orders/4711", "/orders/1?x=2"));
        assert!(same(
            "/u/123e4567-e89b-12d3-a456-426614174000/x",
            "/u/00000000-0000-0000-0000-000000000001/x"
        ));
        assert!(same(&format!("/t/{}", "q".repeat(40)), &format!("/t/{}", "z".repeat(50))));
        assert!(!same("/files/1m", "/files/300m"));
        assert!(!same("/a", "/b"));
        assert!(!same("/deadbeef", "/facefeed"));
        assert_ne!(of("/a"), KindId::of("POST", "/a").tagged(READS));
        assert_ne!(of("/a"), KindId::of("GET", "/a").tagged(Tags::default()));
        assert!(same("/1/2/3/4/5/6/7/8/a", "/1/2/3/4/5/6/7/8/b"));
    }

    #[test]
    fn beyond_the_bound_one_common_kind_learns() {
        let mut kinds = Kinds::new(1);
        let (a, b) = (of("/a"), of("/b"));
        learn(&mut kinds, a, 1, 1);
        learn(&mut kinds, b, 900, 20);
        assert_eq!((kinds.len(), kinds.overflowed), (1, 20));
        assert!(kinds.get(0, b).start.mean() > Duration::from_millis(800));
        assert!(kinds.get(0, a).start.mean() < Duration::from_millis(2));
    }

    #[test]
    fn a_slow_kind_does_not_slow_a_fast_one_and_may_exceed_the_ceiling() {
        let mut kinds = Kinds::new(8);
        let (fast, poll) = (of("/fast"), of("/poll"));
        learn(&mut kinds, fast, 2, 20);
        learn(&mut kinds, poll, 30_000, 20);
        let patience = |id| kinds.patience(0, id, Part::Start, true, &BOUNDS);
        assert_eq!(patience(fast), Patience { timeout: BOUNDS.floor, known: true });
        assert!(patience(poll).timeout >= Duration::from_secs(60), "{:?}", patience(poll));
    }

    #[test]
    fn a_new_kind_is_expected_to_be_like_those_of_its_pool() {
        let mut kinds = Kinds::new(64);
        for name in ["/a", "/b", "/c", "/d"] {
            learn(&mut kinds, of(name), 10, 100);
        }
        let new = |pool, safe| kinds.patience(pool, of("/new"), Part::Start, safe, &BOUNDS);
        assert_eq!(new(0, true), Patience { timeout: 2 * BOUNDS.floor, known: false });
        assert_eq!(new(0, false).timeout, BOUNDS.ceiling, "an update is not run again lightly");
        assert_eq!(new(1, true).timeout, BOUNDS.ceiling, "another pool");
    }

    #[test]
    fn a_pool_with_slow_kinds_is_patient_with_new_ones() {
        let mut kinds = Kinds::new(64);
        for (name, millis) in [("/a", 10), ("/b", 10), ("/c", 10), ("/report", 3000)] {
            learn(&mut kinds, of(name), millis, 8);
        }
        assert_eq!(kinds.patience(0, of("/new"), Part::Start, true, &BOUNDS).timeout, BOUNDS.ceiling);
    }
}
