//! Our parser beside h11 (python3-h11), which shares nothing with it. What we accept h11 reads the same way: the same heads, ending
//! at the same bytes, and the same ends of messages. What only one of the two accepts is for a reason listed here.
//!
//! `DIFFERENTIAL_STREAMS=1000000 DIFFERENTIAL_SEED=7 cargo test -p http1 --test differential -- --nocapture` takes longer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/oracle.rs"]
mod oracle;
#[path = "differential/ours.rs"]
mod ours;

use std::collections::BTreeMap;

use common::{MUTATED, SUITE, cases};
use generate::Random;
use oracle::Oracle;

/// Streams made anew in each run of the tests.
const STREAMS: u64 = 10_000;
/// Streams that once were read differently, or that reach a rule of ours: `requests` or the methods asked with, a tab, the bytes.
const KEPT: &str = include_str!("corpus/differential.tsv");

/// What is sent, and to which requests it answers if it is a response.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// None: these are requests.
    pub(crate) methods: Option<Vec<&'static str>>,
    pub(crate) bytes: Vec<u8>,
}

/// What a stream was read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// First line and fields of a head, and the offset behind it.
    Head(String, usize),
    /// A message ends here.
    End(usize),
    /// Its body ends with the connection.
    Close,
    /// From here on it is no HTTP.
    Opaque,
    /// The message is not complete.
    More,
    Refused(String),
}

/// What we refuse and h11 takes. A splice cannot rewrite bytes: what a backend might read in another way is not let pass.
const STRICTER: &[(&str, &str)] = &[
    (
        "line feed without carriage return",
        "RFC 9112 §2.2 lets a recipient take a bare LF as a line end; others do not",
    ),
    (
        "bad field name, folded line or space before the colon",
        "RFC 9112 §5.2 lets a server unfold lines; others do not",
    ),
    ("malformed request line", "what is no HTTP is seen earlier"),
    (
        "Content-Length and Transfer-Encoding together",
        "RFC 9112 §6.1: perhaps smuggling; h11 lets the coding win",
    ),
    (
        "several Content-Length fields",
        "RFC 9112 §6.3 lets equal ones be taken as one; others take the first or last",
    ),
    ("invalid Content-Length", "a list of equal lengths likewise; and lengths of more than 63 bits"),
    ("Transfer-Encoding in HTTP/1.0", "RFC 9112 §6.1: the framing is faulty; h11 believes it"),
    ("invalid Host field", "RFC 9112 §3.2 demands 400; h11 only counts the fields"),
    ("several Host fields", "likewise in HTTP/1.0"),
    ("invalid request target", "RFC 9112 §3.2 has four forms; h11 takes any visible characters"),
    ("invalid host in the request target", "likewise"),
    ("only HTTP/1.0 and HTTP/1.1 are served", "h11 takes any two digits for a version"),
    ("malformed chunk extension", "RFC 9112 §7.1.1's grammar; h11 takes anything behind a semicolon"),
    ("chunk size overflow", "more than 63 bits; h11 counts as far as it likes"),
    ("malformed chunk size", "h11 knows blanks behind a size that RFC 9112 does not"),
    ("control character in a field value", "RFC 9110 §5.5; h11 refuses NUL and white space only"),
    ("status outside 100 to 599", "RFC 9110 §15; h11 takes any three digits"),
    ("malformed status line", "RFC 9112 §4 demands the blank before the reason; h11 does not"),
    ("chunked is not the last transfer coding", "h11 knows no other coding"),
    ("malformed trailer section", "as a head's fields"),
    ("carriage return without line feed", "RFC 9112 §2.2; h11 drops one before a line end"),
];

/// What h11 refuses and we take, by its reason: how that begins, and behind an asterisk what it has.
const LAXER: &[(&str, &str)] = &[
    (
        "illegal request line*\\x",
        "bytes beyond ASCII in a target: servers take them, and where they end is as clear",
    ),
    (
        "Only Transfer-Encoding: chunked is supported",
        "RFC 9112 §6.3: such a response ends with its connection",
    ),
    (
        "illegal chunk header*\\t",
        "a tab before an extension, which RFC 9112 §7.1.1 has; h11 knows spaces only",
    ),
    (
        "illegal chunk header*(b'00000",
        "leading zeros without end, as far as a line may go; h11 takes twenty digits",
    ),
    (
        "no response line received",
        "empty lines between an interim response and the final one: llhttp skips them as well",
    ),
];

/// What h11 says of fields that mean nothing to us in a response that has no body (RFC 9112 §6.3) and in trailers (RFC 9110 §6.5.1),
/// whatever they say.
const MEANINGLESS: &[(&str, &str)] = &[
    ("bad Content-Length", ""),
    ("conflicting Content-Length headers", ""),
    ("multiple Transfer-Encoding headers", ""),
];

/// The first of these is a head without a body, or the end behind trailers.
fn says_nothing_of_length(items: &[Item]) -> bool {
    match items {
        [Item::End(_), ..] | [Item::Head(..), Item::Opaque, ..] => true,
        [Item::Head(_, head), Item::End(end), ..] => head == end,
        [Item::Head(text, _), ..] => text.starts_with('1'),
        _ => false,
    }
}

/// How two readings differ: neither accepts what the other reads in another way, or the reason is unknown.
fn compare(ours: &[Item], theirs: &[Item]) -> Result<Option<&'static str>, String> {
    let at = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    match (ours.get(at), theirs.get(at)) {
        // Or one of them sees earlier that nothing good can come.
        (None, None)
        | (Some(Item::Refused(_)), Some(Item::Refused(_) | Item::More))
        | (Some(Item::More), Some(Item::Refused(_))) => Ok(None),
        (Some(Item::Refused(reason)), Some(_)) => reason_of(STRICTER, reason),
        (Some(_), Some(Item::Refused(reason))) if says_nothing_of_length(&ours[at..]) => {
            reason_of(MEANINGLESS, reason).or_else(|_| reason_of(LAXER, reason))
        }
        (Some(_), Some(Item::Refused(reason))) => reason_of(LAXER, reason),
        (ours, theirs) => Err(format!("ours {ours:?}, h11's {theirs:?}")),
    }
}

fn reason_of(known: &[(&'static str, &str)], reason: &str) -> Result<Option<&'static str>, String> {
    let fits = |known: &str| {
        let (begins, has) = known.split_once('*').unwrap_or((known, ""));
        reason.starts_with(begins) && reason.contains(has)
    };
    let found = known.iter().find(|(known, _)| fits(known));
    found.map(|(known, _)| Some(*known)).ok_or_else(|| format!("no reason is known: {reason}"))
}

/// Reads each stream with both; how often each known difference was met.
fn compare_all(streams: impl Iterator<Item = Stream>) -> BTreeMap<&'static str, u64> {
    let mut oracle = Oracle::start();
    let (mut met, mut contradictions) = (BTreeMap::new(), BTreeMap::new());
    for stream in streams {
        let (ours, theirs) = (ours::read(&stream), oracle.read(&stream));
        match compare(&ours, &theirs) {
            Ok(difference) => *met.entry(difference.unwrap_or("none")).or_default() += 1,
            // One of each sort is enough to read.
            Err(why) => {
                let sort: String = why.chars().take(60).collect();
                contradictions.entry(sort).or_insert((why, stream));
            }
        }
    }
    let shown = contradictions.values().map(|(why, stream)| format!("{why}\n  {}\n", generate::line(stream)));
    assert!(contradictions.is_empty(), "{}", shown.collect::<String>());
    met
}

fn kept() -> impl Iterator<Item = Stream> {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| generate::stream(line).unwrap_or_else(|| panic!("{line}")))
}

/// llhttp's inputs, and mutations of them.
fn llhttps() -> Vec<Stream> {
    let all = cases(SUITE).chain(cases(MUTATED));
    all.map(|case| Stream { methods: (!case.is_request).then(|| vec!["GET"; 8]), bytes: case.bytes })
        .collect()
}

#[test]
fn llhttps_inputs_and_kept_ones_are_read_as_h11_reads_them() {
    let met = compare_all(llhttps().into_iter().chain(kept()));
    println!("{met:#?}");
    assert!(met["none"] > 400, "{met:?}");
}

#[test]
fn whatever_is_accepted_h11_reads_the_same_way() {
    let number = |name, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let (streams, seed): (u64, u64) =
        (number("DIFFERENTIAL_STREAMS", STREAMS), number("DIFFERENTIAL_SEED", 1));
    let seeds: Vec<Stream> = llhttps().into_iter().chain(kept()).collect();
    let mut random = Random::new(seed);
    let met = compare_all((0..streams).map(|_| generate::any(&mut random, &seeds)));
    println!("{streams} streams from seed {seed}: {met:#?}");
    assert!(met["none"] > streams / 2, "{met:?}");
}
