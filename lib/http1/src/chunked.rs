//! Chunked transfer coding (RFC 9112 §7.1): where its content lies and where it ends; the bytes stay where they are.

use serde::{Deserialize, Serialize};

use crate::extension::Extension;

/// Longest line that announces a chunk, extensions included, bytes.
const MAX_CHUNK_LINE: u32 = 4 << 10;
/// Longest trailer section, bytes.
const MAX_TRAILERS: u32 = 64 << 10;

/// Where in its framing a chunked body was broken off, as far as another framing can go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkPlace {
    /// In a size, of this value so far; 0: no digit but zeros has come.
    Size(u64),
    /// Before the line feed behind this size.
    SizeLf(u64),
    /// So many bytes before the end of a chunk, at least 1.
    Content(u64),
    /// Behind a chunk's content.
    ContentEnd,
    /// Before the line feed behind a chunk's content.
    ContentLf,
    /// Behind the last chunk, before trailers or the end.
    Last,
    /// Before the line feed that ends the body.
    LastLf,
}

/// A chunked body that arrives in pieces.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// Bytes of the present chunk that have not arrived.
    left: u64,
    /// Bytes of the present line, or of the trailer section.
    line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    SizeStart,
    Size,
    /// Blanks after the size, that only an extension may follow.
    Blank,
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Complete,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    /// Before its first byte.
    pub fn new() -> Self {
        Self { state: State::SizeStart, left: 0, line: 0 }
    }

    /// All of it has come.
    pub fn complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Where it has got to; `None`: in an extension, in trailers or at its end.
    pub fn place(&self) -> Option<ChunkPlace> {
        match self.state {
            State::SizeStart | State::Size => Some(ChunkPlace::Size(self.left)),
            State::SizeLf => Some(ChunkPlace::SizeLf(self.left)),
            State::Data => Some(ChunkPlace::Content(self.left)),
            State::DataCr => Some(ChunkPlace::ContentEnd),
            State::DataLf => Some(ChunkPlace::ContentLf),
            State::TrailerStart => Some(ChunkPlace::Last).filter(|_| self.line == 0),
            State::FinalLf => Some(ChunkPlace::LastLf),
            _ => None,
        }
    }

    /// No digit of the next size has come.
    pub fn before_size(&self) -> bool {
        self.state == State::SizeStart
    }

    /// The first of `bytes`, as far as they are of one sort: how many, and whether they are content. None: `bytes` is empty or the body
    /// complete.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        if self.state == State::Data {
            return Ok((self.skip(bytes.len()), true));
        }
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken)
            && !matches!(self.state, State::Data | State::Complete)
        {
            self.state = self.step(*byte)?;
            taken += 1;
        }
        Ok((taken, false))
    }

    /// Takes what belongs to the body from the beginning of `bytes`; gives how many bytes that is.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        self.feed_content(bytes, &mut |_| {})
    }

    /// The same, with each run of content among them.
    pub fn feed_content(
        &mut self,
        bytes: &[u8],
        content: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, &'static str> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            let (next @ 1.., is_content) = self.next(rest)? else { return Ok(taken) };
            if is_content {
                content(rest.get(..next).unwrap_or_default());
            }
            taken += next;
        }
    }

    fn skip(&mut self, available: usize) -> usize {
        let taken = available.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        self.line += 1;
        match self.state {
            State::SizeStart | State::Size | State::Blank | State::Extension(_) | State::SizeLf => {
                self.size_line(byte)
            }
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => {
                self.trailer(byte)
            }
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(self.next_line(State::SizeStart)),
            State::FinalLf if byte == b'\n' => Ok(State::Complete),
            _ => Err("chunk does not end where its size says"),
        }
    }

    fn size_line(&mut self, byte: u8) -> Result<State, &'static str> {
        if self.line > MAX_CHUNK_LINE {
            return Err("chunk extension too long");
        }
        match (self.state, byte) {
            (State::SizeStart | State::Size, b) if b.is_ascii_hexdigit() => self.digit(b),
            (State::Size | State::Blank, b' ' | b'\t') => Ok(State::Blank),
            (State::Size | State::Blank, b';') => Ok(State::Extension(Extension::Start)),
            (State::Size, b'\r') => Ok(State::SizeLf),
            (State::Extension(extension), b'\r') if extension.complete() => Ok(State::SizeLf),
            (State::Extension(extension), _) => {
                extension.step(byte).map(State::Extension).ok_or("malformed chunk extension")
            }
            (State::SizeLf, b'\n') => {
                Ok(self.next_line(if self.left == 0 { State::TrailerStart } else { State::Data }))
            }
            _ => Err("malformed chunk size"),
        }
    }

    /// Sizes beyond 2⁶³ − 1 count as overflow.
    fn digit(&mut self, byte: u8) -> Result<State, &'static str> {
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        let size = self.left.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
        self.left = size.filter(|size| i64::try_from(*size).is_ok()).ok_or("chunk size overflow")?;
        Ok(State::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, &'static str> {
        if self.line > MAX_TRAILERS {
            return Err("trailer section too long");
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::FinalLf),
            (State::TrailerStart | State::TrailerName, b) if is_token(b) => Ok(State::TrailerName),
            (State::TrailerName, b':') | (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                Ok(State::TrailerValue)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err("malformed trailer section"),
        }
    }

    fn next_line(&mut self, state: State) -> State {
        self.line = 0;
        state
    }
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
