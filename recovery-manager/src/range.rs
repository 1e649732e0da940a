//! When a large body can be continued with a `Range` request (RFC 9110 §14) instead of being served again
//! from its first byte.

use cluster::control::{PartialResponse, PendingRequest, Prefix, TAIL_BYTES, TakeIn};
use http1::Continuation;

/// Fields that tell one representation from another.
const VALIDATORS: [&str; 3] = ["etag", "last-modified", "content-length"];

/// Bytes that a replayed request may grow by: `Range` and `If-Range` with the longest validator.
pub(crate) const HEAD_GROWTH: usize = 512;

/// The continuation of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// The request for the rest.
    pub(crate) request: Vec<u8>,
    /// What its answer must look like.
    pub(crate) take_in: TakeIn,
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
    if head.head_bytes != partial.head.len() {
        return None;
    }
    let Continuation { first, complete, validator } = http1::continuation(&asked, &head)?;
    let offset = first.checked_add(partial.body_bytes).filter(|offset| *offset < complete)?;
    let overlap = tail(&partial.tail);
    // Of a large file the validator alone may vouch: its last bytes need not have been logged.
    let vouched = !overlap.is_empty() || request.tags.large_file;
    let first = offset.checked_sub(overlap.len() as u64).filter(|_| vouched)?;
    let asked_again = http1::range_request(&request.bytes, first, Some(validator))?;
    let (overlap, whole) = (overlap.to_vec(), validated(whole, partial));
    let take_in = TakeIn::Range { first, complete, overlap, whole };
    Some(Resumption { request: asked_again, take_in })
}

/// The whole again: where the log cannot tell whether its body is the same, its validators must be.
fn validated(whole: &Prefix, partial: &PartialResponse) -> Prefix {
    let mut whole = whole.clone();
    if !partial.is_hashed() {
        let validates = |name: &String| VALIDATORS.iter().any(|field| name.eq_ignore_ascii_case(field));
        whole.volatile.retain(|name| !validates(name));
    }
    whole
}

/// The last bytes of the tail that may be compared.
fn tail(tail: &[u8]) -> &[u8] {
    tail.get(tail.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()
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
        PartialResponse {
            head: head.into(),
            head_complete: true,
            body_bytes,
            tail,
            ..PartialResponse::default()
        }
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
