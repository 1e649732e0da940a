//! Where a response's head and body end.

#![deny(clippy::disallowed_methods)]

use anyhow::{Context, Result, bail, ensure};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Chunk by chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a chunk's size line, with the size so far.
    Size(u64),
    /// After the size, before the line's end.
    Extension(u64),
    /// In data, with what is left of it.
    Data(u64),
    /// In the line end after data: bytes left of it.
    DataEnd(u8),
    /// In the trailer; true at the beginning of a line.
    Trailer(bool),
    /// After the end.
    Done,
}

/// A body being received.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    place: Place,
    received: u64,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, place: Place::Size(0), received: 0 }
    }

    /// Bytes of the body received, without framing.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn complete(&self) -> bool {
        match self.framing {
            Framing::Length(length) => self.received == length,
            Framing::Chunked => self.place == Place::Done,
            Framing::Close => false,
        }
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        self.framing == Framing::Close
    }

    /// Takes in bytes of the connection; `sink` gets the body's. Returns what follows the body.
    pub(super) fn take_in<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn FnMut(&[u8])) -> Result<&'a [u8]> {
        let wanted = match self.framing {
            Framing::Length(length) => length - self.received,
            Framing::Close => u64::MAX,
            Framing::Chunked => return self.take_in_chunks(bytes, sink),
        };
        let (data, rest) = bytes.split_at(wanted.min(bytes.len() as u64) as usize);
        self.received += data.len() as u64;
        sink(data);
        Ok(rest)
    }

    fn take_in_chunks<'a>(&mut self, mut bytes: &'a [u8], sink: &mut dyn FnMut(&[u8])) -> Result<&'a [u8]> {
        while self.place != Place::Done {
            if let Place::Data(left) = self.place {
                let (data, rest) = bytes.split_at(left.min(bytes.len() as u64) as usize);
                self.received += data.len() as u64;
                sink(data);
                bytes = rest;
                let left = left - data.len() as u64;
                self.place = if left == 0 { Place::DataEnd(2) } else { Place::Data(left) };
            }
            let Some((byte, rest)) = bytes.split_first() else { break };
            if !matches!(self.place, Place::Data(_)) {
                self.place = framing_byte(self.place, *byte)?;
                bytes = rest;
            }
        }
        Ok(bytes)
    }
}

fn framing_byte(place: Place, byte: u8) -> Result<Place> {
    Ok(match (place, byte) {
        (Place::Size(size) | Place::Extension(size), b'\n') if size == 0 => Place::Trailer(true),
        (Place::Size(size) | Place::Extension(size), b'\n') => Place::Data(size),
        (Place::Size(size), b'\r' | b';') | (Place::Extension(size), _) => Place::Extension(size),
        (Place::Size(size), digit) => {
            let digit = char::from(digit).to_digit(16).context("a chunk size is not hexadecimal")?;
            ensure!(size < 1 << 59, "a chunk size overflows");
            Place::Size(size * 16 + u64::from(digit))
        }
        (Place::DataEnd(2), b'\r') => Place::DataEnd(1),
        (Place::DataEnd(1), b'\n') => Place::Size(0),
        (Place::DataEnd(_), _) => bail!("a chunk is longer than its size"),
        (Place::Trailer(true), b'\n') => Place::Done,
        (Place::Trailer(_), b'\n') | (Place::Trailer(true), b'\r') => Place::Trailer(true),
        (Place::Trailer(_), _) => Place::Trailer(false),
        (place @ (Place::Data(_) | Place::Done), _) => place,
    })
}

/// The head's length, status and the body's framing, once the head is whole.
pub(crate) fn parse_head(bytes: &[u8], head_only: bool) -> Result<Option<(usize, u16, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).context("not an HTTP response")? else {
        return Ok(None);
    };
    let status = response.code.context("no status")?;
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let framing = if head_only || matches!(status, 100..=199 | 204 | 304) {
        Framing::Length(0)
    } else if value("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        Framing::Chunked
    } else if let Some(length) = value("Content-Length") {
        Framing::Length(length.parse().context("Content-Length is not a number")?)
    } else {
        Framing::Close
    };
    Ok(Some((length, status, framing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(framing: Framing, bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, bool) {
        let mut body = Body::new(framing);
        let (mut data, mut rest) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            rest.extend_from_slice(body.take_in(piece, &mut |bytes| data.extend_from_slice(bytes)).unwrap());
        }
        (data, rest, body.complete())
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        let bytes =
            b"4;x=y\r\nWiki\r\n6\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
        for step in 1..bytes.len() {
            let (data, rest, complete) = collect(Framing::Chunked, bytes, step);
            assert_eq!(data, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(rest, b"HTTP/1.1");
            assert!(complete);
        }
    }

    #[test]
    fn a_length_leaves_the_next_response_alone() {
        assert_eq!(collect(Framing::Length(3), b"abcdef", 6), (b"abc".to_vec(), b"def".to_vec(), true));
        assert!(collect(Framing::Length(0), b"", 1).2);
        assert!(!collect(Framing::Close, b"abc", 1).2);
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [&b"zz\r\n"[..], b"2\r\nabc\r\n", b"fffffffffffffffffff\r\n"] {
            assert!(Body::new(Framing::Chunked).take_in(bytes, &mut |_| ()).is_err());
        }
    }

    #[test]
    fn the_framing_is_read_from_the_head() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(parse_head(head, false).unwrap(), Some((38, 200, Framing::Length(5))));
        assert_eq!(parse_head(head, true).unwrap(), Some((38, 200, Framing::Length(0))));
        assert_eq!(parse_head(&head[..20], false).unwrap(), None);
        assert!(parse_head(b"garbage\r\n\r\n", false).is_err());
    }
}
