//! Lines of a text protocol that arrive in pieces: their beginnings and ends are looked at, the rest only passes.

/// Bytes of a line's beginning that are kept.
const START: usize = 512;
/// Bytes of its end: room for any literal's length.
const END: usize = 24;

/// A line in progress.
#[derive(Debug, Default)]
pub(super) struct TextLine {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl TextLine {
    /// Nothing of it has come.
    pub(super) fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// Takes bytes of the line; gives how many, and whether its line feed is the last of them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (usize, bool) {
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let room = START.saturating_sub(self.start.len()).min(part.len());
        self.start.extend_from_slice(part.get(..room).unwrap_or_default());
        self.end.extend_from_slice(part.get(part.len().saturating_sub(END)..).unwrap_or_default());
        self.end.drain(..self.end.len().saturating_sub(END));
        (part.len(), end.is_some())
    }

    /// The line's beginning without its end, as text; the next line may begin.
    pub(super) fn take(&mut self) -> String {
        self.end.clear();
        String::from_utf8_lossy(std::mem::take(&mut self.start).trim_ascii_end()).into_owned()
    }

    /// The length of the literal that the line announces at its end (RFC 9051 §4.3): `{17}`, `{17+}`.
    pub(super) fn literal(&self) -> Option<u64> {
        let end = self.end.trim_ascii_end().strip_suffix(b"}")?;
        let digits = end.rsplit(|byte| *byte == b'{').next().filter(|digits| digits.len() < end.len())?;
        let digits = digits.strip_suffix(b"+").unwrap_or(digits);
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        plain.then(|| std::str::from_utf8(digits).ok()?.parse::<u32>().ok().map(u64::from)).flatten()
    }
}
