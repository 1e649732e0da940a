//! Whether the rest of a body that broke off can be had by a `Range` request (RFC 9110 §14), and from where.

use crate::request::{RequestFraming, RequestHead};
use crate::response::{ResponseFraming, ResponseHead};

/// Longest validator that is repeated in `If-Range`, bytes.
const VALIDATOR_BYTES: usize = 256;

/// What part of a representation a response carries, to its end, and what identifies the representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation<'a> {
    /// Position of the body's first byte.
    pub first: u64,
    /// Complete length of the representation.
    pub complete: u64,
    /// For `If-Range`.
    pub validator: &'a str,
}

/// How the body of `response`, the answer to `request`, could be continued; `None` if it is not certain that a range belongs to
/// the same representation.
pub fn continuation<'a>(request: &RequestHead, response: &'a ResponseHead) -> Option<Continuation<'a>> {
    let asked = request.method() == "GET" && request.framing == RequestFraming::None;
    let (first, complete) = extent(request, response).filter(|_| asked && takes_ranges(response))?;
    Some(Continuation { first, complete, validator: validator(response)? })
}

/// A coded body may be coded anew, with other bytes, for each request.
fn takes_ranges(head: &ResponseHead) -> bool {
    let plain = head.content_encoding().is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
    plain && (head.accepts_byte_ranges() || head.field("accept-ranges").is_none())
}

/// First position and complete length: of a 200 to a request without a range, or a 206 that reaches to the representation's end.
fn extent(asked: &RequestHead, head: &ResponseHead) -> Option<(u64, u64)> {
    let ResponseFraming::Length(length) = head.framing else { return None };
    match head.status {
        200 if asked.field("range").is_none() => Some((0, length)),
        206 => {
            let range = head.content_range()?;
            let complete = range.complete?;
            let to_the_end = range.last.checked_add(1)? == complete;
            let whole = range.first.checked_add(length)? == complete;
            (to_the_end && whole).then_some((range.first, complete))
        }
        _ => None,
    }
}

/// What identifies the same bytes: a strong `ETag`, or, without any, a `Last-Modified` that is strong because
/// it is older than the response (RFC 9110 §8.8.2.2, §13.1.5).
fn validator(head: &ResponseHead) -> Option<&str> {
    let validator = match (head.etag(), head.last_modified()) {
        (Some(etag), _) => strong_etag(etag)?,
        (None, Some(modified)) => {
            let date = head.field("date")?;
            (date != modified.as_bytes()).then_some(modified)?
        }
        (None, None) => return None,
    };
    (validator.len() <= VALIDATOR_BYTES).then_some(validator)
}

fn strong_etag(etag: &str) -> Option<&str> {
    let opaque = etag.strip_prefix('"')?.strip_suffix('"')?;
    (!opaque.contains('"')).then_some(etag)
}
