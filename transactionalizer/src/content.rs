//! What a chunked body holds, whatever the chunks: another server may cut it into others.

use cluster::control::{ChunkedContent, Stretch};
use http1::Chunked;
use xxhash_rust::xxh3::Xxh3;

/// The content of a body from its beginning.
#[derive(Default)]
pub(crate) struct Content {
    framing: Chunked,
    hash: Xxh3,
    bytes: u64,
    /// The protocol's parser takes what this one refuses: it cannot be, and nothing is claimed then.
    lost: bool,
}

impl Content {
    /// The next bytes of the body, framing included.
    pub(crate) fn push(&mut self, part: &[u8]) {
        let Self { framing, hash, bytes, .. } = self;
        let taken = framing.feed_content(part, &mut |run| {
            hash.update(run);
            *bytes += run.len() as u64;
        });
        self.lost |= taken != Ok(part.len());
    }

    /// What came so far; `None`: nothing but the same chunks can follow.
    pub(crate) fn report(&self) -> Option<ChunkedContent> {
        let place = self.framing.place().filter(|_| !self.lost)?;
        Some(ChunkedContent { content: Stretch { bytes: self.bytes, hash: self.hash.digest128() }, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http1::ChunkPlace;
    use xxhash_rust::xxh3::xxh3_128;

    /// Bytes of the body, of its content, and where it was broken off.
    const PLACES: [(usize, &[u8], Option<ChunkPlace>); 15] = [
        (0, b"", Some(ChunkPlace::Size(0))),
        (1, b"", Some(ChunkPlace::Size(0))),
        (2, b"", Some(ChunkPlace::Size(3))),
        (3, b"", Some(ChunkPlace::SizeLf(3))),
        (4, b"", Some(ChunkPlace::Content(3))),
        (6, b"ab", Some(ChunkPlace::Content(1))),
        (7, b"abc", Some(ChunkPlace::ContentEnd)),
        (8, b"abc", Some(ChunkPlace::ContentLf)),
        (9, b"abc", Some(ChunkPlace::Size(0))),
        (11, b"abc", None),
        (17, b"abcd", Some(ChunkPlace::Size(0))),
        (20, b"abcd", Some(ChunkPlace::Last)),
        (21, b"abcd", None),
        (30, b"abcd", Some(ChunkPlace::LastLf)),
        (31, b"abcd", None),
    ];

    #[test]
    fn content_and_place_are_known_however_the_body_is_cut() {
        let body = b"03\r\nabc\r\n1;x\r\nd\r\n0\r\nName: v\r\n\r\n";
        for (bytes, content, place) in PLACES {
            for step in 1..=bytes.max(1) {
                let mut found = Content::default();
                body[..bytes].chunks(step).for_each(|part| found.push(part));
                let expected = Stretch { bytes: content.len() as u64, hash: xxh3_128(content) };
                let expected = place.map(|place| ChunkedContent { content: expected, place });
                assert_eq!(found.report(), expected, "{bytes} bytes by {step}");
            }
        }
    }

    #[test]
    fn of_what_is_no_chunked_body_nothing_is_claimed() {
        let mut content = Content::default();
        content.push(b"3\r\nabcd");
        content.push(b"\r\n");
        assert_eq!(content.report(), None);
    }
}
