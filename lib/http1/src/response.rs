//! Response heads (RFC 9112 §4, §6.3; RFC 9110 §13–15).

use std::mem::MaybeUninit;

use crate::MAX_FIELDS;
use crate::field::Fields;
use crate::head::{self, Refusal, Scan, Version};

/// How the end of a response's body is found (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is no body.
    None,
    /// So many bytes, at least 1.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
    /// After 101, or a CONNECT that succeeded, the connection no longer speaks HTTP.
    Opaque,
}

/// `Content-Range: bytes first-last/complete`, positions from 0, `last` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte position.
    pub first: u64,
    /// Last byte position, not less than `first`.
    pub last: u64,
    /// Complete length of the representation, greater than `last`; `None` if the server does not know it.
    pub complete: Option<u64>,
}

/// A complete response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// Protocol version.
    pub version: Version,
    /// What follows the head, given the request's method.
    pub framing: ResponseFraming,
    /// The server goes on after this response.
    pub keep_alive: bool,
    /// Length in bytes, the final empty line included.
    pub head_bytes: usize,
    /// All fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// The value of the first field called `name`, compared without case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// `ETag`, with its quotes and `W/`.
    pub fn etag(&self) -> Option<&str> {
        self.fields.text("etag")
    }

    /// `Last-Modified`, as received.
    pub fn last_modified(&self) -> Option<&str> {
        self.fields.text("last-modified")
    }

    /// `Accept-Ranges` lists `bytes`.
    pub fn accepts_byte_ranges(&self) -> bool {
        self.fields.tokens("accept-ranges").any(|unit| unit.eq_ignore_ascii_case("bytes"))
    }

    /// `Content-Range`, if it is a valid byte range.
    pub fn content_range(&self) -> Option<ContentRange> {
        self.fields.text("content-range").and_then(content_range)
    }

    /// `Content-Encoding`, as received.
    pub fn content_encoding(&self) -> Option<&str> {
        self.fields.text("content-encoding")
    }

    /// An interim response (1xx other than 101): the final one follows.
    pub fn interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// `raw` ends with the head's empty line.
    pub(crate) fn parse(raw: &[u8], kind: RequestKind) -> Result<Self, Refusal> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let status = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, raw, &mut headers)
            .map_err(|error| head::refusal(error).of_response())?;
        let Some(code @ 100..=599) = response.code else {
            return Err(Refusal::new(502, "status outside 100 to 599"));
        };
        if status != httparse::Status::Complete(raw.len()) || u32::try_from(raw.len()).is_err() {
            return Err(Refusal::new(502, "malformed head"));
        }
        let version = Version::of(response.version);
        Self::understand(code, version, kind, Fields::new(raw, response.headers))
            .map_err(Refusal::of_response)
    }

    fn understand(status: u16, version: Version, kind: RequestKind, fields: Fields) -> Result<Self, Refusal> {
        let framing = framing(status, version, kind, &fields)?;
        Ok(Self {
            status,
            version,
            framing,
            keep_alive: framing != ResponseFraming::UntilClose && head::keep_alive(version, &fields),
            head_bytes: fields.raw().len(),
            fields,
        })
    }
}

/// What of a request's method decides the framing of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Head,
    Connect,
    Other,
}

impl RequestKind {
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// The head, at the beginning of `bytes`, of a response to a `method` request; `None` if more bytes are needed.
/// `max_head` bounds the head, in bytes.
pub fn parse_response(bytes: &[u8], max_head: usize, method: &str) -> Result<Option<ResponseHead>, Refusal> {
    let Some(end) = scan_response(&mut Scan::new(max_head), bytes)? else { return Ok(None) };
    ResponseHead::parse(bytes.get(..end).unwrap_or_default(), RequestKind::of(method)).map(Some)
}

/// As [`Scan::feed`], with the complaints that fit a response.
pub(crate) fn scan_response(scan: &mut Scan, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    scan.feed(bytes).map_err(|refusal| match refusal.status {
        400 => refusal.of_response(),
        _ => Refusal::new(502, "response head too large"),
    })
}

fn framing(
    status: u16,
    version: Version,
    kind: RequestKind,
    fields: &Fields,
) -> Result<ResponseFraming, Refusal> {
    match (status, kind) {
        (101, _) | (200..=299, RequestKind::Connect) => return Ok(ResponseFraming::Opaque),
        (100..=199 | 204 | 304, _) | (_, RequestKind::Head) => return Ok(ResponseFraming::None),
        _ => {}
    }
    match (head::transfer_codings(fields), head::content_length(fields)?) {
        (Some(_), Some(_)) => Err(Refusal::bad("Content-Length and Transfer-Encoding together")),
        (Some(_), None) if version == Version::Http10 => Err(Refusal::bad("Transfer-Encoding in HTTP/1.0")),
        (Some(codings), None) => coded(&codings),
        (None, Some(0)) => Ok(ResponseFraming::None),
        (None, Some(length)) => Ok(ResponseFraming::Length(length)),
        (None, None) => Ok(ResponseFraming::UntilClose),
    }
}

fn coded(codings: &[String]) -> Result<ResponseFraming, Refusal> {
    match codings.iter().filter(|coding| *coding == "chunked").count() {
        1 if codings.last().is_some_and(|last| last == "chunked") => Ok(ResponseFraming::Chunked),
        0 => Ok(ResponseFraming::UntilClose),
        _ => Err(Refusal::bad("chunked is not the last transfer coding")),
    }
}

/// RFC 9110 §14.4.
fn content_range(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.split_once(' ')?;
    let (range, complete) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let complete = if complete == "*" { None } else { Some(number(complete)?) };
    let valid = unit.eq_ignore_ascii_case("bytes") && first <= last && complete.is_none_or(|c| last < c);
    valid.then_some(ContentRange { first, last, complete })
}

/// Digits only: no sign, no space. Bounded as Content-Length is.
pub(crate) fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse::<i64>().ok().map(i64::unsigned_abs)).flatten()
}
