//! Going on with a chunked body that the alternate cuts into other chunks (RFC 9112 §7.1).
//!
//! The content that the client has is compared by its hash. Then the chunk in which the client's body was broken off is filled with what
//! the alternate sends, and a size line of our own is put before what is left of the alternate's chunk: from there on both
//! streams are the same. What lies before is the proxy's to deliver.

use cluster::control::ChunkedContent;
use http1::{ChunkPlace, Chunked};
use xxhash_rust::xxh3::Xxh3;

/// Bytes that the proxy delivers at most: of a larger chunk the client is reset.
const MAX_JOINT: usize = 256 << 10;
/// The longest end of a chunk and size of the next one: sixteen digits between line ends.
const MAX_SIZE_LINE: u64 = 20;

/// An alternate's chunked body, from its beginning.
pub(crate) struct Rechunked {
    expected: ChunkedContent,
    framing: Chunked,
    hash: Xxh3,
    step: Step,
    joint: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// So much of the content that the client has is still to come.
    Compare(u64),
    /// The client's chunk lacks so many bytes, at least one.
    Fill(u64),
    /// The client expects the size of a chunk.
    Size,
    /// The client has the last chunk.
    Last,
    /// The client has everything but the last byte.
    End,
    /// What comes next is what the client expects.
    Joined,
    Differs,
}

impl Rechunked {
    pub(crate) fn new(expected: ChunkedContent) -> Self {
        let (framing, hash) = (Chunked::new(), Xxh3::default());
        let step = Step::Compare(expected.content.bytes);
        Self { expected, framing, hash, step, joint: Vec::new() }
    }

    /// Takes the next bytes, up to where both streams are the same: how many.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..) {
            let used = match self.step {
                Step::Joined | Step::Differs => break,
                Step::Compare(0) => self.compared(),
                Step::Fill(0) => self.filled(),
                Step::Size if self.meets_size() => self.join(),
                Step::Last if self.framing.place() == Some(ChunkPlace::Last) => self.join(),
                Step::End if self.framing.complete() => self.join(),
                // It ends before the client's chunk does.
                _ if self.framing.complete() => self.differ(),
                _ if rest.is_empty() => break,
                Step::Compare(_) | Step::Fill(_) => self.take_content(rest),
                Step::Size | Step::Last | Step::End => self.take_framing(rest),
            };
            taken += used;
        }
        taken
    }

    /// Takes what follows as it is: it has been acknowledged to the alternate.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.joint.len() + bytes.len() > MAX_JOINT {
            self.step = Step::Differs;
        } else {
            self.joint.extend_from_slice(bytes);
        }
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.step == Step::Joined
    }

    /// The content that the client has is equal.
    pub(crate) fn is_compared(&self) -> bool {
        !matches!(self.step, Step::Compare(_) | Step::Differs)
    }

    /// The client has other content, or its framing leaves no room for this.
    pub(crate) fn differs(&self) -> bool {
        self.step == Step::Differs
    }

    /// What the client gets before the alternate's own bytes.
    pub(crate) fn joint(&self) -> &[u8] {
        &self.joint
    }

    /// Bytes at least that the alternate sends before both streams are the same.
    pub(crate) fn lacking(&self) -> u64 {
        let compared = if let Step::Compare(bytes) = self.step { bytes } else { 0 };
        compared.saturating_add(self.open())
    }

    /// As long as the joint may become, bytes.
    pub(crate) fn longest_joint(&self) -> u64 {
        (self.joint.len() as u64).saturating_add(self.open()).saturating_add(MAX_SIZE_LINE)
    }

    /// What the client's chunk lacks.
    fn open(&self) -> u64 {
        match (self.step, self.expected.place) {
            (
                Step::Compare(_),
                ChunkPlace::Size(bytes) | ChunkPlace::SizeLf(bytes) | ChunkPlace::Content(bytes),
            )
            | (Step::Fill(bytes), _) => bytes,
            _ => 0,
        }
    }

    /// One run, of what is compared or filled in no more than there is to be.
    fn take_content(&mut self, rest: &[u8]) -> usize {
        let (Step::Compare(most) | Step::Fill(most)) = self.step else { return 0 };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let Ok((taken @ 1.., is_content)) = self.framing.next(rest.get(..most).unwrap_or(rest)) else {
            return self.differ();
        };
        let run = rest.get(..taken).unwrap_or_default();
        match &mut self.step {
            Step::Compare(left) if is_content => {
                *left -= taken as u64;
                self.hash.update(run);
            }
            Step::Fill(left) if is_content => {
                *left -= taken as u64;
                self.append(run);
            }
            _ => {}
        }
        taken
    }

    /// One byte, so as to stop where both streams meet.
    fn take_framing(&mut self, rest: &[u8]) -> usize {
        let byte = rest.get(..1).unwrap_or_default();
        if matches!(self.framing.next(byte), Ok((1, false))) {
            return 1;
        }
        // The alternate has more content than the client.
        self.differ()
    }

    fn differ(&mut self) -> usize {
        self.step = Step::Differs;
        0
    }

    fn compared(&mut self) -> usize {
        if self.hash.digest128() != self.expected.content.hash {
            return self.differ();
        }
        let (completion, step): (&[u8], _) = match self.expected.place {
            ChunkPlace::Size(0) => (b"", Step::Size),
            // A size may end behind any of its digits.
            ChunkPlace::Size(bytes) => (b"\r\n", Step::Fill(bytes)),
            ChunkPlace::SizeLf(0) => (b"\n", Step::Last),
            ChunkPlace::SizeLf(bytes) => (b"\n", Step::Fill(bytes)),
            ChunkPlace::Content(bytes) => (b"", Step::Fill(bytes)),
            ChunkPlace::ContentEnd => (b"\r\n", Step::Size),
            ChunkPlace::ContentLf => (b"\n", Step::Size),
            ChunkPlace::Last => (b"", Step::Last),
            ChunkPlace::LastLf => (b"\n", Step::End),
        };
        self.joint.extend_from_slice(completion);
        self.step = step;
        0
    }

    /// The client's chunk ends here; the alternate's may go on.
    fn filled(&mut self) -> usize {
        let within = matches!(self.framing.place(), Some(ChunkPlace::Content(_)));
        self.append(if within { b"\r\n" } else { b"" });
        self.join()
    }

    /// The alternate is before a size, too, or within a chunk.
    fn meets_size(&self) -> bool {
        self.framing.before_size() || matches!(self.framing.place(), Some(ChunkPlace::Content(_)))
    }

    /// Both streams are the same from here on, but for the size of what is left of a chunk.
    fn join(&mut self) -> usize {
        if let Some(ChunkPlace::Content(bytes)) = self.framing.place() {
            self.append(format!("{bytes:x}\r\n").as_bytes());
        }
        if self.step != Step::Differs {
            self.step = Step::Joined;
        }
        0
    }
}

#[cfg(test)]
mod tests;
