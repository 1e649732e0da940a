//! What nobody here wrote: the inputs of llhttp's test suite, and mutations of them, with what llhttp made of each. Where both
//! find the end of a message it is the same one, and none is found that llhttp does not find; and wherever a message is cut in
//! two, or byte by byte, the result is the same.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, MAX, MUTATED, SUITE, cases};
use http1::{Event, Refusal, RequestFramer, ResponseFramer, Step};

type Outcome = (Vec<usize>, Option<Refusal>);

fn follow<H>(pieces: &[&[u8]], mut feed: impl FnMut(&[u8]) -> Result<Step<H>, Refusal>) -> Outcome {
    let (mut at, mut ends) = (0, Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match feed(rest) {
                Ok(step) => step,
                Err(refusal) => return (ends, Some(refusal)),
            };
            at += step.consumed;
            rest = &rest[step.consumed..];
            match step.event {
                Event::MessageEnd => ends.push(at),
                Event::NeedMore => break,
                _ => {}
            }
        }
    }
    (ends, None)
}

fn read(is_request: bool, pieces: &[&[u8]]) -> Outcome {
    if is_request {
        let mut framer = RequestFramer::new(MAX);
        return follow(pieces, |piece| framer.feed(piece));
    }
    let mut framer = ResponseFramer::new(MAX);
    (0..32).for_each(|_| framer.expect("GET").unwrap());
    follow(pieces, |piece| framer.feed(piece))
}

/// Where llhttp goes no further: its user decides.
fn is_pause(stop: &str) -> bool {
    matches!(stop, "HPE_PAUSED_UPGRADE" | "HPE_CLOSED_CONNECTION")
}

/// llhttp knows certain methods and takes only ASCII in targets; RFC 9110 §9.1 lets any token be a method. Where messages end does
/// not depend on it.
fn is_about_names(stop: &str) -> bool {
    matches!(stop, "HPE_INVALID_METHOD" | "HPE_INVALID_URL")
}

/// Where we differ from llhttp, and why. Mutations have the name of what they come from.
const DIFFERENT: &[(&str, &str)] = &[
    ("HTTP 100 first, then 400", "llhttp counts an interim response as a message"),
    ("HTTP 103 first, then 200", "llhttp counts an interim response as a message"),
    ("HTTP protocol and ANNOUNCE method", "any token is a method"),
    (
        "No extension after semicolon",
        "an extension without a name is let pass: it has no meaning, and ends nowhere else",
    ),
];

/// Compares; whether both understand all of it, or how they contradict each other.
fn compare(case: &Case<'_>) -> Result<bool, String> {
    let (ours, refusal) = read(case.is_request, &[&case.bytes]);
    let Case { name, ends, stop, .. } = case;
    // Of a CONNECT or Upgrade llhttp looks at no body: what follows is its user's.
    let same = if is_pause(stop) { ends.len().saturating_sub(1) } else { ends.len() };
    let other = ours.iter().zip(ends.iter().take(same)).any(|(ours, theirs)| ours != theirs);
    let more = !is_pause(stop) && !is_about_names(stop) && ours.len() > ends.len();
    let fewer = !is_pause(stop) && refusal.is_none() && ours.len() < ends.len();
    let known = DIFFERENT.iter().any(|(known, _)| name.ends_with(known));
    if !known && (other || more || fewer) {
        let text = String::from_utf8_lossy(&case.bytes);
        return Err(format!("{name}: ours {ours:?} {refusal:?}, llhttp's {ends:?} {stop}: {text:?}"));
    }
    Ok(refusal.is_none() && *stop == "ok")
}

/// How many cases there are, and how many both understand; all contradictions at once.
fn compare_all(text: &str) -> (usize, usize) {
    let results: Vec<_> = cases(text).map(|case| compare(&case)).collect();
    let contradictions: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(contradictions.is_empty(), "{contradictions:#?}");
    (results.len(), results.iter().filter(|result| **result == Ok(true)).count())
}

#[test]
fn llhttps_suite_is_read_as_llhttp_reads_it() {
    let (all, understood) = compare_all(SUITE);
    println!("{understood} of {all} are understood by both");
    assert!(all > 150 && understood > 30, "{understood} of {all}");
}

#[test]
fn mutations_are_never_read_as_other_messages() {
    let (all, understood) = compare_all(MUTATED);
    println!("{understood} of {all} are understood by both");
    assert!(all > 600 && understood > 30, "{understood} of {all}");
}

#[test]
fn every_cut_gives_the_same() {
    for case in cases(SUITE).chain(cases(MUTATED)) {
        let whole = read(case.is_request, &[&case.bytes]);
        for at in 1..case.bytes.len() {
            let (first, second) = case.bytes.split_at(at);
            assert_eq!(read(case.is_request, &[first, second]), whole, "{} cut at {at}", case.name);
        }
        let bytes: Vec<_> = case.bytes.chunks(1).collect();
        assert_eq!(read(case.is_request, &bytes), whole, "{} byte by byte", case.name);
    }
}
