//! What the parser must refuse, and what it must bear (the HTTP rows of the list of hostile traffic).

use http1::{
    Event, Finish, MAX_FIELDS, Refusal, RequestFramer, RequestFraming, RequestHead, ResponseFramer,
    ResponseFraming, parse_request, parse_response,
};

const MAX: usize = 4096;

fn request(bytes: &[u8]) -> Result<Option<RequestHead>, Refusal> {
    parse_request(bytes, MAX)
}

fn accepted(text: &str) -> RequestHead {
    match request(text.as_bytes()) {
        Ok(Some(head)) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn status(bytes: &[u8]) -> Option<u16> {
    request(bytes).err().map(|refusal| refusal.status)
}

/// A GET with these further field lines.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn heads_that_are_refused() {
    for (text, expected) in [
        // Two lengths.
        (get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        (get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400),
        (get("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        (get("Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
        (get("Content-Length: 5, 5\r\n"), 400),
        // Invalid lengths.
        (get("Content-Length: \r\n"), 400),
        (get("Content-Length: +5\r\n"), 400),
        (get("Content-Length: -5\r\n"), 400),
        (get("Content-Length: 0x5\r\n"), 400),
        (get("Content-Length: 5 5\r\n"), 400),
        (get("Content-Length: 9223372036854775808\r\n"), 400),
        (get("Content-Length: 18446744073709551616\r\n"), 400),
        (get("Content-Length: 99999999999999999999999999\r\n"), 400),
        // Transfer codings.
        (get("Transfer-Encoding: gzip\r\n"), 400),
        (get("Transfer-Encoding: \r\n"), 400),
        (get("Transfer-Encoding: identity\r\n"), 400),
        (get("Transfer-Encoding: chunked, gzip\r\n"), 400),
        (get("Transfer-Encoding: chunked, chunked\r\n"), 400),
        (get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
        (get("Transfer-Encoding: xchunked\r\n"), 400),
        (get("Transfer-Encoding: ,chunked\r\n"), 400),
        (get("Transfer-Encoding: \u{b}chunked\r\n"), 400),
        (get("Transfer-Encoding: gzip, chunked\r\n"), 501),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
        // Line ends, folding, blanks.
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), 400),
        (get("X: a\rb\r\n"), 400),
        (get("X: a\r\r\n"), 400),
        (get("X: a\r\n folded\r\n"), 400),
        (get("X: a\r\n\tfolded\r\n"), 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), 400),
        (get("X : a\r\n"), 400),
        (get("Content-Length : 5\r\n"), 400),
        (get("X\t: a\r\n"), 400),
        (get(": a\r\n"), 400),
        (get("no colon\r\n"), 400),
        (get("X: a\0b\r\n"), 400),
        (get("X: a\x01b\r\n"), 400),
        // Request line.
        ("\0GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("G\"T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET /\r\n".to_owned(), 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET http://u@h/x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        // Versions.
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET http://a/ HTTP/1.1\r\n\r\n".to_owned(), 400),
        (get("Host: a\r\n"), 400),
        (get("HOST: b\r\n"), 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(status(text.as_bytes()), Some(expected), "{text:?}");
    }
}

#[test]
fn other_protocols_are_refused_before_their_head_could_end() {
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x00", b"{\"a\":1}", b"GET / HTTX"]
    {
        assert_eq!(status(bytes), Some(400), "{bytes:?}");
    }
    assert_eq!(status(b"GET / HTTP/3"), Some(505));
}

#[test]
fn unfinished_heads_need_more() {
    let head = get("X: y\r\n");
    for end in 0..head.len() {
        assert_eq!(request(&head.as_bytes()[..end]), Ok(None), "{end}");
    }
}

#[test]
fn sizes_are_bounded() {
    let line = |length: usize| format!("GET /{}", "a".repeat(length));
    assert_eq!(status(line(MAX).as_bytes()), Some(414));
    assert_eq!(status(format!("{} HTTP/1.1\r\n", line(MAX)).as_bytes()), Some(414));
    assert_eq!(status(get(&format!("X: {}\r\n", "a".repeat(MAX))).as_bytes()), Some(431));
    assert_eq!(status("\r\n".repeat(MAX).as_bytes()), Some(431));
    let fields = |count: usize| (0..count).map(|n| format!("X{n}: y\r\n")).collect::<Vec<_>>().concat();
    assert_eq!(accepted(&get(&fields(MAX_FIELDS - 1))).fields.iter().count(), MAX_FIELDS);
    assert_eq!(status(get(&fields(MAX_FIELDS)).as_bytes()), Some(431));
    let exactly = get(&format!("X: {}\r\n", "a".repeat(100)));
    assert!(parse_request(exactly.as_bytes(), exactly.len()).is_ok_and(|head| head.is_some()));
    assert!(parse_request(exactly.as_bytes(), exactly.len() - 1).is_err());
}

#[test]
fn targets_and_hosts() {
    for (line, host_field, path, host) in [
        ("GET /a/b?c=d HTTP/1.1", "Www.Example:8080", "/a/b", Some("www.example")),
        ("GET /a#f HTTP/1.1", "h", "/a", Some("h")),
        ("GET /?/x HTTP/1.1", "h", "/", Some("h")),
        ("GET //x HTTP/1.1", "h", "//x", Some("h")),
        ("GET http://Real.Example:81/a?b HTTP/1.1", "other", "/a", Some("real.example")),
        ("GET HTTPS://h HTTP/1.1", "other", "/", Some("h")),
        ("GET http://h?q HTTP/1.1", "other", "/", Some("h")),
        ("OPTIONS * HTTP/1.1", "h", "*", Some("h")),
        ("OPTIONS http://h HTTP/1.1", "o", "*", Some("h")),
        ("CONNECT h.example:443 HTTP/1.1", "h.example:443", "", Some("h.example")),
        ("GET / HTTP/1.1", "[2001:DB8::1]:80", "/", Some("[2001:db8::1]")),
        ("GET / HTTP/1.1", "", "/", None),
    ] {
        let head = accepted(&format!("{line}\r\nHost: {host_field}\r\n\r\n"));
        assert_eq!((head.path(), head.host.as_deref()), (path, host), "{line}");
    }
    assert_eq!(accepted("GET / HTTP/1.0\r\n\r\n").host, None);
}

#[test]
fn cookies_are_found_as_sent() {
    let head = accepted(&get("Cookie: a=1; b=x=y;a=\"2\" ;  A=3\r\nX: a=9\r\ncookie: ;;=;a;a=\r\n"));
    let values = |name| head.cookies(name).map(String::from_utf8_lossy).collect::<Vec<_>>();
    assert_eq!(values("a"), ["1", "\"2\"", ""]);
    assert_eq!(values("A"), ["3"]);
    assert_eq!(values("b"), ["x=y"]);
    assert_eq!(values("c"), [""; 0]);
}

#[test]
fn framing_and_persistence_of_requests() {
    for (fields, framing, keep_alive) in [
        ("", RequestFraming::None, true),
        ("Content-Length: 0\r\n", RequestFraming::None, true),
        ("content-length:  007 \r\n", RequestFraming::Length(7), true),
        ("Content-Length: 9223372036854775807\r\n", RequestFraming::Length(i64::MAX as u64), true),
        ("Transfer-Encoding: Chunked\r\n", RequestFraming::Chunked, true),
        ("Connection: Close\r\n", RequestFraming::None, false),
        ("Connection: foo, close\r\n", RequestFraming::None, false),
        ("Connection: foo\r\nConnection: close\r\n", RequestFraming::None, false),
        ("Connection: closed\r\n", RequestFraming::None, true),
    ] {
        let head = accepted(&get(fields));
        assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{fields}");
    }
    assert!(!accepted("GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(accepted("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    assert!(!accepted("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").keep_alive);
}

#[test]
fn empty_lines_before_a_request_are_tolerated_and_counted() {
    let text = format!("\r\n\r\n{}", get(""));
    let head = accepted(&text);
    assert_eq!(head.head_bytes, text.len());
    assert_eq!(status(b"\n\nGET / HTTP/1.1\r\n"), Some(400));
    assert_eq!(status(b"\r\r\n"), Some(400));
}

fn response_framing(text: &str, method: &str) -> Result<ResponseFraming, u16> {
    match parse_response(text.as_bytes(), MAX, method) {
        Ok(Some(head)) => Ok(head.framing),
        Ok(None) => panic!("{text:?} is not complete"),
        Err(refusal) => Err(refusal.status),
    }
}

#[test]
fn framing_of_responses() {
    use ResponseFraming::{Chunked, Length, None, Opaque, UntilClose};
    for (status, fields, method, expected) in [
        ("200 OK", "Content-Length: 5\r\n", "GET", Ok(Length(5))),
        ("200 OK", "Content-Length: 0\r\n", "GET", Ok(None)),
        ("200", "Content-Length: 5\r\n", "HEAD", Ok(None)),
        ("200 OK", "Transfer-Encoding: chunked\r\n", "HEAD", Ok(None)),
        ("200 OK", "Transfer-Encoding: chunked\r\n", "GET", Ok(Chunked)),
        ("200 OK", "Transfer-Encoding: gzip, chunked\r\n", "GET", Ok(Chunked)),
        ("200 OK", "Transfer-Encoding: gzip\r\n", "GET", Ok(UntilClose)),
        ("200 OK", "Transfer-Encoding: chunked, gzip\r\n", "GET", Err(502)),
        ("200 OK", "", "GET", Ok(UntilClose)),
        ("100 Continue", "", "POST", Ok(None)),
        ("103 Early Hints", "Content-Length: 5\r\n", "GET", Ok(None)),
        ("204 No Content", "Content-Length: 5\r\n", "GET", Ok(None)),
        ("304 Not Modified", "Content-Length: 5\r\n", "GET", Ok(None)),
        ("404 Not Found", "Content-Length: 5\r\n", "CONNECT", Ok(Length(5))),
        ("200 OK", "Content-Length: 5\r\n", "CONNECT", Ok(Opaque)),
        ("101 Switching Protocols", "", "GET", Ok(Opaque)),
        ("200 OK", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "GET", Err(502)),
        ("200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", "GET", Err(502)),
        ("200 OK", "Content-Length: x\r\n", "GET", Err(502)),
        ("099 Odd", "", "GET", Err(502)),
        ("600 Odd", "", "GET", Err(502)),
        ("20 Odd", "", "GET", Err(502)),
        ("200 OK", "X : y\r\n", "GET", Err(502)),
        ("200 OK", "X: y\r\n folded\r\n", "GET", Err(502)),
    ] {
        let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        assert_eq!(response_framing(&text, method), expected, "{text:?} to {method}");
    }
    assert_eq!(response_framing("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET"), Err(502));
    assert_eq!(response_framing("HTTP/1.1 200 OK\nContent-Length: 5\n\n", "GET"), Err(502));
}

#[test]
fn validators_and_ranges_of_responses() {
    let head = |fields: &str| {
        let text = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n{fields}\r\n");
        parse_response(text.as_bytes(), MAX, "GET").ok().flatten().unwrap_or_else(|| panic!("{text:?}"))
    };
    let full = head(
        "ETag: W/\"a\"\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nAccept-Ranges: none, BYTES\r\n\
         Content-Range: bytes 5-9/100\r\nContent-Encoding: gzip\r\n",
    );
    assert_eq!(full.etag(), Some("W/\"a\""));
    assert_eq!(full.last_modified(), Some("Tue, 15 Nov 1994 12:45:26 GMT"));
    assert!(full.accepts_byte_ranges());
    assert_eq!(full.content_range(), Some(http1::ContentRange { first: 5, last: 9, complete: Some(100) }));
    assert_eq!(full.content_encoding(), Some("gzip"));
    assert_eq!(
        head("Content-Range: bytes 5-9/*\r\n").content_range().map(|range| range.complete),
        Some(None)
    );
    for invalid in [
        "bytes 9-5/100",
        "bytes 5-9/9",
        "bytes */100",
        "items 5-9/100",
        "bytes 5-/100",
        "bytes +5-9/100",
        "bytes=5-9/100",
    ] {
        assert_eq!(head(&format!("Content-Range: {invalid}\r\n")).content_range(), None, "{invalid}");
    }
}

fn chunked(body: &str) -> Result<bool, Refusal> {
    let mut framer = RequestFramer::new(MAX);
    let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let mut rest = text.as_bytes();
    loop {
        let step = framer.feed(rest)?;
        rest = &rest[step.consumed..];
        match step.event {
            Event::MessageEnd => return Ok(rest.is_empty()),
            Event::NeedMore => return Ok(false),
            _ => {}
        }
    }
}

#[test]
fn chunked_bodies() {
    for good in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a=b;c=\"d;e\"\r\nhello\r\n000\r\n\r\n",
        "5 \t;a\r\nhello\r\n0\r\n\r\n",
        "0000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "A\r\n\r\n0\r\n\r\nxxx\r\n0\r\nTrailer: v\r\nX:\r\n\r\n",
    ] {
        assert_eq!(chunked(good), Ok(true), "{good:?}");
    }
    for bad in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\n: v\r\n\r\n",
        "0\r\nT: v\r\n folded\r\n\r\n",
        "0\r\nT : v\r\n\r\n",
        "0\r\nT: v\n\r\n",
        "0\r\n\rx",
        "0\r\nT: v\rx\r\n\r\n",
        "5\r\nhello\rX0\r\n\r\n",
    ] {
        assert_eq!(chunked(bad).map_err(|refusal| refusal.status), Err(400), "{bad:?}");
    }
    assert!(chunked(&format!("5;{}", "a".repeat(5000))).is_err());
    assert!(chunked(&format!("0\r\nT: {}", "a".repeat(70_000))).is_err());
    assert!(chunked("7fffffffffffffff\r\n").is_ok());
}

#[test]
fn large_bodies_are_measured_to_the_byte() {
    let body = "x".repeat(1_000_000);
    let next = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (framing, body) in [
        (format!("Content-Length: {}", body.len()), body.clone()),
        ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let stream = [&head, &body, next].concat();
        let mut framer = RequestFramer::new(MAX);
        let mut ends = Vec::new();
        for (start, piece) in
            stream.as_bytes().chunks(65_483).enumerate().map(|(n, piece)| (n * 65_483, piece))
        {
            let mut at = 0;
            loop {
                let step = framer.feed(&piece[at..]).unwrap();
                at += step.consumed;
                match step.event {
                    Event::NeedMore => break,
                    Event::MessageEnd => ends.push(start + at),
                    _ => {}
                }
            }
        }
        assert_eq!(ends, [head.len() + body.len(), stream.len()]);
    }
}

/// Feeds all of `bytes`; gives statuses of heads, `-1` for each message end.
fn respond(framer: &mut ResponseFramer, bytes: &[u8]) -> Result<Vec<i32>, Refusal> {
    let mut seen = Vec::new();
    let mut rest = bytes;
    loop {
        let step = framer.feed(rest)?;
        rest = &rest[step.consumed..];
        match step.event {
            Event::Head(head) => seen.push(i32::from(head.status)),
            Event::MessageEnd => seen.push(-1),
            Event::NeedMore => return Ok(seen),
            Event::HeadPart | Event::Body => {}
        }
    }
}

fn expecting(methods: &[&str]) -> ResponseFramer {
    let mut framer = ResponseFramer::new(MAX);
    for method in methods {
        assert_eq!(framer.expect(method), Ok(()));
    }
    framer
}

#[test]
fn interim_responses_precede_the_final_one() {
    let mut framer = expecting(&["POST", "GET"]);
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 304 X\r\n\r\n";
    assert_eq!(respond(&mut framer, bytes), Ok(vec![100, 103, 200, -1, 304, -1]));
    assert_eq!((framer.outstanding(), framer.finish()), (0, Finish::Between));
}

#[test]
fn the_end_of_the_stream_is_judged() {
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nsome";
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome";
    let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n\r\n";
    let judge = |bytes: &[u8]| {
        let mut framer = expecting(&["GET"]);
        respond(&mut framer, bytes).map(|_| framer.finish())
    };
    assert_eq!(judge(until_close), Ok(Finish::Complete));
    assert_eq!(judge(b""), Ok(Finish::Between));
    assert_eq!(judge(length), Ok(Finish::Between));
    assert_eq!(judge(chunks), Ok(Finish::Between));
    for bytes in [&length[..], chunks] {
        for end in 1..bytes.len() {
            assert_eq!(judge(&bytes[..end]), Ok(Finish::Premature), "{end}");
        }
    }
}

#[test]
fn switched_protocols_are_opaque() {
    let mut framer = expecting(&["GET"]);
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x00\xffHTTP/1.1 nonsense\r\n\r\n";
    assert_eq!(respond(&mut framer, bytes), Ok(vec![101]));
    assert_eq!(framer.finish(), Finish::Complete);
    let mut requests = RequestFramer::new(MAX);
    requests.become_opaque();
    assert!(requests.feed(b"\x00\x01\x02").is_ok_and(|step| step.consumed == 3 && step.event == Event::Body));
}

#[test]
fn a_response_that_nobody_asked_for_is_refused() {
    let mut framer = expecting(&["GET"]);
    let bytes = b"HTTP/1.1 204 X\r\n\r\nHTTP/1.1 408 Timeout\r\n\r\n";
    assert_eq!(respond(&mut framer, bytes).map_err(|refusal| refusal.status), Err(502));
    assert_eq!(respond(&mut framer, b"").map_err(|refusal| refusal.status), Err(502));
    assert_eq!(framer.finish(), Finish::Premature);
}

#[test]
fn outstanding_requests_are_bounded() {
    let mut framer = ResponseFramer::new(MAX);
    for _ in 0..http1::MAX_OUTSTANDING {
        assert_eq!(framer.expect("GET"), Ok(()));
    }
    assert!(framer.expect("GET").is_err());
}

#[test]
fn response_heads_are_bounded() {
    let mut framer = expecting(&["GET"]);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MAX));
    assert_eq!(respond(&mut framer, long.as_bytes()).map_err(|refusal| refusal.status), Err(502));
}
