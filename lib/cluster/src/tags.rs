//! What the rules of `[[tag]]` say of a request (paper §3.1).

use std::borrow::Cow;

use crate::config::TagRule;
use crate::control::Tags;
use crate::pattern;

/// Tags of a request and the index of the rule that decided; the first that matches does. Without one, the conservative
/// default: non-deterministic, update, non-idempotent.
///
/// `host` is without port; `path` without query, as received. A path that the server may read differently than it is
/// written (percent-encoding, `//`, dot segments) must be decided by the same rule both ways, or gets the default:
/// `/static/../order` is not static.
pub fn tags_for(rules: &[TagRule], method: &str, host: Option<&str>, path: &str) -> (Tags, Option<usize>) {
    let decide = |path: &[u8]| rules.iter().position(|rule| matches(rule, method, host, path));
    let written = decide(path.as_bytes());
    let index = match resolved(path.as_bytes()) {
        Cow::Borrowed(_) => written,
        Cow::Owned(read) => written.filter(|index| decide(&read) == Some(*index)),
    };
    (index.and_then(|index| rules.get(index)).map(TagRule::tags).unwrap_or_default(), index)
}

impl TagRule {
    /// What this rule says.
    pub fn tags(&self) -> Tags {
        Tags { deterministic: self.deterministic, read_only: self.read_only, idempotent: self.idempotent }
    }
}

fn matches(rule: &TagRule, method: &str, host: Option<&str>, path: &[u8]) -> bool {
    rule.method.as_ref().is_none_or(|methods| methods.iter().any(|m| m == method))
        && rule.host.as_ref().is_none_or(|wanted| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted)))
        && rule.path.as_ref().is_none_or(|pattern| pattern::matches(pattern, path))
}

/// The path as a server may understand it: decoded, without empty and dot segments. Borrowed if it is the same.
fn resolved(path: &[u8]) -> Cow<'_, [u8]> {
    let decoded = decode(path);
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut trailing_slash = false;
    for segment in decoded.split(|b| *b == b'/') {
        trailing_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let end: &[u8] = if trailing_slash && !segments.is_empty() { b"/" } else { b"" };
    let read = [b"/", segments.join(&b'/').as_slice(), end].concat();
    if read == path || !path.starts_with(b"/") { Cow::Borrowed(path) } else { Cow::Owned(read) }
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        let escaped =
            if *byte == b'%' { tail.first_chunk().and_then(|digits| hex_byte(*digits)) } else { None };
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    decoded
}

fn hex_byte(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(method: Option<&[&str]>, host: Option<&str>, path: Option<&str>) -> TagRule {
        TagRule {
            method: method.map(|methods| methods.iter().map(ToString::to_string).collect()),
            host: host.map(str::to_owned),
            path: path.map(str::to_owned),
            deterministic: true,
            read_only: true,
            idempotent: false,
        }
    }

    fn decided(rules: &[TagRule], method: &str, host: Option<&str>, path: &str) -> Option<usize> {
        let (tags, index) = tags_for(rules, method, host, path);
        assert_eq!(tags == Tags::default(), index.is_none());
        index
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = [
            rule(Some(&["GET", "HEAD"]), None, Some("/files/**")),
            rule(None, Some("Img.example"), None),
            rule(Some(&["GET"]), None, Some("/**")),
        ];
        for (method, host, path, index) in [
            ("GET", None, "/files/a/b", Some(0)),
            ("HEAD", Some("img.example"), "/files/", Some(0)),
            ("POST", Some("IMG.EXAMPLE"), "/files/a", Some(1)),
            ("GET", Some("other"), "/x", Some(2)),
            ("get", None, "/files/a", None),
            ("POST", None, "/x", None),
            ("OPTIONS", None, "*", None),
        ] {
            assert_eq!(decided(&rules, method, host, path), index, "{method} {host:?} {path}");
        }
    }

    #[test]
    fn what_can_be_read_as_another_path_gets_the_default() {
        let rules = [rule(None, None, Some("/static/**"))];
        for path in [
            "/static/../order",
            "/static/%2e%2e/order",
            "/static/x/../../order",
            "/static/..",
            "/static/%2E%2e%2forder",
        ] {
            assert_eq!(decided(&rules, "GET", None, path), None, "{path}");
        }
        for path in [
            "/static/a%20b",
            "/static/a//b",
            "/static/./a",
            "/static/%",
            "/static/100%",
            "/static/%zz",
            "/static/a/../b",
        ] {
            assert_eq!(decided(&rules, "GET", None, path), Some(0), "{path}");
        }
        let exception = [rule(None, None, Some("/order")), rule(None, None, Some("/**"))];
        assert_eq!(decided(&exception, "GET", None, "//order"), None);
        assert_eq!(decided(&exception, "GET", None, "/%6frder"), None);
        assert_eq!(decided(&exception, "GET", None, "/order"), Some(0));
    }

    proptest! {
        #[test]
        fn resolving_is_idempotent_and_leaves_no_dots(path in "/[a./%2eE]{0,30}") {
            let once = resolved(path.as_bytes()).into_owned();
            prop_assert!(!once.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b"..")));
            prop_assert!(!once.windows(2).any(|pair| pair == b"//"));
            prop_assert!(once.starts_with(b"/"));
        }

        #[test]
        fn any_path_is_survived(path in ".{0,60}") {
            let _ = tags_for(&[rule(None, None, Some("/**"))], "GET", Some("h"), &path);
        }
    }
}
