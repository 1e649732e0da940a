//! One rule, ready to be matched: patterns taken apart once, not for each request.

use http1::RequestHead;
use regex_lite::{Regex, RegexBuilder};

use super::resolved::decode;
use super::{Answered, Asked};
use crate::config::{HeaderMatch, TagRule};
use crate::control::Tags;
use crate::pattern::Pattern;

/// Longest regular expression, bytes.
const MAX_REGEX: usize = 512;
/// Memory of a regular expression, bytes: it bounds the time for each byte that is searched, too.
const REGEX_BYTES: usize = 64 << 10;

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Place in the configuration, from 0.
    pub index: usize,
    /// It comes from the included set of this name, where this is its place.
    pub set: Option<(String, usize)>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.set {
            None => write!(f, "tag[{}]", self.index),
            Some((set, inside)) => write!(f, "tag[{}], {set}[{inside}]", self.index),
        }
    }
}

/// Whether a rule matches a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// It does not, whatever the response.
    No,
    /// It does if the response is as it says.
    Open,
    /// It does.
    Yes,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Where it stands.
    pub origin: Origin,
    /// As written.
    pub written: TagRule,
    /// What it says.
    pub tags: Tags,
    path: Option<Pattern>,
    path_regex: Option<Regex>,
}

impl Rule {
    /// `written` has been checked; a regular expression that is none matches nothing.
    pub(super) fn new(written: &TagRule, origin: Origin) -> Self {
        Self {
            origin,
            tags: written.tags(),
            path: written.path.as_deref().map(Pattern::new),
            path_regex: written.path_regex.as_deref().and_then(|text| regex(text).ok()),
            written: written.clone(),
        }
    }

    /// `path`: the asked one, or how its server may read it.
    pub(super) fn matches(&self, asked: &Asked<'_>, path: &[u8], answered: Option<&Answered<'_>>) -> Matched {
        let depends = self.written.status.is_some() || self.written.content_type.is_some();
        match answered {
            _ if !self.fits_request(asked, path) => Matched::No,
            None if depends => Matched::Open,
            Some(answered) if depends && !self.fits_response(answered) => Matched::No,
            _ => Matched::Yes,
        }
    }

    /// Whether a rule that was open matches, now that the response is known. The path is taken as written: a rule is left open
    /// only where it matches the path however that is read.
    pub fn decides(&self, asked: &Asked<'_>, answered: &Answered<'_>) -> bool {
        self.matches(asked, asked.path.as_bytes(), Some(answered)) == Matched::Yes
    }

    fn fits_request(&self, asked: &Asked<'_>, path: &[u8]) -> bool {
        let rule = &self.written;
        let host = |wanted: &String| asked.host.is_some_and(|host| host.eq_ignore_ascii_case(wanted));
        rule.method.as_ref().is_none_or(|methods| methods.iter().any(|method| method == asked.method))
            && rule.host.as_ref().is_none_or(host)
            && self.path.as_ref().is_none_or(|pattern| pattern.matches(path))
            && (rule.path_regex.is_none() || self.found_in(path))
            && rule.query.iter().all(|wanted| query_fits(wanted, asked.query.unwrap_or_default()))
            && rule.headers.iter().all(|wanted| asked.head.is_some_and(|head| wanted.fits(head)))
            && rule.cookies.iter().all(|wanted| asked.head.is_some_and(|head| wanted.fits(head)))
    }

    fn found_in(&self, path: &[u8]) -> bool {
        let text = std::str::from_utf8(path).ok();
        self.path_regex.as_ref().zip(text).is_some_and(|(regex, text)| regex.is_match(text))
    }

    fn fits_response(&self, answered: &Answered<'_>) -> bool {
        let of_status = |text: &String| status(text).is_some_and(|codes| codes.contains(&answered.status));
        let of_type = |wanted: &String| answered.content_type.is_some_and(|given| is_media(wanted, given));
        self.written.status.as_ref().is_none_or(|texts| texts.iter().any(of_status))
            && self.written.content_type.as_ref().is_none_or(|texts| texts.iter().any(of_type))
    }
}

/// Every parameter of this name must have the value: servers differ in which of several they take.
fn query_fits(wanted: &HeaderMatch, query: &str) -> bool {
    let mut values = query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name) == wanted.name.as_bytes()).then(|| decoded(value))
    });
    let fits = |value: Vec<u8>| {
        wanted.value.as_deref().is_none_or(|whole| value == whole.as_bytes())
            && wanted.prefix.as_deref().is_none_or(|prefix| value.starts_with(prefix.as_bytes()))
    };
    values.next().is_some_and(fits) && values.all(fits)
}

/// As forms encode it: a plus is a space.
fn decoded(text: &str) -> Vec<u8> {
    decode(text.replace('+', " ").as_bytes())
}

/// A regular expression within bounds, or why it is none.
pub(crate) fn regex(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_REGEX {
        return Err(format!("it is longer than {MAX_REGEX} bytes"));
    }
    RegexBuilder::new(text).size_limit(REGEX_BYTES).build().map_err(|error| error.to_string())
}

/// The codes of `404` or `4xx`.
pub(crate) fn status(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let digit = |byte: u8| (b'1'..=b'5').contains(&byte).then(|| u16::from(byte - b'0') * 100);
    match text.as_bytes() {
        [class, b'x', b'x'] => digit(*class).map(|first| first..=first + 99),
        [class, tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit() => {
            let code = digit(*class)? + u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
            Some(code..=code)
        }
        _ => None,
    }
}

/// Type and subtype of `text/html` or `image/*`.
pub(crate) fn media(text: &str) -> Option<(&str, &str)> {
    let (kind, subtype) = text.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b))
    };
    (plain(kind) && plain(subtype)).then_some((kind, subtype))
}

fn is_media(wanted: &str, given: &str) -> bool {
    let given = given.split(';').next().unwrap_or_default().trim();
    let (Some((kind, subtype)), Some(given)) = (media(wanted), media(given)) else { return false };
    kind.eq_ignore_ascii_case(given.0) && (subtype == "*" || subtype.eq_ignore_ascii_case(given.1))
}

impl crate::config::HeaderMatch {
    /// One of the request's fields called so has the value.
    pub fn fits(&self, request: &RequestHead) -> bool {
        request.fields.all(&self.name).any(|value| {
            self.value.as_deref().is_none_or(|whole| value == whole.as_bytes())
                && self.prefix.as_deref().is_none_or(|prefix| value.starts_with(prefix.as_bytes()))
        })
    }
}

impl crate::config::CookieMatch {
    /// One of the request's cookies called so has the value.
    pub fn fits(&self, request: &RequestHead) -> bool {
        let fits = |value: &[u8]| self.value.as_deref().is_none_or(|whole| value == whole.as_bytes());
        request.cookies(&self.name).any(fits)
    }
}
