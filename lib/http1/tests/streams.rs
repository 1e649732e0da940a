//! The framers against generated streams: split anywhere, spoilt anywhere, and measured by a naive parser that has
//! the whole stream in one buffer and shares no code with them.

#![allow(clippy::expect_used, reason = "the naive parser is meant to panic on what was not generated")]

use http1::{
    DEFAULT_MAX_HEAD, Event, Finish, Refusal, RequestFramer, RequestHead, ResponseFramer, ResponseHead, Step,
    parse_request,
};
use proptest::prelude::*;

/// What a framer says of a stream, independent of how it was cut: heads with their lengths, bodies with theirs.
#[derive(Debug, Clone, PartialEq)]
enum Seen<H> {
    Head(usize, Box<H>),
    Body(usize),
    End,
}

/// Feeds `stream` in the given pieces. Checks that each call consumes no more than it was given and makes progress.
fn watch<H>(
    stream: &[u8],
    pieces: &[usize],
    mut feed: impl FnMut(&[u8]) -> Result<Step<H>, Refusal>,
) -> (Vec<Seen<H>>, Option<Refusal>) {
    let mut seen = Vec::new();
    let mut head_part = 0;
    let mut start = 0usize;
    for length in pieces.iter().copied().chain([usize::MAX]) {
        let end = start.saturating_add(length).min(stream.len());
        let mut piece = &stream[start..end];
        start = end;
        loop {
            let step = match feed(piece) {
                Ok(step) => step,
                Err(refusal) => {
                    assert_eq!(feed(b"GET").err(), Some(refusal), "a refusal is final");
                    return (seen, Some(refusal));
                }
            };
            assert!(step.consumed <= piece.len());
            let empty = piece.is_empty();
            piece = &piece[step.consumed..];
            match step.event {
                Event::Head(head) => {
                    seen.push(Seen::Head(std::mem::take(&mut head_part) + step.consumed, head));
                    assert!(step.consumed > 0);
                }
                Event::HeadPart => {
                    assert!(step.consumed > 0 && piece.is_empty());
                    head_part += step.consumed;
                }
                Event::Body => {
                    assert!(step.consumed > 0);
                    match seen.last_mut() {
                        Some(Seen::Body(length)) => *length += step.consumed,
                        _ => seen.push(Seen::Body(step.consumed)),
                    }
                }
                Event::MessageEnd => {
                    assert_eq!(step.consumed, 0);
                    seen.push(Seen::End);
                }
                Event::NeedMore => {
                    assert!(step.consumed == 0 && empty, "bytes were left over");
                    break;
                }
            }
        }
    }
    if head_part > 0 {
        seen.push(Seen::Body(head_part));
    }
    (seen, None)
}

fn watch_requests(stream: &[u8], pieces: &[usize]) -> (Vec<Seen<RequestHead>>, Option<Refusal>) {
    let mut framer = RequestFramer::new(DEFAULT_MAX_HEAD);
    watch(stream, pieces, |bytes| framer.feed(bytes))
}

fn watch_responses(
    stream: &[u8],
    methods: &[String],
    pieces: &[usize],
) -> ((Vec<Seen<ResponseHead>>, Option<Refusal>), Finish) {
    let mut framer = ResponseFramer::new(DEFAULT_MAX_HEAD);
    for method in methods {
        assert_eq!(framer.expect(method), Ok(()));
    }
    let seen = watch(stream, pieces, |bytes| framer.feed(bytes));
    (seen, framer.finish())
}

// The naive parser: whole buffer, text, panics on anything unexpected.

struct NaiveHead {
    lines: Vec<String>,
    length: usize,
}

fn naive_head(bytes: &[u8]) -> NaiveHead {
    let mut blank = 0;
    while bytes[blank..].starts_with(b"\r\n") {
        blank += 2;
    }
    let end = blank + bytes[blank..].windows(4).position(|w| w == b"\r\n\r\n").expect("head end") + 4;
    let text = String::from_utf8_lossy(&bytes[blank..end - 4]).into_owned();
    NaiveHead { lines: text.split("\r\n").map(str::to_owned).collect(), length: end }
}

impl NaiveHead {
    fn field(&self, name: &str) -> Option<String> {
        self.lines[1..].iter().find_map(|line| {
            let (n, value) = line.split_once(':').expect("colon");
            (n.to_lowercase() == name).then(|| value.trim().to_lowercase())
        })
    }

    fn body(&self, rest: &[u8]) -> Option<usize> {
        if self.field("transfer-encoding").is_some() {
            return Some(naive_chunked(rest));
        }
        self.field("content-length").map(|length| length.parse().expect("length"))
    }
}

fn naive_chunked(bytes: &[u8]) -> usize {
    let mut at = 0;
    let line_end = |at: usize| at + bytes[at..].windows(2).position(|w| w == b"\r\n").expect("line end");
    loop {
        let line = String::from_utf8_lossy(&bytes[at..line_end(at)]).into_owned();
        let size = line.split(';').next().expect("size").trim();
        let size = usize::from_str_radix(size, 16).expect("hexadecimal");
        at = line_end(at) + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    while line_end(at) != at {
        at = line_end(at) + 2;
    }
    at + 2
}

/// Lengths of head and body of each message.
fn naive_requests(stream: &[u8]) -> Vec<(usize, usize)> {
    let mut rest = stream;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let head = naive_head(rest);
        let body = head.body(&rest[head.length..]).unwrap_or(0);
        found.push((head.length, body));
        rest = &rest[head.length + body..];
    }
    found
}

fn naive_responses(stream: &[u8], methods: &[String]) -> Vec<(usize, usize)> {
    let mut rest = stream;
    let mut methods = methods.iter();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let head = naive_head(rest);
        let status: u16 = head.lines[0].split(' ').nth(1).expect("status").parse().expect("number");
        let interim = status < 200;
        let method = if interim { "" } else { methods.next().expect("method") };
        let bodiless = interim || method == "HEAD" || status == 204 || status == 304;
        let available = &rest[head.length..];
        let body = if bodiless { 0 } else { head.body(available).unwrap_or(available.len()) };
        found.push((head.length, body));
        rest = &available[body..];
    }
    found
}

fn lengths<H>(seen: &[Seen<H>]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for event in seen {
        match event {
            Seen::Head(length, _) => found.push((*length, 0)),
            Seen::Body(length) => found.last_mut().expect("a head first").1 = *length,
            Seen::End => {}
        }
    }
    found
}

// Generated messages.

fn field() -> impl Strategy<Value = String> {
    ("X-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,10}", "[ -~\t]{0,20}")
        .prop_map(|(name, value)| format!("{name}:{value}\r\n"))
}

fn fields() -> impl Strategy<Value = String> {
    prop::collection::vec(field(), 0..5).prop_map(|fields| fields.concat())
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let http_like = Just(b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec());
    prop_oneof![3 => prop::collection::vec(any::<u8>(), 0..200), 1 => http_like]
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![3 => Just(String::new()), 1 => " ?;[a-z]{1,5}(=\"[a-z; ]{0,5}\")?"];
    let chunk = (data(), extension, any::<bool>()).prop_map(|(data, extension, upper)| {
        if data.is_empty() {
            return Vec::new();
        }
        let size = if upper { format!("0{:X}", data.len()) } else { format!("{:x}", data.len()) };
        [format!("{size}{extension}\r\n").as_bytes(), &data, b"\r\n"].concat()
    });
    (prop::collection::vec(chunk, 0..5), "0{1,4}", fields()).prop_map(|(chunks, zero, trailers)| {
        [&chunks.concat(), format!("{zero}\r\n{trailers}\r\n").as_bytes()].concat()
    })
}

/// Framing field and body.
fn body() -> impl Strategy<Value = (String, Vec<u8>)> {
    let length = data().prop_map(|body| (format!("content-LENGTH: {}\r\n", body.len()), body));
    let chunked = chunks().prop_map(|body| ("Transfer-Encoding: Chunked\r\n".to_owned(), body));
    prop_oneof![Just((String::new(), Vec::new())), length, chunked]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let target = "(http://h)?/[a-z0-9/._~%?&=;-]{0,30}";
    (0usize..3, "[A-Z]{1,8}", target, fields(), body(), fields()).prop_map(
        |(blank, method, target, one, (framing, body), two)| {
            // A CONNECT has another kind of target.
            let method = if method == "CONNECT" { "GET" } else { &method };
            let head = format!(
                "{}{method} {target} HTTP/1.1\r\n{one}Host: h\r\n{framing}{two}\r\n",
                "\r\n".repeat(blank)
            );
            [head.as_bytes(), &body].concat()
        },
    )
}

/// The request's method and the bytes of its response, interim ones included.
fn response() -> impl Strategy<Value = (String, Vec<u8>)> {
    let interim = prop_oneof![
        3 => Just(String::new()),
        1 => Just("HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
        1 => Just("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned()),
    ];
    let status = prop::sample::select(vec![200u16, 206, 204, 304, 404, 500, 599]);
    let method = prop::sample::select(vec!["GET", "HEAD", "POST"]);
    (interim, status, method, fields(), body()).prop_map(
        |(interim, status, method, fields, (framing, body))| {
            let bodiless = method == "HEAD" || status == 204 || status == 304;
            let framing = if framing.is_empty() { "Content-Length: 0\r\n".to_owned() } else { framing };
            let head = format!("{interim}HTTP/1.1 {status} Reason \u{e9}\r\n{fields}{framing}\r\n");
            (method.to_owned(), if bodiless { head.into_bytes() } else { [head.as_bytes(), &body].concat() })
        },
    )
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![4 => 1usize..8, 1 => 1usize..300], 0..400)
}

/// Bytes that get far into the parsers.
fn almost_http() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "GET ",
        "/ ",
        "HTTP/1.1",
        "\r\n",
        "\r",
        "\n",
        "\r\n\r\n",
        "Host: h\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "5",
        "0",
        "ffffffffffffffff",
        ";",
        ":",
        " ",
        "\0",
        "a",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 C\r\n\r\n",
        "é",
    ]);
    let word = prop_oneof![9 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..5)];
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn requests_are_found_where_the_naive_parser_finds_them(
        stream in prop::collection::vec(request(), 0..6).prop_map(|r| r.concat()),
        pieces in pieces(),
    ) {
        let (whole, refusal) = watch_requests(&stream, &[]);
        prop_assert_eq!(refusal, None);
        prop_assert_eq!(lengths(&whole), naive_requests(&stream));
        prop_assert_eq!(watch_requests(&stream, &pieces), (whole, None));
    }

    #[test]
    fn responses_are_found_where_the_naive_parser_finds_them(
        responses in prop::collection::vec(response(), 0..6),
        until_close in prop::option::of(data()),
        pieces in pieces(),
    ) {
        let (mut methods, bytes): (Vec<String>, Vec<Vec<u8>>) = responses.into_iter().unzip();
        let mut stream = bytes.concat();
        if let Some(data) = &until_close {
            methods.push("GET".to_owned());
            stream.extend_from_slice(b"HTTP/1.0 200 OK\r\n\r\n");
            stream.extend_from_slice(data);
        }
        let ((whole, refusal), finish) = watch_responses(&stream, &methods, &[]);
        prop_assert_eq!(refusal, None);
        prop_assert_eq!(lengths(&whole), naive_responses(&stream, &methods));
        prop_assert_eq!(finish, if until_close.is_some() { Finish::Complete } else { Finish::Between });
        prop_assert_eq!(watch_responses(&stream, &methods, &pieces), ((whole, None), finish));
    }

    #[test]
    fn a_cut_stream_is_premature_unless_cut_between_messages(responses in prop::collection::vec(response(), 1..4), at in any::<prop::sample::Index>()) {
        let (methods, bytes): (Vec<String>, Vec<Vec<u8>>) = responses.into_iter().unzip();
        let stream = bytes.concat();
        let cut = at.index(stream.len() + 1);
        let ((_, refusal), finish) = watch_responses(&stream[..cut], &methods, &[]);
        prop_assert_eq!(refusal, None);
        let mut ends = vec![0];
        for (head, body) in naive_responses(&stream, &methods) { ends.push(ends[ends.len() - 1] + head + body); }
        prop_assert_eq!(finish == Finish::Between, ends.contains(&cut), "{:?} in {:?}", cut, ends);
    }

    #[test]
    fn spoilt_streams_are_understood_the_same_way_however_they_are_cut(
        requests in prop::collection::vec(request(), 1..4),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        pieces in pieces(),
    ) {
        let mut stream = requests.concat();
        for (at, byte) in spoilt { let at = at.index(stream.len()); stream[at] = byte; }
        let heads = |seen: Vec<Seen<RequestHead>>| seen.into_iter().filter(|s| !matches!(s, Seen::Body(_))).collect::<Vec<_>>();
        let (whole, refusal) = watch_requests(&stream, &[]);
        let (cut, cut_refusal) = watch_requests(&stream, &pieces);
        prop_assert_eq!(refusal, cut_refusal);
        prop_assert_eq!(heads(whole), heads(cut));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), almost_http()], pieces in pieces()) {
        watch_requests(&bytes, &pieces);
        let methods = ["GET", "HEAD", "CONNECT", "GET"].map(str::to_owned);
        watch_responses(&bytes, &methods, &pieces);
        let _ = parse_request(&bytes, 100);
        let _ = http1::parse_response(&bytes, 100, "GET");
        let _ = http1::range_request(&bytes, 5, Some("\"x\""));
        let _ = http1::compare_heads(&bytes, &bytes[bytes.len() / 2..], &["host".to_owned()]);
    }

    #[test]
    fn the_router_and_the_framer_read_the_same_head(bytes in prop_oneof![request(), almost_http()]) {
        let (seen, refusal) = watch_requests(&bytes, &[]);
        match parse_request(&bytes, DEFAULT_MAX_HEAD) {
            Ok(Some(head)) => prop_assert_eq!(seen.first(), Some(&Seen::Head(head.head_bytes, Box::new(head)))),
            // The router may refuse earlier: it is asked whether a head can still come.
            Ok(None) => prop_assert!(refusal.is_none()),
            Err(_) => prop_assert!(!matches!(seen.first(), Some(Seen::Head(..)))),
        }
    }
}
