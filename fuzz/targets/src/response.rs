//! The boundaries of responses: the same stream cut anywhere gives the same result.

use http1::{Finish, ResponseFramer, ResponseHead, compare_heads, parse_response};

use crate::Input;
use crate::request::{Read, gather};

const MAX_HEAD: usize = 600;
const METHODS: [&str; 4] = ["GET", "HEAD", "CONNECT", "POST"];

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cuts = input.cuts();
    let choices = input.byte();
    let methods: Vec<&str> =
        (0..3).map(|at| METHODS[usize::from(choices >> (2 * at)) % METHODS.len()]).collect();
    let stream = input.rest();
    let whole = read(stream, std::iter::repeat(stream.len().max(1)), &methods);
    assert_eq!(whole, read(stream, cuts, &methods), "cut elsewhere it is something else");
    readers_agree(stream, methods[0], &whole.0);
    compare(stream);
}

fn read(
    stream: &[u8],
    cuts: impl Iterator<Item = usize>,
    methods: &[&str],
) -> (Vec<Read<ResponseHead>>, Finish, usize) {
    let mut framer = ResponseFramer::new(MAX_HEAD);
    for method in methods {
        framer.expect(method).expect("few");
    }
    let events = gather(stream, cuts, |piece| framer.feed(piece));
    (events, framer.finish(), framer.outstanding())
}

fn readers_agree(stream: &[u8], method: &str, events: &[Read<ResponseHead>]) {
    match (parse_response(stream, MAX_HEAD, method), events.first()) {
        (Ok(Some(head)), Some(Read::Head(framed, end))) => {
            assert_eq!((&head, head.head_bytes), (&**framed, *end));
            assert!((100..=599).contains(&head.status));
            assert!(head.content_range().is_none_or(|range| range.first <= range.last));
        }
        (Ok(None), None) | (Err(_), Some(Read::Refused(_))) => {}
        (parsed, framed) => panic!("one reader finds {parsed:?}, the other {framed:?}"),
    }
}

/// A head equals itself, and only names listed as volatile excuse a difference.
fn compare(stream: &[u8]) {
    let volatile = ["Date".to_owned()];
    let (left, right) = stream.split_at(stream.len() / 2);
    assert_eq!(compare_heads(left, left, &volatile), Ok(()));
    assert_eq!(compare_heads(left, stream, &[]), Ok(()));
    match compare_heads(left, right, &[]) {
        Ok(()) => assert!(right.starts_with(left)),
        Err(at) => {
            assert_eq!(left.get(..at), right.get(..at), "the first difference comes later");
            assert_ne!(left.get(at), right.get(at), "no difference there");
        }
    }
    if let Err(at) = compare_heads(left, right, &volatile) {
        assert_ne!(left.get(at), right.get(at), "no difference there");
    }
}
