//! What a client received against what it may receive.

use http1::Chunked;

use crate::content::{Request, Variant, date_range};

/// Every answer must be that of one execution, byte by byte, `Date` values and the lengths of chunks aside.
pub(super) struct Checker {
    answers: Vec<Expected>,
    pub(super) index: usize,
    offset: usize,
    alive: Vec<bool>,
    chunks: Chunked,
}

/// What answers one request.
struct Expected {
    /// By each variant, without the framing of chunks.
    variants: Vec<Vec<u8>>,
    /// Chunks follow so many bytes.
    head: Option<usize>,
}

impl Checker {
    pub(super) fn new(requests: &[Request], variants: &[Variant]) -> Self {
        let mut unique = variants.to_vec();
        unique.dedup_by(|one, other| one.answers_like(*other));
        let answers = requests.iter().map(|request| Expected {
            variants: unique.iter().map(|variant| request.unframed(*variant).0).collect(),
            head: request.unframed(Variant::default()).1,
        });
        Self {
            answers: answers.collect(),
            index: 0,
            offset: 0,
            alive: vec![true; unique.len()],
            chunks: Chunked::new(),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.answers.iter().map(|answer| answer.variants[0].len()).sum()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.index == self.answers.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.take(rest)?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// The first of `rest`, as far as they are of one sort.
    fn take(&mut self, rest: &[u8]) -> Result<usize, String> {
        let Some(Expected { variants, head }) = self.answers.get(self.index) else {
            return Err(format!("{} bytes beyond the last answer", rest.len()));
        };
        let (length, head) = (variants[0].len(), head.unwrap_or(usize::MAX));
        let (take, is_content) = if self.offset < head {
            (rest.len().min(length.min(head) - self.offset), true)
        } else {
            let next = self.chunks.next(rest);
            next.map_err(|why| format!("answer {}: behind byte {}: {why}", self.index, self.offset))?
        };
        if is_content {
            self.compare(&rest[..take])?;
        }
        let ends = if head < usize::MAX { self.chunks.complete() } else { self.offset == length };
        if ends {
            if self.offset != length {
                return Err(format!("answer {} ends after {} of {length} bytes", self.index, self.offset));
            }
            self.next();
        }
        Ok(take)
    }

    fn compare(&mut self, content: &[u8]) -> Result<(), String> {
        let Expected { variants, .. } = &self.answers[self.index];
        let (date, offset) = (date_range(&variants[0]), self.offset);
        for (variant, answer) in variants.iter().enumerate() {
            let same = content.iter().enumerate().all(|(i, byte)| {
                let at = offset + i;
                date.contains(&at) || answer.get(at) == Some(byte)
            });
            self.alive[variant] &= same;
        }
        if !self.alive.contains(&true) {
            let got = String::from_utf8_lossy(&content[..content.len().min(80)]).into_owned();
            let end = offset + content.len();
            return Err(format!("answer {}: bytes {offset}..{end} are of no execution: {got:?}", self.index));
        }
        self.offset += content.len();
        Ok(())
    }

    fn next(&mut self) {
        self.index += 1;
        self.offset = 0;
        self.alive.fill(true);
        self.chunks = Chunked::new();
    }
}
