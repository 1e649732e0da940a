//! Streams: mutations of ones that others wrote, and messages made of parts that parsers are known to disagree about.

use crate::Stream;
use crate::common::unescape;

const METHODS: &[&str] = &["GET", "HEAD", "POST", "CONNECT"];
const LINE_ENDS: &[&str] = &["\r\n"];
const BAD_LINE_ENDS: &[&str] = &["\n", "\r", "\r\r\n", "\n\r\n", " \r\n", "\u{b}\r\n"];
const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "POST /a?b=c HTTP/1.1",
    "PUT http://h/x HTTP/1.1",
    "GET / HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "CONNECT h:1 HTTP/1.1",
    "G!T /%00 HTTP/1.1",
];
const BAD_REQUEST_LINES: &[&str] = &[
    "GET  / HTTP/1.1",
    "GET /\u{e9} HTTP/1.1",
    "GET / HTTP/1.2",
    "GET / http/1.1",
    "GET /",
    "GET /a b HTTP/1.1",
];
const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 404 Not \u{e9}",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 No",
    "HTTP/1.1 304 Not",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 103 Hints",
    "HTTP/1.1 200 ",
];
const BAD_STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200",
    "HTTP/1.1 99 x",
    "HTTP/1.1 600 x",
    "HTTP/1.1 101 S",
    "HTTP/1.1  200 OK",
    "HTTP/2 200 OK",
];
const FIELDS: &[&str] = &[
    "Host: h",
    "Connection: close",
    "Connection: keep-alive",
    "X: ",
    "X:a",
    "Cookie: \t a=b \t",
    "Accept: \u{e9}\u{ff}",
    "Expect: 100-continue",
    "Upgrade: x",
];
const FRAMING: &[&str] = &[
    "Content-Length: 0",
    "Content-Length: 5",
    "content-length:  0010 ",
    "Transfer-Encoding: chunked",
    "transfer-encoding:CHUNKED",
];
const BAD_FIELDS: &[&str] = &[
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: 5 5",
    "Content-Length: 0x5",
    "Content-Length: \u{b2}",
    "Content-Length: 18446744073709551621",
    "Content-Length : 5",
    "Content_Length: 5",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding\t: chunked",
    " folded",
    "\tTransfer-Encoding: chunked",
    ": empty",
    "no colon",
    "X: \u{1}",
    "X: \u{7f}",
    "X: \u{c}",
    "\u{e9}: x",
    "Host: a b",
];
const BODIES: &[&str] = &["", "abcde", "0123456789", "0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\r\n"];
const SIZES: &[&str] = &["5", "05", "5;a", "5;a=b", "5 ;a=\"b;\r\"", "A", "0a", "0000000000000005"];
const BAD_SIZES: &[&str] = &[
    "5 ",
    " 5",
    "+5",
    "0x5",
    "5;",
    "5;=",
    "-1",
    "ffffffffffffffff",
    "10000000000000005",
    "g",
    "5\t;a",
    "5;a\u{0}",
    "",
];
const TRAILERS: &[&str] = &["", "", "", "X: y\r\n", "X: y\r\nZ:\r\n"];
const BAD_TRAILERS: &[&str] = &["X : y\r\n", " X: y\r\n", "X: y\n", "X\r\n", "X: y\r\n folded\r\n"];

/// `SplitMix64` (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// Usually a good one.
    fn mostly<'a>(&mut self, good: &[&'a str], bad: &[&'a str]) -> &'a str {
        if self.one_in(20) { self.pick(bad) } else { self.pick(good) }
    }
}

/// The next stream.
pub(crate) fn any(random: &mut Random, seeds: &[Stream]) -> Stream {
    let mut stream = if random.one_in(3) { seeds[random.below(seeds.len())].clone() } else { made(random) };
    if random.one_in(3) {
        for _ in 0..=random.below(3) {
            mutate(random, &mut stream.bytes, seeds);
        }
    }
    stream
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Stream]) {
    let at = random.below(bytes.len() + 1);
    let to = (at + random.below(8)).min(bytes.len());
    match random.below(6) {
        0 => drop(bytes.drain(at..to)),
        1 => bytes.insert(at, b"\r\n\t :;,0\0\x7f\x80"[random.below(11)]),
        2 => bytes.splice(at..at, bytes[at..to].to_vec()).for_each(drop),
        3 => bytes.truncate(at),
        4 => {
            let other = &seeds[random.below(seeds.len())].bytes;
            let from = random.below(other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied()).for_each(drop);
        }
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
    }
}

/// One to three messages.
fn made(random: &mut Random) -> Stream {
    let methods = random.one_in(2).then(|| vec![METHODS[random.below(METHODS.len())]; 4]);
    let count = 1 + random.below(3);
    let bytes = (0..count).flat_map(|_| message(random, methods.is_none())).collect();
    Stream { methods, bytes }
}

fn message(random: &mut Random, is_request: bool) -> Vec<u8> {
    let mut text = if is_request && random.one_in(10) { "\r\n".to_owned() } else { String::new() };
    let mut line = |random: &mut Random, line: &str| {
        text.push_str(line);
        text.push_str(random.mostly(LINE_ENDS, BAD_LINE_ENDS));
    };
    let first = if is_request {
        random.mostly(REQUEST_LINES, BAD_REQUEST_LINES)
    } else {
        random.mostly(STATUS_LINES, BAD_STATUS_LINES)
    };
    line(random, first);
    if is_request {
        line(random, "Host: h");
    }
    for _ in 0..random.below(3) {
        let field = random.mostly(&FIELDS[1..], BAD_FIELDS);
        line(random, field);
    }
    let framing = if random.one_in(4) { None } else { Some(random.mostly(FRAMING, BAD_FIELDS)) };
    if let Some(framing) = framing {
        line(random, framing);
    }
    if random.one_in(15) {
        let second = random.pick(FRAMING);
        line(random, second);
    }
    line(random, "");
    let mut bytes = latin(&text);
    match framing.map(str::to_ascii_lowercase) {
        Some(framing) if framing.contains("chunked") => bytes.extend(chunks(random)),
        Some(framing) if framing.contains("10") => bytes.extend_from_slice(b"0123456789"),
        Some(framing) if framing.contains('5') => bytes.extend_from_slice(b"01234"),
        _ if random.one_in(4) => bytes.extend_from_slice(random.pick(BODIES).as_bytes()),
        _ => {}
    }
    bytes
}

fn chunks(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(3) {
        let size = random.mostly(SIZES, BAD_SIZES);
        let data: &[u8] = if size.to_ascii_lowercase().contains('a') && !size.contains(';') {
            b"0123456789"
        } else {
            b"01234"
        };
        bytes.extend(latin(size));
        bytes.extend_from_slice(random.mostly(LINE_ENDS, BAD_LINE_ENDS).as_bytes());
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(random.mostly(LINE_ENDS, BAD_LINE_ENDS).as_bytes());
    }
    bytes.extend_from_slice(b"0\r\n");
    bytes.extend_from_slice(random.mostly(TRAILERS, BAD_TRAILERS).as_bytes());
    bytes.extend_from_slice(random.mostly(LINE_ENDS, BAD_LINE_ENDS).as_bytes());
    bytes
}

/// Each character one byte.
fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|character| character as u8).collect()
}

/// As a line of the kept corpus.
pub(crate) fn line(stream: &Stream) -> String {
    let kind = stream.methods.as_ref().map_or("requests".to_owned(), |methods| methods.join(","));
    let escape = |byte: &u8| match byte {
        b'\r' => "\\r".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("{kind}\t{}", stream.bytes.iter().map(escape).collect::<String>())
}

/// The reverse.
pub(crate) fn stream(line: &str) -> Option<Stream> {
    let (kind, bytes) = line.split_once('\t')?;
    let known = |name: &str| METHODS.iter().copied().find(|method| *method == name);
    let methods = match kind {
        "requests" => None,
        methods => Some(methods.split(',').map(known).collect::<Option<Vec<_>>>()?),
    };
    Some(Stream { methods, bytes: unescape(bytes) })
}
