//! The fields of one head, with the bytes they came from.

use std::ops::Range;

/// Fields of a message head, in order, case and spelling as received.
#[derive(Clone, PartialEq, Eq)]
pub struct Fields {
    raw: Box<[u8]>,
    spans: Box<[Span]>,
}

/// Offsets of 32 bits: no head is longer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    name: Range<u32>,
    value: Range<u32>,
}

impl Fields {
    /// `raw` is a whole head, `parsed` what httparse found in it.
    pub(crate) fn new(raw: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        let span = |header: &httparse::Header<'_>| Span {
            name: place(raw, header.name.as_bytes()),
            value: place(raw, header.value),
        };
        Self { spans: parsed.iter().map(span).collect(), raw: raw.into() }
    }

    /// The whole head as received, leading empty lines and the final one included.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Name and value of each field.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|span| (self.slice(&span.name), self.slice(&span.value)))
    }

    /// The values of all fields called `name`, compared without case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The value of the first field called `name`, compared without case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The same as text, if it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The members of a comma-separated list that may be spread over several fields. What is not text appears empty.
    pub(crate) fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name)
            .flat_map(|value| std::str::from_utf8(value).unwrap_or_default().split(','))
            .map(|token| token.trim_matches([' ', '\t']))
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.raw.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

/// Where `part`, a slice of `whole`, lies in it. An empty one may lie anywhere.
fn place(whole: &[u8], part: &[u8]) -> Range<u32> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start as u32..(start + part.len()) as u32
}
