//! The bytes after a head, up to the end of the message.

use crate::chunked::Chunked;

/// What is left of a body.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// Until the connection closes.
    Endless,
}

impl Body {
    /// Takes what belongs to the body from the beginning of `bytes`; gives how many bytes that is.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match self {
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunked) => chunked.feed(bytes),
            Self::Endless => Ok(bytes.len()),
        }
    }

    pub(crate) fn complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.complete(),
            Self::Endless => false,
        }
    }
}
