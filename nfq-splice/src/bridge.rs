//! Bytes behind a hole in the log, or left out of it: they passed the logger, so the client may have them, but p does not count
//! them.
//!
//! What the alternate sends there is taken in, too, compared with the pieces that were logged, and becomes the proxy's to
//! deliver: the client may acknowledge it as soon as the hole is filled, before the alternate could have sent it. It is delivered when
//! the last piece has been compared: bytes of one execution before those of another are worse than a reset.

/// From p to the end of the last piece.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    /// Distance from p, bytes; ascending.
    pieces: Vec<(u64, Vec<u8>)>,
    /// So many bytes from p on were left out of the log: nothing can be compared with them.
    left_out: u64,
    /// What an alternate has sent from p on.
    taken: Vec<u8>,
    /// So much of that the client has, or will get.
    given: usize,
}

impl Bridge {
    pub(crate) fn new(pieces: Vec<(u64, Vec<u8>)>, left_out: u64) -> Self {
        Self { pieces, left_out, taken: Vec::new(), given: 0 }
    }

    /// Bytes from p on to be taken in.
    pub(crate) fn length(&self) -> u64 {
        let end = self.pieces.last().map_or(0, |(at, bytes)| at.saturating_add(bytes.len() as u64));
        end.max(self.left_out)
    }

    /// Bytes that have been taken in from some alternate.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.len() as u64
    }

    /// What an alternate has sent, but for so many bytes, has reached nobody: the next one may differ there.
    pub(crate) fn forget_behind(&mut self, kept: usize) {
        self.taken.truncate(kept);
        self.given = self.given.min(kept);
    }

    /// What may go to the client now, and has not yet: what was left out of the log as it comes, what is behind a hole once all has been
    /// compared.
    pub(crate) fn give(&mut self) -> &[u8] {
        let whole = self.taken() >= self.length();
        let end = if whole { self.taken.len() } else { self.taken().min(self.left_out) as usize };
        let start = self.given;
        self.given = end.max(start);
        self.taken.get(start..end).unwrap_or_default()
    }

    /// `data` is what the alternate sends `at` bytes behind p; what lies beyond the bridge is not looked at. `Err`: where it
    /// differs from what the client may have.
    pub(crate) fn push(&mut self, at: u64, data: &[u8]) -> Result<(), u64> {
        let data = data
            .get(..(self.length().saturating_sub(at)).min(data.len() as u64) as usize)
            .unwrap_or_default();
        let known = self.pieces.iter().map(|(start, piece)| (*start, piece.as_slice()));
        for (start, piece) in known.chain([(0, self.taken.as_slice())]) {
            if let Some(place) = difference(start, piece, at, data) {
                return Err(place);
            }
        }
        let old = self.taken().saturating_sub(at) as usize;
        self.taken.extend_from_slice(data.get(old..).unwrap_or_default());
        Ok(())
    }
}

/// The first place at which two stretches that overlap differ.
fn difference(start: u64, piece: &[u8], at: u64, data: &[u8]) -> Option<u64> {
    let from = start.max(at);
    let piece = piece.get(usize::try_from(from - start).ok()?..)?;
    let data = data.get(usize::try_from(from - at).ok()?..)?;
    piece.iter().zip(data).position(|(one, other)| one != other).map(|place| from + place as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> Bridge {
        Bridge::new(vec![(3, b"defg".to_vec()), (9, b"j".to_vec())], 0)
    }

    #[test]
    fn equal_bytes_are_taken_once_however_they_are_cut() {
        for cut in 0..10 {
            let mut bridge = bridge();
            let (one, other) = b"abcdefghij".split_at(cut);
            bridge.push(0, one).unwrap();
            assert_eq!(bridge.give(), b"", "what is behind it has not been compared");
            bridge.push(cut as u64, &[other, b"beyond"].concat()).unwrap();
            assert_eq!((bridge.taken(), bridge.length()), (10, 10));
            assert_eq!(bridge.give(), b"abcdefghij");
            // Another alternate begins anew.
            bridge.push(0, b"abcdefghij").unwrap();
            assert_eq!(bridge.give(), b"");
        }
    }

    #[test]
    fn a_difference_is_found_where_the_client_has_bytes() {
        assert_eq!(bridge().push(0, b"abcdeXghij"), Err(5));
        assert_eq!(bridge().push(5, b"fgXXj"), Ok(()));
        let mut bridge = bridge();
        bridge.push(0, b"ab").unwrap();
        assert_eq!(bridge.push(0, b"aXc"), Err(1));
    }

    #[test]
    fn what_was_left_out_of_the_log_is_taken_from_the_alternate() {
        let mut bridge = Bridge::new(vec![(7, b"h".to_vec())], 5);
        bridge.push(0, b"abc").unwrap();
        assert_eq!(bridge.give(), b"abc");
        bridge.push(3, b"defg").unwrap();
        assert_eq!(bridge.give(), b"de", "the rest is behind a hole");
        bridge.push(7, b"hi").unwrap();
        assert_eq!(bridge.give(), b"fgh");
        let mut bridge = Bridge::new(Vec::new(), 5);
        bridge.push(0, b"abcdefghi").unwrap();
        assert_eq!(bridge.give(), b"abcde");
        assert_eq!(bridge.length(), 5);
        assert_eq!(bridge.push(0, b"abX"), Err(2), "two alternates differ");
    }

    #[test]
    fn without_pieces_there_is_nothing_to_take_in() {
        let mut none = Bridge::default();
        assert_eq!(none.length(), 0);
        assert_eq!((none.push(0, b"whatever"), none.give()), (Ok(()), b"".as_slice()));
    }
}
