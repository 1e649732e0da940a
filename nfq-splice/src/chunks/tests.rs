//! Whatever the chunks: what the client has and gets together is the content, in chunks, once.

use super::*;
use cluster::control::Stretch;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

fn body(content: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut body, mut rest) = (Vec::new(), content);
    for size in sizes.iter().cycle() {
        let (chunk, later) = rest.split_at((*size).min(rest.len()));
        if chunk.is_empty() {
            break;
        }
        body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
        rest = later;
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

/// The content; the body must be complete.
fn decode(body: &[u8]) -> Vec<u8> {
    let (framing, content) = follow(body);
    assert!(framing.complete());
    content
}

fn follow(body: &[u8]) -> (Chunked, Vec<u8>) {
    let (mut framing, mut content) = (Chunked::new(), Vec::new());
    let taken = framing.feed_content(body, &mut |run| content.extend_from_slice(run));
    assert_eq!(taken, Ok(body.len()), "something follows the end");
    (framing, content)
}

/// What a client knows that has this much of a body.
fn logged(beginning: &[u8]) -> Option<ChunkedContent> {
    let (framing, content) = follow(beginning);
    let stretch = Stretch { bytes: content.len() as u64, hash: xxh3_128(&content) };
    Some(ChunkedContent { content: stretch, place: framing.place()? })
}

/// What a client gets behind `beginning`, the alternate's bytes coming in pieces of so many; `None`: a reset.
fn go_on(beginning: &[u8], alternate: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut rechunked = Rechunked::new(logged(beginning)?);
    let mut taken = 0;
    for part in alternate.chunks(piece) {
        taken += rechunked.push(part);
        if rechunked.is_joined() || rechunked.differs() {
            break;
        }
    }
    assert!(rechunked.is_joined() || rechunked.differs(), "the client would wait");
    rechunked.is_joined().then(|| [rechunked.joint(), &alternate[taken..]].concat())
}

proptest! {
    #[test]
    fn the_client_gets_the_same_content_once(
        length in 0_usize..200,
        sizes in prop::collection::vec(1_usize..40, 1..5),
        others in prop::collection::vec(1_usize..40, 1..5),
        piece in 1_usize..50,
    ) {
        let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let (one, other) = (body(&content, &sizes), body(&content, &others));
        for cut in 0..one.len() {
            let rest = go_on(&one[..cut], &other, piece);
            prop_assert!(rest.is_some(), "cut at {}", cut);
            let whole = [&one[..cut], &rest.unwrap_or_default()].concat();
            prop_assert_eq!(&decode(&whole), &content, "cut at {}", cut);
        }
    }

    #[test]
    fn other_content_is_found(length in 1_usize..100, sizes in prop::collection::vec(1_usize..40, 1..5), piece in 1_usize..50) {
        let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let one = body(&content, &[7]);
        let mut differs = content.clone();
        differs[0] = 0xff;
        for cut in one.len() / 2..one.len() {
            let has_some = logged(&one[..cut]).is_some_and(|known| known.content.bytes > 0);
            if has_some {
                prop_assert_eq!(go_on(&one[..cut], &body(&differs, &sizes), piece), None);
            }
            // Less, and more than the client has been told that there is.
            let open = logged(&one[..cut]).map_or(0, |known| Rechunked::new(known).lacking());
            if open > 0 {
                prop_assert_eq!(go_on(&one[..cut], &body(&content[..open as usize - 1], &sizes), piece), None);
            }
        }
        let longer = [content.as_slice(), b"more"].concat();
        for lacking in 1..=2 {
            prop_assert_eq!(go_on(&one[..one.len() - lacking], &body(&longer, &sizes), piece), None);
        }
    }
}

#[test]
fn a_chunk_that_is_too_large_is_not_filled() {
    let content = vec![1; MAX_JOINT + 2];
    let one = body(&content, &[content.len()]);
    let head = one.len() - content.len() - 7;
    assert_eq!(go_on(&one[..head], &body(&content, &[1000]), 1460), None);
    assert!(go_on(&one[..head + 1000], &body(&content, &[1000]), 1460).is_some());
}

#[test]
fn what_is_no_chunked_body_differs() {
    let one = body(b"abc", &[3]);
    for other in [&b"abcdefgh"[..], b"2\r\nabcd", b"ffffffffffffffffff\r\n", b"1\r\na\r\n0\r\n\r\n"] {
        assert_eq!(go_on(&one[..4], other, 1), None, "{other:?}");
    }
}

/// RFC 9110 §6.5.1: a recipient may discard them.
#[test]
fn trailers_are_left_out_where_the_client_has_no_place_for_them() {
    let one = body(b"abc", &[3]);
    let other = b"3\r\nabc\r\n0\r\nName: v\r\n\r\n";
    assert_eq!(go_on(&one[..one.len() - 1], other, 1).unwrap(), b"\n");
    assert_eq!(go_on(&one[..one.len() - 2], other, 1).unwrap(), b"Name: v\r\n\r\n");
}
