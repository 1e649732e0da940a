//! Kinds of request: what is expected of the response to `GET /orders/4711` is learnt from `GET /orders/*`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::MovingAverage;

/// Path segments that tell kinds apart; what follows them is one kind.
const SEGMENTS: usize = 8;
/// Longer segments are data, not structure.
const LONG_SEGMENT: usize = 32;

/// The name of a kind: its method and path template, hashed. A collision merges two kinds, nothing worse.
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

/// Bounded table of kinds; those beyond the bound share one entry.
#[derive(Debug)]
pub struct Kinds {
    known: HashMap<KindId, Kind>,
    common: Kind,
    max: usize,
    /// Samples that went to the common kind because the table was full.
    pub overflowed: u64,
}

impl Kinds {
    /// Learns at most `max` kinds.
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), common: Kind::default(), max, overflowed: 0 }
    }

    /// What is known of a kind.
    pub fn get(&self, id: KindId) -> &Kind {
        let unknown = || if self.known.len() < self.max { &UNKNOWN } else { &self.common };
        self.known.get(&id).unwrap_or_else(unknown)
    }

    /// Learns from a finished response.
    pub fn learn(&mut self, id: KindId, start: Option<Duration>, gap: Option<Duration>) {
        let full = self.known.len() >= self.max && !self.known.contains_key(&id);
        self.overflowed += u64::from(full);
        let kind = if full { &mut self.common } else { self.known.entry(id).or_default() };
        if let Some(sample) = start {
            kind.start.add(sample);
        }
        if let Some(sample) = gap {
            kind.gap.add(sample);
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

    fn same(a: &str, b: &str) -> bool {
        KindId::of("GET", a) == KindId::of("GET", b)
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
        assert_ne!(KindId::of("GET", "/a"), KindId::of("POST", "/a"));
        assert!(same("/1/2/3/4/5/6/7/8/a", "/1/2/3/4/5/6/7/8/b"));
    }

    #[test]
    fn beyond_the_bound_one_common_kind_learns() {
        let mut kinds = Kinds::new(1);
        let (a, b) = (KindId::of("GET", "/a"), KindId::of("GET", "/b"));
        kinds.learn(a, Some(Duration::from_millis(1)), None);
        (0..20).for_each(|_| kinds.learn(b, Some(Duration::from_millis(900)), None));
        assert_eq!((kinds.len(), kinds.overflowed), (1, 20));
        assert!(kinds.get(b).start.mean() > Duration::from_millis(800));
        assert!(kinds.get(a).start.mean() < Duration::from_millis(2));
    }
}
