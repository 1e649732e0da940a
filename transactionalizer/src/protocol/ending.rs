//! A sequence of bytes that ends something, found in a stream that arrives in pieces (Knuth, Morris, Pratt).

/// What to look for.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    bytes: Box<[u8]>,
    /// After so many matching bytes and one that does not fit, so many may still match.
    shorter: Box<[u8]>,
}

/// How many of its bytes have come last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress(u8);

impl Ending {
    /// `bytes`: 1 to 64.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut ending = Self { bytes: bytes.into(), shorter: vec![0; bytes.len() + 1].into() };
        let mut border = Progress(0);
        for (index, byte) in bytes.iter().enumerate().skip(1) {
            border = ending.next(border, *byte);
            if let Some(place) = ending.shorter.get_mut(index + 1) {
                *place = border.0;
            }
        }
        ending
    }

    /// As after so many of its bytes.
    pub(super) fn after(count: u8) -> Progress {
        Progress(count)
    }

    fn next(&self, progress: Progress, byte: u8) -> Progress {
        let mut matched = progress.0;
        loop {
            if self.bytes.get(usize::from(matched)) == Some(&byte) {
                return Progress(matched + 1);
            }
            if matched == 0 {
                return Progress(0);
            }
            matched = self.shorter.get(usize::from(matched)).copied().unwrap_or_default();
        }
    }

    /// The length of `bytes` up to the end of its first occurrence, which earlier bytes may have begun. Then `progress`
    /// is at the beginning again.
    pub(super) fn find(&self, progress: &mut Progress, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            *progress = self.next(*progress, *byte);
            if usize::from(progress.0) == self.bytes.len() {
                *progress = Progress(0);
                return Some(index + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_found_where_a_naive_search_finds_it(
            ending in "[ab]{1,6}",
            text in "[abc]{0,60}",
            pieces in prop::collection::vec(1_usize..7, 1..80),
        ) {
            let (searched, mut progress, mut at, mut found) = (Ending::new(ending.as_bytes()), Progress(0), 0, None);
            for piece in pieces {
                let piece = text.as_bytes().get(at..(at + piece).min(text.len())).unwrap_or_default();
                found = found.or_else(|| searched.find(&mut progress, piece).map(|end| at + end));
                at += piece.len();
            }
            let expected = text.get(..at).and_then(|text| text.find(&ending)).map(|start| start + ending.len());
            prop_assert_eq!(found, expected);
        }
    }
}
