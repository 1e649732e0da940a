//! Request heads and the boundaries of requests: the same stream cut anywhere gives the same result, the two readers
//! of a head agree, and httparse reads the same head.

use http1::{Event, Refusal, RequestFramer, RequestHead, Step, parse_request, range_request};

use crate::Input;

const MAX_HEAD: usize = 600;

/// What a stream was read as: offsets of its message boundaries, bytes of one kind in a row counted together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<H> {
    Head(Box<H>, usize),
    Body(usize),
    End(usize),
    Refused(Refusal),
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cuts = input.cuts();
    let stream = input.rest();
    let whole = read(stream, std::iter::repeat(stream.len().max(1)));
    assert_eq!(whole, read(stream, cuts), "cut elsewhere it is something else");
    readers_agree(stream, &whole);
}

fn read(stream: &[u8], cuts: impl Iterator<Item = usize>) -> Vec<Read<RequestHead>> {
    let mut framer = RequestFramer::new(MAX_HEAD);
    gather(stream, cuts, |piece| framer.feed(piece))
}

/// Feeds a stream in pieces and gathers the events.
pub(crate) fn gather<H>(
    mut stream: &[u8],
    cuts: impl Iterator<Item = usize>,
    mut feed: impl FnMut(&[u8]) -> Result<Step<H>, Refusal>,
) -> Vec<Read<H>> {
    let (mut events, mut at) = (Vec::new(), 0);
    for cut in cuts {
        let (mut piece, rest) = stream.split_at(cut.min(stream.len()));
        let last = rest.is_empty();
        stream = rest;
        loop {
            let Step { consumed, event } = match feed(piece) {
                Ok(step) => step,
                Err(refusal) => {
                    assert_eq!(feed(piece).err(), Some(refusal), "refused, and then not");
                    // How much of a bad body was good is not said.
                    events.pop_if(|event| matches!(event, Read::Body(_)));
                    events.push(Read::Refused(refusal));
                    return events;
                }
            };
            at += consumed;
            piece = piece.get(consumed..).expect("no more than it got");
            match (event, events.last_mut()) {
                (Event::NeedMore, _) => break,
                (Event::Head(head), _) => events.push(Read::Head(head, at)),
                (Event::HeadPart, _) => {}
                (Event::Body, Some(Read::Body(bytes))) => *bytes += consumed,
                (Event::Body, _) => events.push(Read::Body(consumed)),
                (Event::MessageEnd, _) => events.push(Read::End(at)),
            }
        }
        assert!(piece.is_empty(), "it wants more, but left something");
        if last {
            break;
        }
    }
    events
}

fn readers_agree(stream: &[u8], events: &[Read<RequestHead>]) {
    let parsed = parse_request(stream, MAX_HEAD);
    match (&parsed, events.first()) {
        (Ok(Some(head)), Some(Read::Head(framed, end))) => {
            assert_eq!((head, head.head_bytes), (&**framed, *end));
            httparse_agrees(stream, head);
            nothing_shorter_is_a_head(stream, head.head_bytes);
            can_be_continued(stream.get(..*end).expect("its own length"), head);
        }
        (Ok(Some(_)), other) => panic!("one reader finds a head, the other {other:?}"),
        (Ok(None), Some(Read::Head(..) | Read::Refused(_))) => panic!("one reader waits, the other not"),
        // What cannot become a head is refused by the one reader sooner than by the other.
        (Ok(None), _) | (Err(_), None | Some(Read::Refused(_))) => {}
        (Err(refusal), other) => panic!("one reader refuses ({refusal}), the other finds {other:?}"),
    }
}

fn httparse_agrees(stream: &[u8], head: &RequestHead) {
    let mut fields = [httparse::EMPTY_HEADER; http1::MAX_FIELDS];
    let mut theirs = httparse::Request::new(&mut fields);
    let status = theirs.parse(stream).expect("a head that we accept");
    assert_eq!(status, httparse::Status::Complete(head.head_bytes));
    assert_eq!((theirs.method, theirs.path), (Some(head.method()), Some(head.target())));
    assert_eq!(theirs.headers.len(), head.fields.iter().count());
    for (their, (name, value)) in theirs.headers.iter().zip(head.fields.iter()) {
        assert!(their.name.as_bytes() == name && their.value == value, "{their:?}");
    }
}

fn nothing_shorter_is_a_head(stream: &[u8], head_bytes: usize) {
    for end in 0..head_bytes {
        let prefix = parse_request(stream.get(..end).expect("a prefix"), MAX_HEAD);
        assert_eq!(prefix, Ok(None), "the first {end} bytes of a good head");
    }
}

/// A request for the rest is a request for the same thing.
fn can_be_continued(raw: &[u8], head: &RequestHead) {
    let Some(changed) = range_request(raw, 7, Some("\"etag\"")) else { return };
    let changed = parse_request(&changed, 2 * MAX_HEAD).expect("still a good request").expect("a whole one");
    assert_eq!((changed.line(), &changed.host), (head.line(), &head.host));
    let range = changed.fields.all("range").collect::<Vec<_>>();
    assert!(range.len() == 1 && range[0].starts_with(b"bytes=7-"), "{range:?}");
    assert_eq!(changed.fields.all("if-range").collect::<Vec<_>>(), [b"\"etag\""]);
}
