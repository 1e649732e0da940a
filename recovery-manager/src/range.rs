//! When a large body can be continued with a `Range` request (RFC 9110 §14) instead of being served again
//! from its first byte.

use cluster::control::{PartialResponse, PendingRequest, Prefix, TAIL_BYTES, TakeIn};
use http1::{RequestHead, ResponseFraming, ResponseHead};

/// Bytes that a replayed request may grow by: `Range` and `If-Range` with the longest validator.
pub(crate) const HEAD_GROWTH: usize = 512;

/// Longest validator that is repeated in `If-Range`, bytes.
const VALIDATOR_BYTES: usize = 256;

/// The continuation of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// The request for the rest.
    pub(crate) request: Vec<u8>,
    /// What its answer must look like.
    pub(crate) take_in: TakeIn,
}

/// What part of a representation the logged response carries, in absolute positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    first: u64,
    complete: u64,
}

/// The rest of `partial`, the response to `request`, as a range, or taken in as the `whole`; `None` if fewer than `from` body bytes are
/// logged, or if it is not certain that the range belongs to the same representation.
pub(crate) fn resume(
    request: &PendingRequest,
    partial: &PartialResponse,
    from: u64,
    whole: &Prefix,
) -> Option<Resumption> {
    if !request.complete || !partial.head_complete || partial.body_bytes < from {
        return None;
    }
    let asked = http1::parse_request(&request.bytes, usize::MAX).ok()??;
    let head = http1::parse_response(&partial.head, usize::MAX, asked.method()).ok()??;
    if head.head_bytes != partial.head.len() || !takes_ranges(&head) {
        return None;
    }
    let extent = extent(&asked, &head)?;
    let offset = extent.first.checked_add(partial.body_bytes).filter(|offset| *offset < extent.complete)?;
    let overlap = tail(&partial.tail);
    let first = offset.checked_sub(overlap.len() as u64).filter(|_| !overlap.is_empty())?;
    let request = http1::range_request(&request.bytes, first, Some(validator(&head)?))?;
    let (overlap, whole) = (overlap.to_vec(), whole.clone());
    let take_in = TakeIn::Range { first, complete: extent.complete, overlap, whole };
    Some(Resumption { request, take_in })
}

/// The last bytes of the tail that may be compared.
fn tail(tail: &[u8]) -> &[u8] {
    tail.get(tail.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()
}

/// A coded body may be coded anew, with other bytes, for each request.
fn takes_ranges(head: &ResponseHead) -> bool {
    let plain = head.content_encoding().is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
    plain && (head.accepts_byte_ranges() || head.field("accept-ranges").is_none())
}

/// A complete 200 to a request without a range, or a 206 that reaches to the representation's end.
fn extent(asked: &RequestHead, head: &ResponseHead) -> Option<Extent> {
    let ResponseFraming::Length(length) = head.framing else { return None };
    match head.status {
        200 if asked.field("range").is_none() => Some(Extent { first: 0, complete: length }),
        206 => {
            let range = head.content_range()?;
            let complete = range.complete?;
            let to_the_end = range.last.checked_add(1)? == complete;
            let whole = range.first.checked_add(length)? == complete;
            (to_the_end && whole).then_some(Extent { first: range.first, complete })
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

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::control::Tags;

    const PLAIN: &str = "GET /f HTTP/1.1\r\nHost: a\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 1000000\r\n\
                      Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nETag: \"x-1\"\r\nAccept-Ranges: bytes\r\n\r\n";

    fn pending(bytes: &str) -> PendingRequest {
        let tags = Tags { read_only: true, ..Tags::default() };
        PendingRequest {
            ordinal: 1,
            summary: String::new(),
            tags,
            complete: true,
            bytes: bytes.into(),
            volatile_headers: None,
        }
    }

    fn logged(head: &str, body_bytes: u64) -> PartialResponse {
        let tail = vec![b't'; body_bytes.min(100) as usize];
        PartialResponse { head: head.into(), head_complete: true, body_bytes, body_hash: 0, tail }
    }

    fn try_resume(request: &str, head: &str) -> Option<Resumption> {
        resume(&pending(request), &logged(head, 500_000), 1000, &Prefix::default())
    }

    fn without(head: &str, field: &str) -> String {
        head.split_inclusive("\r\n").filter(|line| !line.starts_with(field)).collect()
    }

    #[test]
    fn a_complete_200_is_continued_where_its_tail_begins() {
        let resumption = try_resume(PLAIN, OK).unwrap();
        let request = String::from_utf8(resumption.request).unwrap();
        assert!(request.contains("Range: bytes=499900-\r\n"), "{request}");
        assert!(request.contains("If-Range: \"x-1\"\r\n"), "{request}");
        let TakeIn::Range { first, complete, overlap, .. } = resumption.take_in else { panic!("no range") };
        assert_eq!((first, complete, overlap.len()), (499_900, 1_000_000, 100));
    }

    #[test]
    fn a_206_from_an_earlier_recovery_counts_in_absolute_positions() {
        let head = OK.replace("200 OK", "206 Partial Content").replace(
            "Content-Length: 1000000",
            "Content-Range: bytes 2000000-2999999/3000000\r\nContent-Length: 1000000",
        );
        let asked = "GET /f HTTP/1.1\r\nHost: a\r\nRange: bytes=2000000-\r\nIf-Range: \"x-1\"\r\n\r\n";
        let resumption = try_resume(asked, &head).unwrap();
        let request = String::from_utf8(resumption.request).unwrap();
        assert_eq!(request.matches("Range: bytes=2499900-\r\n").count(), 1, "{request}");
        let TakeIn::Range { first, complete, .. } = resumption.take_in else { panic!("no range") };
        assert_eq!((first, complete), (2_499_900, 3_000_000));
    }

    #[test]
    fn without_an_etag_a_last_modified_older_than_the_response_will_do() {
        let head = without(OK, "ETag");
        let resumption = try_resume(PLAIN, &head).unwrap();
        let request = String::from_utf8(resumption.request).unwrap();
        assert!(request.contains("If-Range: Tue, 15 Nov 1994 12:45:26 GMT\r\n"), "{request}");
        let same_second = head.replace("08:12:31", "12:45:26");
        assert_eq!(try_resume(PLAIN, &same_second), None);
        assert_eq!(try_resume(PLAIN, &without(&head, "Date")), None);
    }

    #[test]
    fn what_may_be_another_representation_is_served_whole() {
        let refused = [
            (PLAIN, OK.replace("\"x-1\"", "W/\"x-1\"")),
            (PLAIN, OK.replace("\"x-1\"", "x-1")),
            (PLAIN, without(&without(OK, "ETag"), "Last-Modified")),
            (PLAIN, OK.replace("Accept-Ranges: bytes", "Accept-Ranges: none")),
            (PLAIN, OK.replace("Accept-Ranges: bytes", "Content-Encoding: gzip")),
            (PLAIN, OK.replace("Content-Length: 1000000", "Transfer-Encoding: chunked")),
            (PLAIN, without(OK, "Content-Length")),
            (PLAIN, OK.replace("200 OK", "203 Non-Authoritative")),
            (PLAIN, OK.replace("Content-Length: 1000000", "Content-Length: 500000")),
            (PLAIN, OK.replace("\"x-1\"", &format!("\"{}\"", "x".repeat(300)))),
            ("GET /f HTTP/1.1\r\nHost: a\r\nRange: bytes=5-\r\n\r\n", OK.to_owned()),
            ("POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", OK.to_owned()),
            ("garbage", OK.to_owned()),
        ];
        for (request, head) in refused {
            assert_eq!(try_resume(request, &head), None, "{request}{head}");
        }
    }

    #[test]
    fn a_206_that_is_no_tail_of_the_representation_is_served_whole() {
        let asked = "GET /f HTTP/1.1\r\nHost: a\r\nRange: bytes=0-999999\r\n\r\n";
        for range in ["bytes 0-999999/2000000", "bytes 0-999999/*", "bytes 0-1999999/2000000"] {
            let head = OK
                .replace("200 OK", "206 Partial Content")
                .replace("ETag", &format!("Content-Range: {range}\r\nETag"));
            assert_eq!(try_resume(asked, &head), None, "{range}");
        }
    }

    #[test]
    fn little_or_nothing_to_save_is_served_whole() {
        assert_eq!(resume(&pending(PLAIN), &logged(OK, 999), 1000, &Prefix::default()), None);
        assert!(resume(&pending(PLAIN), &logged(OK, 1000), 1000, &Prefix::default()).is_some());
        let no_tail = PartialResponse { tail: Vec::new(), ..logged(OK, 500_000) };
        assert_eq!(resume(&pending(PLAIN), &no_tail, 1000, &Prefix::default()), None);
    }
}
