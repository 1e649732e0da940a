//! Putting each byte once into a stream, in order, whatever the order of arrival. The first copy wins (RFC 9293 §3.10).

use std::collections::VecDeque;

use crate::Seq;

/// Pieces beyond a gap that are kept at most, whatever their size.
const MAX_PIECES: usize = 4096;

/// What a segment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Bytes that went into the stream now, from this segment or from kept ones.
    pub delivered: usize,
    /// Bytes that had arrived before.
    pub repeated: usize,
    /// Bytes that did not fit into the bound; the sender repeats them.
    pub refused: usize,
    /// Bytes that were kept already arrived again with other content.
    pub conflict: bool,
}

/// One direction of a connection: the next byte expected, and pieces beyond a gap. Of a stream without a gap, as most are, it
/// takes 16 bytes.
#[derive(Debug, Clone)]
pub struct Reassembly {
    next: Seq,
    /// Bytes beyond a gap at most.
    max: u32,
    /// Absent where nothing is kept.
    beyond: Option<Box<Beyond>>,
}

/// What lies beyond a gap.
#[derive(Debug, Clone, Default)]
struct Beyond {
    /// Not overlapping, ascending, all beyond the next byte.
    pieces: VecDeque<(Seq, Vec<u8>)>,
    bytes: usize,
}

impl Beyond {
    /// The place of the first piece that does not end before `seq`.
    fn first_not_before(&self, seq: Seq) -> Option<usize> {
        self.pieces.iter().position(|(start, piece)| seq.before(*start + piece.len() as u32))
    }
}

impl Reassembly {
    /// Expects `next`; keeps at most `max` bytes beyond a gap.
    pub fn new(next: Seq, max: usize) -> Self {
        Self { next, max: u32::try_from(max).unwrap_or(u32::MAX), beyond: None }
    }

    /// The next byte of the stream.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Bytes kept beyond a gap.
    pub fn kept(&self) -> usize {
        self.beyond.as_ref().map_or(0, |beyond| beyond.bytes)
    }

    /// What is kept beyond gaps, ascending. Neighbours may touch.
    pub fn pieces(&self) -> impl Iterator<Item = (Seq, &[u8])> {
        let pieces = self.beyond.iter().flat_map(|beyond| &beyond.pieces);
        pieces.map(|(seq, data)| (*seq, data.as_slice()))
    }

    fn first(&self) -> Option<Seq> {
        self.pieces().next().map(|(seq, _)| seq)
    }

    /// Takes a segment's data; `deliver` is called with what is in order now, piece by piece.
    pub fn push(&mut self, seq: Seq, data: &[u8], deliver: &mut dyn FnMut(&[u8])) -> Pushed {
        let mut pushed = Pushed::default();
        let before = self.next.since(seq);
        if before < 0 {
            self.keep(seq, data, &mut pushed);
            return pushed;
        }
        let skip = (before as usize).min(data.len());
        pushed.repeated = skip;
        let fresh = data.get(skip..).unwrap_or_default();
        if self.beyond.is_none() {
            self.emit(fresh, &mut pushed, deliver);
        } else if !fresh.is_empty() {
            self.keep(self.next, fresh, &mut pushed);
            self.drain(&mut pushed, deliver);
        }
        pushed
    }

    /// The next `length` bytes have passed, and nobody will see them; `deliver` is called with what is in order now. `false`: pieces
    /// of them are kept, and nothing was done.
    pub fn skip(&mut self, length: u32, deliver: &mut dyn FnMut(&[u8])) -> bool {
        let next = self.next + length;
        if self.first().is_some_and(|seq| seq.before(next)) {
            return false;
        }
        self.next = next;
        self.drain(&mut Pushed::default(), deliver);
        true
    }

    fn emit(&mut self, data: &[u8], pushed: &mut Pushed, deliver: &mut dyn FnMut(&[u8])) {
        if !data.is_empty() {
            self.next = self.next + data.len() as u32;
            pushed.delivered += data.len();
            deliver(data);
        }
    }

    fn drain(&mut self, pushed: &mut Pushed, deliver: &mut dyn FnMut(&[u8])) {
        while self.first() == Some(self.next)
            && let Some(beyond) = &mut self.beyond
            && let Some((_, data)) = beyond.pieces.pop_front()
        {
            beyond.bytes -= data.len();
            self.emit(&data, pushed, deliver);
        }
        self.beyond.take_if(|beyond| beyond.pieces.is_empty());
    }

    /// Keeps the parts of `data` that no kept piece covers.
    fn keep(&mut self, seq: Seq, data: &[u8], pushed: &mut Pushed) {
        let mut at = 0;
        while at < data.len() {
            let here = seq + at as u32;
            let index = self.beyond.as_ref().and_then(|beyond| beyond.first_not_before(here));
            let next = self.beyond.as_ref().zip(index).and_then(|(beyond, index)| beyond.pieces.get(index));
            if let Some((start, piece)) = next.filter(|(start, _)| start.before_or_at(here)) {
                let offset = here.since(*start) as usize;
                let old = piece.get(offset..).unwrap_or_default();
                let length = old.len().min(data.len() - at);
                pushed.conflict |= data.get(at..at + length) != old.get(..length);
                pushed.repeated += length;
                at += length;
                continue;
            }
            let room = next.map(|(start, _)| start.since(here) as usize);
            let length = room.unwrap_or(usize::MAX).min(data.len() - at);
            self.insert(index, here, data.get(at..at + length).unwrap_or_default(), pushed);
            at += length;
        }
    }

    fn insert(&mut self, index: Option<usize>, seq: Seq, data: &[u8], pushed: &mut Pushed) {
        // The next expected bytes are always taken: they leave again at once.
        let urgent = seq == self.next;
        let (bytes, pieces) =
            self.beyond.as_ref().map_or((0, 0), |beyond| (beyond.bytes, beyond.pieces.len()));
        if !urgent && (bytes + data.len() > self.max as usize || pieces >= MAX_PIECES) {
            pushed.refused += data.len();
            return;
        }
        let beyond = self.beyond.get_or_insert_default();
        beyond.bytes += data.len();
        beyond.pieces.insert(index.unwrap_or(pieces), (seq, data.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a whole-buffer oracle: every byte once, in order, first copy first.
        #[test]
        fn any_order_gives_the_stream(
            start in any::<u32>(),
            segments in prop::collection::vec((0_usize..400, 1_usize..120, any::<u8>()), 1..80),
        ) {
            let mut oracle: Vec<Option<u8>> = vec![None; 600];
            let mut stream = Vec::new();
            let mut reassembly = Reassembly::new(Seq(start), 1 << 20);
            for (offset, length, fill) in segments {
                let data: Vec<u8> = (0..length).map(|i| fill.wrapping_add(i as u8)).collect();
                for (i, byte) in data.iter().enumerate() {
                    oracle[offset + i].get_or_insert(*byte);
                }
                reassembly.push(Seq(start) + offset as u32, &data, &mut |bytes| stream.extend_from_slice(bytes));
            }
            let expected: Vec<u8> = oracle.iter().map_while(|byte| *byte).collect();
            prop_assert_eq!(&stream, &expected);
            prop_assert_eq!(reassembly.next(), Seq(start) + expected.len() as u32);
            let beyond = oracle.iter().skip(expected.len()).flatten().count();
            prop_assert_eq!(reassembly.kept(), beyond);
        }
    }

    #[test]
    fn what_is_skipped_joins_what_is_kept() {
        let mut reassembly = Reassembly::new(Seq(u32::MAX - 1), 10);
        let mut stream = Vec::new();
        reassembly.push(Seq(2), b"abc", &mut |bytes| stream.extend_from_slice(bytes));
        assert!(!reassembly.skip(5, &mut |bytes| stream.extend_from_slice(bytes)));
        assert!(reassembly.skip(4, &mut |bytes| stream.extend_from_slice(bytes)));
        assert_eq!((stream.as_slice(), reassembly.next(), reassembly.kept()), (&b"abc"[..], Seq(5), 0));
    }

    #[test]
    fn the_bound_holds_and_other_content_is_noticed() {
        let mut reassembly = Reassembly::new(Seq(0), 10);
        let none = &mut |_: &[u8]| {};
        assert_eq!(reassembly.push(Seq(5), b"abcde", none), Pushed::default());
        assert!(reassembly.push(Seq(5), b"abXde", none).conflict);
        assert_eq!(reassembly.push(Seq(20), b"abcdef", none).refused, 6);
        assert_eq!(reassembly.push(Seq(0), b"01234", none).delivered, 10);
        assert_eq!(reassembly.kept(), 0);
    }
}
