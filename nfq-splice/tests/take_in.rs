//! Whether the alternate's answer is the one that the client has seen, however it is cut into pieces.

use cluster::control::{ChunkedContent, Prefix, Stretch, TakeIn};
use http1::ChunkPlace;
use nfq_splice::take_in::{Comparison, Verdict};
use xxhash_rust::xxh3::xxh3_128;

const LOGGED: &str = "HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 40\r\n\r\n";
const OTHER_DATE: &str =
    "HTTP/1.1 200 OK\r\nDate: Wed, 16 Nov 1994 09:13:32 GMT\r\nContent-Length: 40\r\n\r\n";
const BODY: &[u8; 40] = b"0123456789abcdefghijklmnopqrstuvwxyzABCD";

fn prefix(head: &str, complete: bool, body: &[u8]) -> TakeIn {
    TakeIn::Prefix(whole_of(head, complete, body))
}

fn whole_of(head: &str, complete: bool, body: &[u8]) -> Prefix {
    Prefix {
        head: head.into(),
        head_complete: complete,
        volatile: vec!["date".to_owned()],
        body_bytes: body.len() as u64,
        hashes: vec![Stretch { bytes: body.len() as u64, hash: xxh3_128(body) }],
        content: None,
        tail: Vec::new(),
    }
}

fn range(first: u64, overlap: &[u8]) -> TakeIn {
    TakeIn::Range { first, complete: 40, overlap: overlap.to_vec(), whole: whole(first, overlap) }
}

fn whole(first: u64, overlap: &[u8]) -> Prefix {
    let body = [&BODY[..first as usize], overlap].concat();
    whole_of(LOGGED, true, &body)
}

/// Feeds the pieces until the verdict is there.
fn judge(expected: &TakeIn, pieces: &[&[u8]]) -> (Verdict, u64) {
    let mut comparison = Comparison::new(expected.clone());
    let mut verdict = Verdict::More;
    for piece in pieces {
        verdict = comparison.push(piece);
        assert!(comparison.taken() <= pieces.iter().map(|piece| piece.len() as u64).sum());
        if verdict != Verdict::More {
            break;
        }
    }
    assert!(
        !matches!(verdict, Verdict::Equal { .. }) || comparison.lacking() == 0,
        "equal, but not all has come"
    );
    (verdict, comparison.taken())
}

/// Every cut into two, every cut into bytes: always the same verdict.
fn every_split(expected: &TakeIn, stream: &[u8]) -> (Verdict, u64) {
    let whole = judge(expected, &[stream]);
    for at in 0..=stream.len() {
        let (first, second) = stream.split_at(at);
        let split = judge(expected, &[first, second]);
        assert!(same(&split, &whole), "cut at {at}: {split:?}, whole: {whole:?}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert!(same(&judge(expected, &bytes), &whole), "byte by byte");
    whole
}

/// How much context a mismatch shows depends on the cut.
fn same(one: &(Verdict, u64), other: &(Verdict, u64)) -> bool {
    match (&one.0, &other.0) {
        (Verdict::Mismatch { at, .. }, Verdict::Mismatch { at: there, .. }) => at == there,
        (Verdict::Unfit(_), Verdict::Unfit(_)) => true,
        _ => one == other,
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), body].concat()
}

fn equal(taken: usize) -> (Verdict, u64) {
    (Verdict::Equal { taken: taken as u64 }, taken as u64)
}

#[test]
fn nothing_to_take_in_is_equal_at_once() {
    assert_eq!(every_split(&TakeIn::Nothing, b"whatever"), equal(0));
    assert_eq!(Comparison::new(TakeIn::Nothing).lacking(), 0);
}

#[test]
fn the_same_prefix_is_equal_whatever_the_date() {
    for body in [0, 1, 39, 40] {
        let expected = prefix(LOGGED, true, &BODY[..body]);
        assert_eq!(every_split(&expected, &answer(OTHER_DATE, BODY)), equal(LOGGED.len() + body));
    }
}

#[test]
fn a_partial_head_is_compared_as_far_as_it_was_logged() {
    for cut in 1..LOGGED.len() {
        let expected = prefix(&LOGGED[..cut], false, b"");
        assert_eq!(every_split(&expected, &answer(OTHER_DATE, BODY)), equal(cut), "cut at {cut}");
    }
}

#[test]
fn less_than_was_logged_is_not_enough() {
    let expected = prefix(LOGGED, true, &BODY[..20]);
    let stream = answer(OTHER_DATE, &BODY[..19]);
    assert_eq!(every_split(&expected, &stream), (Verdict::More, stream.len() as u64));
}

/// The same content in fewer chunks is shorter: it ends before p, and its server is silent from then on.
#[test]
fn an_answer_that_ends_before_what_was_logged_is_a_mismatch_at_once() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let logged: &[u8] = b"3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n";
    let whole: &[u8] = b"9\r\nabcdefghi\r\n0\r\n\r\n";
    let (verdict, taken) = every_split(&prefix(head, true, logged), &answer(head, whole));
    let end = (head.len() + whole.len()) as u64;
    assert!(matches!(verdict, Verdict::Mismatch { at, .. } if at == end), "{verdict:?}");
    assert_eq!(taken, end);
}

#[test]
fn another_head_is_a_mismatch_where_it_differs() {
    let at = LOGGED.find("40").unwrap();
    let other = OTHER_DATE.replace("40", "41");
    let (verdict, _) = every_split(&prefix(LOGGED, true, BODY), &answer(&other, BODY));
    let Verdict::Mismatch { at: found, before, logged, alternate } = verdict else { panic!("{verdict:?}") };
    assert!(before.ends_with(b"Length: 4"), "{}", before.escape_ascii());
    assert_eq!(found, at as u64 + 1);
    assert!(logged.starts_with(b"0\r\n") && alternate.starts_with(b"1\r\n"));
}

#[test]
fn a_volatile_field_of_another_length_is_a_mismatch() {
    let other = OTHER_DATE.replace("Wed", "Wednesday");
    let (verdict, _) = every_split(&prefix(LOGGED, true, BODY), &answer(&other, BODY));
    assert!(matches!(verdict, Verdict::Mismatch { .. }), "{verdict:?}");
}

#[test]
fn the_first_other_byte_of_a_body_is_shown_as_far_as_its_end_is_kept() {
    for (byte, shown) in [(0, None), (29, None), (30, Some(30)), (39, Some(39))] {
        let mut other = *BODY;
        other[byte] ^= 1;
        let expected = whole_of(LOGGED, true, BODY);
        let expected = TakeIn::Prefix(Prefix { tail: BODY[30..].to_vec(), ..expected });
        let (verdict, _) = every_split(&expected, &answer(OTHER_DATE, &other));
        let Verdict::Mismatch { at, before, logged, alternate } = verdict else { panic!("{verdict:?}") };
        assert_eq!(at, (LOGGED.len() + shown.unwrap_or(0)) as u64);
        let Some(place) = shown else {
            assert!(before.is_empty() && logged.is_empty() && alternate.is_empty());
            continue;
        };
        assert_eq!((&before[..], &logged[..]), (&BODY[30..place], &BODY[place..]));
        assert_eq!(alternate, other[place..]);
    }
}

#[test]
fn another_body_byte_is_a_mismatch_if_it_was_logged() {
    for (byte, seen) in [(0, true), (19, true), (20, false), (39, false)] {
        let mut other = *BODY;
        other[byte] ^= 1;
        let expected = prefix(LOGGED, true, &BODY[..20]);
        let (verdict, _) = every_split(&expected, &answer(OTHER_DATE, &other));
        assert_eq!(matches!(verdict, Verdict::Mismatch { .. }), seen, "byte {byte}: {verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Equal { .. }), !seen, "byte {byte}: {verdict:?}");
    }
}

fn partial(first: usize, last: usize, complete: usize, length: usize) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{complete}\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[test]
fn a_range_with_the_same_overlap_is_equal_behind_it() {
    for overlap in [1, 5, 30] {
        let head = partial(10, 39, 40, 30);
        let taken = head.len() + overlap;
        let expected = range(10, &BODY[10..10 + overlap]);
        assert_eq!(every_split(&expected, &answer(&head, &BODY[10..])), equal(taken));
    }
}

#[test]
fn a_range_that_is_not_what_was_asked_for_is_unfit() {
    let expected = range(10, &BODY[10..15]);
    for head in [
        partial(0, 39, 40, 40),
        partial(11, 39, 40, 29),
        partial(10, 38, 40, 29),
        partial(10, 39, 41, 30),
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 30\r\n\r\n".to_owned(),
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned(),
        "no HTTP at all\r\n\r\n".to_owned(),
    ] {
        let (verdict, _) = every_split(&expected, &answer(&head, &BODY[10..]));
        assert!(matches!(verdict, Verdict::Unfit(_)), "{head}: {verdict:?}");
    }
}

#[test]
fn an_alternate_that_ignores_ranges_is_compared_from_the_first_byte() {
    for overlap in [1, 5, 30] {
        let expected = range(10, &BODY[10..10 + overlap]);
        let taken = LOGGED.len() + 10 + overlap;
        assert_eq!(every_split(&expected, &answer(OTHER_DATE, BODY)), equal(taken));
    }
    let mut other = *BODY;
    other[3] ^= 1;
    let (verdict, _) = every_split(&range(10, &BODY[10..15]), &answer(OTHER_DATE, &other));
    assert!(matches!(verdict, Verdict::Mismatch { .. }), "{verdict:?}");
    let longer = OTHER_DATE.replace("200 OK", "200 Different");
    let (verdict, _) = every_split(&range(10, &BODY[10..15]), &answer(&longer, BODY));
    assert!(matches!(verdict, Verdict::Mismatch { .. }), "{verdict:?}");
}

#[test]
fn a_whole_that_ends_before_what_was_taken_in_is_unfit() {
    let TakeIn::Range { first, complete, overlap, .. } = range(10, &BODY[10..15]) else { unreachable!() };
    for whole in [Prefix::default(), whole_of(&LOGGED[..5], false, b"")] {
        let expected = TakeIn::Range { first, complete, overlap: overlap.clone(), whole };
        let bytes = answer(OTHER_DATE, BODY);
        let (verdict, _) = judge(&expected, &bytes.chunks(1).collect::<Vec<_>>());
        assert!(matches!(verdict, Verdict::Unfit(_)), "{verdict:?}");
    }
}

#[test]
fn an_overlap_that_differs_is_a_mismatch_at_its_place_in_the_body() {
    for byte in 0..5 {
        let mut other = BODY[10..].to_vec();
        other[byte] ^= 1;
        let (verdict, _) = every_split(&range(10, &BODY[10..15]), &answer(&partial(10, 39, 40, 30), &other));
        assert!(matches!(verdict, Verdict::Mismatch { at, .. } if at == 10 + byte as u64), "{verdict:?}");
    }
}

#[test]
fn a_range_without_an_end_of_its_head_is_given_up() {
    let endless = format!("HTTP/1.1 206 Partial Content\r\nX: {}", "x".repeat(70_000));
    let (verdict, _) = judge(&range(10, &BODY[10..15]), &endless.as_bytes().chunks(1000).collect::<Vec<_>>());
    assert!(matches!(verdict, Verdict::Unfit(_)), "{verdict:?}");
}

/// Of a large file the log has hashes of stretches, and not of all of it.
#[test]
fn stretches_are_compared_as_far_as_their_hashes_are_known() {
    let stretch =
        |from: usize, to: usize| Stretch { bytes: (to - from) as u64, hash: xxh3_128(&BODY[from..to]) };
    let known = vec![stretch(0, 10), stretch(10, 25)];
    let expected = TakeIn::Prefix(Prefix { hashes: known, ..whole_of(LOGGED, true, &BODY[..30]) });
    let answer = |changed: usize| {
        let mut body = BODY.to_vec();
        body[changed] ^= 1;
        [LOGGED.as_bytes(), &body].concat()
    };
    for size in [1, 7, 1000] {
        let verdict = |changed: usize| {
            let answer = answer(changed);
            let pieces: Vec<&[u8]> = answer.chunks(size).collect();
            judge(&expected, &pieces).0
        };
        let head = LOGGED.len() as u64;
        assert_eq!(verdict(39), Verdict::Equal { taken: head + 30 });
        assert_eq!(verdict(27), Verdict::Equal { taken: head + 30 }, "nothing is known of it");
        for (changed, start) in [(3, 0), (24, 10)] {
            let Verdict::Mismatch { at, .. } = verdict(changed) else { panic!("byte {changed}") };
            assert_eq!(at, head + start);
        }
    }
}

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Logged: `body`, of which the content is `content`, broken off at `place`.
fn in_chunks(body: &[u8], content: &[u8], place: ChunkPlace) -> TakeIn {
    let content = Stretch { bytes: content.len() as u64, hash: xxh3_128(content) };
    TakeIn::Prefix(Prefix {
        content: Some(ChunkedContent { content, place }),
        ..whole_of(CHUNKED, true, body)
    })
}

/// What the client gets between its own bytes and the alternate's, which come byte by byte.
fn joint(expected: &TakeIn, alternate: &[u8]) -> Option<(Vec<u8>, u64)> {
    let mut comparison = Comparison::new(expected.clone());
    for byte in [CHUNKED.as_bytes(), alternate].concat() {
        match comparison.push(&[byte]) {
            Verdict::More => {}
            Verdict::Equal { taken } => {
                let joint = comparison.joint().unwrap_or_default().to_vec();
                return Some((joint, taken - CHUNKED.len() as u64));
            }
            other => panic!("{other:?}"),
        }
    }
    None
}

#[test]
fn the_same_content_in_other_chunks_goes_on() {
    // The client has a part of a chunk of eight.
    let expected = in_chunks(b"8\r\nabcd", b"abcd", ChunkPlace::Content(4));
    let cases: [(&[u8], &[u8], u64); 4] = [
        // As it was sent: nothing comes between.
        (b"8\r\nabcdefgh\r\n0\r\n\r\n", b"", 7),
        // Longer chunks, shorter ones, some of other places.
        (b"a\r\nabcdefghij\r\n0\r\n\r\n", b"efgh\r\n2\r\n", 11),
        (b"2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n2\r\ngh\r\n0\r\n\r\n", b"efgh", 26),
        (b"5\r\nabcde\r\n5\r\nfghij\r\n0\r\n\r\n", b"efgh\r\n2\r\n", 16),
    ];
    for (alternate, between, taken) in cases {
        assert_eq!(joint(&expected, alternate), Some((between.to_vec(), taken)));
    }
}

/// Many small chunks have been logged, the alternate's is one: it is not asked for as many bytes as they were.
#[test]
fn longer_chunks_are_known_by_where_the_content_ends() {
    let logged = b"1\r\na\r\n".repeat(100);
    let content = [b'a'; 100];
    let expected = in_chunks(&logged, &content, ChunkPlace::Size(0));
    assert_eq!(Comparison::new(expected.clone()).lacking(), 100);
    let alternate = [b"c8\r\n".as_slice(), &[b'a'; 200], b"\r\n0\r\n\r\n"].concat();
    assert_eq!(joint(&expected, &alternate), Some((b"64\r\n".to_vec(), 104)));
}

#[test]
fn other_content_in_other_chunks_is_a_mismatch() {
    let expected = in_chunks(b"8\r\nabcd", b"abcd", ChunkPlace::Content(4));
    for alternate in [b"a\r\nabcXefghij\r\n".as_slice(), b"2\r\nab\r\n2\r\ncX", b"6\r\nabcdef\r\n0\r\n\r\n"] {
        let (verdict, _) = every_split(&expected, &[CHUNKED.as_bytes(), alternate].concat());
        assert!(matches!(verdict, Verdict::Mismatch { .. }), "{verdict:?}");
    }
}
