//! What alternates answered differently: counted by kind of request, the last ones kept.

use std::collections::{BTreeMap, VecDeque};

use cluster::control::{Mismatch, Mismatches};

/// Kinds that are counted apart; further ones are counted together.
const KINDS: usize = 256;
/// What the further ones are called.
const OTHERS: &str = "others";
/// Mismatches that are kept.
const LAST: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Seen {
    kinds: BTreeMap<String, u64>,
    last: VecDeque<Mismatch>,
}

impl Seen {
    pub(super) fn add(&mut self, mismatch: Mismatch) {
        let known = self.kinds.contains_key(&mismatch.kind) || self.kinds.len() < KINDS;
        let kind = if known { mismatch.kind.clone() } else { OTHERS.to_owned() };
        *self.kinds.entry(kind).or_default() += 1;
        self.last.push_back(mismatch);
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }

    pub(super) fn list(&self) -> Mismatches {
        Mismatches { kinds: self.kinds.clone(), last: self.last.iter().cloned().collect() }
    }
}

/// A request without its query, and with `*` for segments of its path that hold a digit: they mostly name one object.
pub(super) fn kind(request: &str) -> String {
    let path = request.split('?').next().unwrap_or_default();
    let names_object = |segment: &str| segment.bytes().any(|byte| byte.is_ascii_digit());
    let segment = |segment| if names_object(segment) { "*" } else { segment };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_leave_out_what_names_one_object() {
        for (request, expected) in [
            ("GET /a/b?c=1", "GET /a/b"),
            ("GET /user/17/posts/a1b2", "GET /user/*/posts/*"),
            ("POST /", "POST /"),
            ("NOOP", "NOOP"),
            ("", ""),
        ] {
            assert_eq!(kind(request), expected);
        }
    }

    #[test]
    fn kinds_are_bounded() {
        let mut seen = Seen::default();
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
        for number in 0..1000 {
            let kind = format!("GET /{}", "x".repeat(number));
            seen.add(Mismatch {
                at_ms: 0,
                flow: cluster::control::Flow { client: address, backend: address },
                alternate: address,
                request: kind.clone(),
                kind,
                position: 0,
                before: Vec::new(),
                logged: Vec::new(),
                sent: Vec::new(),
            });
        }
        let list = seen.list();
        assert_eq!((list.kinds.len(), list.kinds[OTHERS], list.last.len()), (KINDS + 1, 744, LAST));
    }
}
