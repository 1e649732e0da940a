//! What is asked for and answered: deterministic bytes, the same on every backend, except where a run says otherwise.

use http1::RequestHead;

use crate::rng::Rng;

/// One exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Get(usize),
    /// Answered in chunks.
    Chunked(usize),
    /// Answered until the connection closes: the last of its connection.
    UntilClose(usize),
    /// Echoed; the path says whether it may be repeated.
    Post {
        bytes: usize,
        idempotent: bool,
    },
    /// So many bytes that tell how many updates this server has run on this connection: so many.
    Session {
        bytes: usize,
        updates: usize,
    },
}

/// How one backend's answers differ from the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variant {
    /// This byte of every body is another one.
    pub flipped: Option<usize>,
    /// Another version: another `ETag`.
    pub version: u8,
    /// `Range` is answered with the whole.
    pub no_ranges: bool,
    /// `Range` is refused.
    pub refuses_ranges: bool,
    /// Longer, or shorter, chunks than the usual ones.
    pub chunk: Option<usize>,
}

/// The usual length of a chunk.
const CHUNK: usize = 1000;

/// In some runs each backend cuts what is asked for into chunks of its own: whether in this one.
pub fn draw_chunks(variants: &mut [Variant], rng: &mut Rng) -> bool {
    let differ = rng.chance(300);
    for variant in variants.iter_mut().filter(|_| differ) {
        variant.chunk = Some(rng.between(1, 4) as usize * rng.pick(&[7, 300, 2_000, 10_000]));
    }
    differ
}

/// The backends cut the same content into other chunks.
pub fn rechunk(variants: &[Variant]) -> bool {
    variants.windows(2).any(|pair| pair[0].chunk != pair[1].chunk)
}

/// The backends answer differently.
pub fn differ(variants: &[Variant]) -> bool {
    variants.windows(2).any(|pair| !pair[0].answers_like(pair[1]))
}

impl Variant {
    /// Its answers say the same, in other chunks perhaps.
    pub fn answers_like(self, other: Self) -> bool {
        self == Self { chunk: self.chunk, ..other }
    }
}

const DATE: usize = 29;

/// Answers to requests below this path end with their connection.
pub const UNTIL_CLOSE: &str = "/until-close";

pub fn body(bytes: usize, flipped: Option<usize>) -> Vec<u8> {
    // No zero: that is what keep-alives carry.
    let mut body: Vec<u8> = (0..bytes).map(|i| (((i * 31) ^ (i >> 8) ^ (bytes * 7)) as u8).max(1)).collect();
    if let Some(byte) = flipped.and_then(|at| body.get_mut(at)) {
        *byte = byte.wrapping_add(1).max(1);
    }
    body
}

impl Request {
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Get(bytes) => get("files", bytes),
            Self::Chunked(bytes) => get("chunked", bytes),
            Self::UntilClose(bytes) => get("until-close", bytes),
            Self::Session { bytes, .. } => get("session", bytes),
            Self::Post { bytes, idempotent } => {
                let path = if idempotent { "safe" } else { "update" };
                let head =
                    format!("POST /{path} HTTP/1.1\r\nHost: sim.example\r\nContent-Length: {bytes}\r\n\r\n");
                [head.into_bytes(), body(bytes, None)].concat()
            }
        }
    }

    /// The answer, its `Date` masked, without the framing of chunks; and how long the head is that chunks follow.
    pub fn unframed(self, variant: Variant) -> (Vec<u8>, Option<usize>) {
        let Self::Chunked(bytes) = self else { return (self.answer(variant), None) };
        let head = chunked_head(&"?".repeat(DATE));
        let length = head.len();
        ([head, body(bytes, variant.flipped)].concat(), Some(length))
    }

    /// The answer, its `Date` masked.
    pub fn answer(self, variant: Variant) -> Vec<u8> {
        let date = "?".repeat(DATE);
        match self {
            Self::Get(bytes) => whole(&body(bytes, variant.flipped), variant, &date),
            Self::Chunked(bytes) => chunked(&body(bytes, variant.flipped), variant, &date),
            Self::UntilClose(bytes) => until_close(&body(bytes, variant.flipped), &date),
            Self::Post { bytes, .. } => whole(&body(bytes, None), variant, &date),
            Self::Session { bytes, updates } => session(bytes, updates, &date),
        }
    }
}

fn get(path: &str, bytes: usize) -> Vec<u8> {
    format!("GET /{path}/{bytes} HTTP/1.1\r\nHost: sim.example\r\nUser-Agent: simulation\r\n\r\n")
        .into_bytes()
}

fn chunked_head(date: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nServer: simulation\r\nDate: {date}\r\nTransfer-Encoding: chunked\r\n\r\n")
        .into_bytes()
}

fn chunked(body: &[u8], variant: Variant, date: &str) -> Vec<u8> {
    let mut answer = chunked_head(date);
    for chunk in body.chunks(variant.chunk.unwrap_or(CHUNK)) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// Another version with other bytes after each update.
fn session(bytes: usize, updates: usize, date: &str) -> Vec<u8> {
    let body: Vec<u8> =
        body(bytes, None).iter().map(|byte| byte.wrapping_add(updates as u8).max(1)).collect();
    whole(&body, Variant { version: updates as u8, ..Variant::default() }, date)
}

fn until_close(body: &[u8], date: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nServer: simulation\r\nDate: {date}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn whole(body: &[u8], variant: Variant, date: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: simulation\r\nDate: {date}\r\nContent-Length: {}\r\nETag: \"{}-{}\"\r\nAccept-Ranges: bytes\r\n\r\n",
        body.len(),
        body.len(),
        variant.version
    );
    [head.as_bytes(), body].concat()
}

fn part(body: &[u8], first: usize, variant: Variant, date: &str) -> Vec<u8> {
    let rest = &body[first..];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nServer: simulation\r\nDate: {date}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{}\r\nETag: \"{}-{}\"\r\nAccept-Ranges: bytes\r\n\r\n",
        rest.len(),
        body.len() - 1,
        body.len(),
        body.len(),
        variant.version
    );
    [head.as_bytes(), rest].concat()
}

fn unsatisfiable(date: &str) -> Vec<u8> {
    format!("HTTP/1.1 416 Range Not Satisfiable\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// What a backend answers that has run so many updates on this connection.
pub fn respond(head: &RequestHead, content: &[u8], variant: Variant, updates: usize, date: &str) -> Vec<u8> {
    assert_eq!(date.len(), DATE);
    if head.method() == "POST" {
        return whole(content, variant, date);
    }
    let (path, bytes) = head.path().rsplit_once('/').unwrap_or_default();
    let bytes: usize = bytes.parse().unwrap_or(0);
    let body = body(bytes, variant.flipped);
    match path {
        "/chunked" => return chunked(&body, variant, date),
        UNTIL_CLOSE => return until_close(&body, date),
        "/session" => return session(bytes, updates, date),
        _ => {}
    }
    let text = |name| head.field(name).and_then(|value| std::str::from_utf8(value).ok());
    let first = text("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let same = text("if-range").is_none_or(|etag| etag == format!("\"{bytes}-{}\"", variant.version));
    match first.filter(|first| *first < bytes && same && !variant.no_ranges) {
        Some(_) if variant.refuses_ranges => unsatisfiable(date),
        Some(first) => part(&body, first, variant, date),
        None => whole(&body, variant, date),
    }
}

/// Where the `Date` value of an answer is: it may be any execution's.
pub fn date_range(answer: &[u8]) -> std::ops::Range<usize> {
    let name = b"\r\nDate: ";
    let at = answer.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    at..at + DATE
}

/// One of the answers, which follow one another from the first or a later request on, has its date there.
pub fn in_date(requests: &[Request], at: u64) -> bool {
    let answers: Vec<Vec<u8>> = requests.iter().map(|request| request.answer(Variant::default())).collect();
    (0..answers.len()).any(|first| {
        let mut begin = 0;
        answers[first..].iter().any(|answer| {
            let date = date_range(answer);
            let found = (begin + date.start..begin + date.end).contains(&(at as usize));
            begin += answer.len();
            found
        })
    })
}
