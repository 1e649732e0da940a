//! What the heads of requests and responses have in common: lines, their ends, versions, body lengths.

use crate::field::Fields;

/// Why a message is not accepted, with the status that tells its sender. For a response from a backend
/// the status is 502; nobody is sent it, the connection is unrecoverable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({status})")]
pub struct Refusal {
    /// 400, 414, 431, 501, 502 or 505.
    pub status: u16,
    /// For logs, and for the answer's body.
    pub reason: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }

    /// The same complaint about a backend's bytes.
    pub(crate) const fn of_response(self) -> Self {
        Self::new(502, self.reason)
    }
}

/// Protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: closes after one response unless agreed otherwise; knows no transfer coding.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    pub(crate) fn of(minor: Option<u8>) -> Self {
        if minor == Some(0) { Self::Http10 } else { Self::Http11 }
    }
}

/// Finds the end of a head that arrives in pieces, and refuses at once what no head may contain.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    state: Line,
    /// Content has been seen: the request or status line has begun.
    begun: bool,
    /// The first line is complete.
    first_line_ended: bool,
    seen: usize,
    max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    StartCr,
    Inside,
    InsideCr,
}

impl Scan {
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Line::Start, begun: false, first_line_ended: false, seen: 0, max }
    }

    /// Index after the empty line that ends the head, if it is in `bytes`, which follow those of earlier calls.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            self.seen += 1;
            at += 1;
            if self.step(*byte)? {
                return Ok(Some(at));
            }
            if self.seen >= self.max {
                return Err(self.too_large());
            }
            at += self.skip(bytes.get(at..).unwrap_or_default());
        }
        Ok(None)
    }

    /// Passes over what stands within a line and means nothing here; gives its length, which leaves room for one byte more.
    fn skip(&mut self, rest: &[u8]) -> usize {
        if self.state != Line::Inside {
            return 0;
        }
        let rest = rest.get(..self.max - self.seen - 1).unwrap_or(rest);
        let plain = memchr::memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
        self.seen += plain;
        plain
    }

    fn step(&mut self, byte: u8) -> Result<bool, Refusal> {
        self.state = match (self.state, byte) {
            (_, 0) => return Err(Refusal::bad("NUL in the head")),
            (Line::Start, b'\r') => Line::StartCr,
            (Line::Inside, b'\r') => Line::InsideCr,
            (Line::StartCr, b'\n') if self.begun => return Ok(true),
            // RFC 9112 §2.2: empty lines before the first one are tolerated.
            (Line::StartCr, b'\n') => Line::Start,
            (Line::InsideCr, b'\n') => {
                self.first_line_ended = true;
                Line::Start
            }
            (Line::StartCr | Line::InsideCr, _) => {
                return Err(Refusal::bad("carriage return without line feed"));
            }
            (_, b'\n') => return Err(Refusal::bad("line feed without carriage return")),
            (Line::Start | Line::Inside, _) => {
                self.begun = true;
                Line::Inside
            }
        };
        Ok(false)
    }

    fn too_large(&self) -> Refusal {
        if self.first_line_ended || !self.begun {
            Refusal::new(431, "request head too large")
        } else {
            Refusal::new(414, "request target too long")
        }
    }
}

/// Length of the empty lines before the first line.
pub(crate) fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

pub(crate) fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::Version => Refusal::new(505, "only HTTP/1.0 and HTTP/1.1 are served"),
        httparse::Error::TooManyHeaders => Refusal::new(431, "too many fields in the head"),
        httparse::Error::HeaderName => Refusal::bad("bad field name, folded line or space before the colon"),
        httparse::Error::HeaderValue => Refusal::bad("control character in a field value"),
        httparse::Error::Token => Refusal::bad("malformed request line"),
        httparse::Error::Status => Refusal::bad("malformed status line"),
        httparse::Error::NewLine => Refusal::bad("malformed line end"),
    }
}

/// The transfer codings of a message, in order of application, lower case; `None` without the field.
pub(crate) fn transfer_codings(fields: &Fields) -> Option<Vec<String>> {
    fields.get("transfer-encoding")?;
    Some(fields.tokens("transfer-encoding").map(str::to_ascii_lowercase).collect())
}

/// The one valid `Content-Length`. Lengths beyond 2⁶³ − 1 count as overflow, so that positions can be added.
pub(crate) fn content_length(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let mut values = fields.all("content-length");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::bad("several Content-Length fields"));
    }
    let invalid = Refusal::bad("invalid Content-Length");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(invalid);
    }
    let digits = std::str::from_utf8(value).map_err(|_| invalid)?;
    digits.parse::<i64>().map(|length| Some(length.unsigned_abs())).map_err(|_| invalid)
}

/// RFC 9112 §9.3.
pub(crate) fn keep_alive(version: Version, fields: &Fields) -> bool {
    let has = |option: &str| fields.tokens("connection").any(|token| token.eq_ignore_ascii_case(option));
    !has("close") && (version == Version::Http11 || has("keep-alive"))
}
