//! Where in the segment log the bytes of a stream lie: positions, not copies.

use std::collections::VecDeque;
use std::ops::Range;

use segment_log::Position;

/// The segment log as far as a report needs it.
pub trait LogBytes {
    /// Appends `length` payload bytes from `skip` on of the TCP segment in record `record`. `None`: that record has been
    /// overwritten, and nothing was appended.
    fn read(&self, record: Record, skip: usize, length: usize, into: &mut Vec<u8>) -> Option<()>;
}

/// Names a record of the segment log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Where it lies; absent where the log is no file.
    pub position: Option<Position>,
    /// Its number: another record may lie there later.
    pub number: u64,
}

/// Pieces of a stream kept at most; beyond it the stream's bytes cannot be found again.
const MAX_SPANS: usize = 1 << 18;

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    length: u32,
    record: Record,
    skip: u32,
}

impl Span {
    fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }
}

/// An ascending, non-overlapping map from stream offsets to log records; the first copy of a byte wins.
#[derive(Debug, Default)]
pub struct Spans {
    spans: VecDeque<Span>,
}

/// More pieces than are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySpans;

impl Spans {
    /// Notes that the bytes from `start` on lie in `record`'s payload from `skip` on, where not known already.
    pub fn insert(
        &mut self,
        start: u64,
        length: usize,
        record: Record,
        skip: usize,
    ) -> Result<(), TooManySpans> {
        let end = start + length as u64;
        let mut at = start;
        let mut index = self.spans.partition_point(|span| span.end() <= start);
        while at < end {
            let next = self.spans.get(index).copied();
            let until = next.map_or(end, |span| span.start.min(end));
            if at < until {
                if self.spans.len() >= MAX_SPANS {
                    return Err(TooManySpans);
                }
                let skip = (skip as u64 + (at - start)) as u32;
                self.spans.insert(index, Span { start: at, length: (until - at) as u32, record, skip });
                index += 1;
            }
            at = next.map_or(end, |span| span.end().max(until));
            index += 1;
        }
        Ok(())
    }

    /// The end of the bytes from `start` on that are known without a gap; `start` if that one is not.
    pub fn end_from(&self, start: u64) -> u64 {
        let first = self.spans.partition_point(|span| span.end() <= start);
        self.spans
            .iter()
            .skip(first)
            .fold(start, |end, span| if span.start <= end { span.end() } else { end })
    }

    /// The beginning of the bytes before `end` that are known without a gap; `end` if the last of them is not.
    pub fn start_before(&self, end: u64) -> u64 {
        let last = self.spans.partition_point(|span| span.start < end);
        let before = self.spans.iter().take(last).rev();
        before.fold(end, |start, span| if span.end() >= start { span.start } else { start })
    }

    /// Forgets what lies before `offset`.
    pub fn trim(&mut self, offset: u64) {
        while self.spans.front().is_some_and(|span| span.end() <= offset) {
            self.spans.pop_front();
        }
        if self.spans.is_empty() {
            self.spans = VecDeque::new();
        }
    }

    /// The bytes of `range`; `None` if one of them is not known or no longer in the log.
    pub fn read(&self, range: Range<u64>, log: &dyn LogBytes) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end.saturating_sub(range.start)).ok()?);
        let mut at = range.start;
        let first = self.spans.partition_point(|span| span.end() <= range.start);
        for span in self.spans.iter().skip(first) {
            if at >= range.end {
                break;
            }
            if span.start > at {
                return None;
            }
            let inside = (at - span.start) as usize;
            let length = (span.end().min(range.end) - at) as usize;
            log.read(span.record, span.skip as usize + inside, length, &mut bytes)?;
            at += length as u64;
        }
        (at >= range.end).then_some(bytes)
    }

    /// Memory that the pieces take.
    pub fn bytes(&self) -> usize {
        self.spans.len() * size_of::<Span>()
    }

    /// Pieces kept.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records whose payload is given; position and number are the index.
    struct Payloads(Vec<Vec<u8>>);

    impl LogBytes for Payloads {
        fn read(&self, record: Record, skip: usize, length: usize, into: &mut Vec<u8>) -> Option<()> {
            into.extend_from_slice(self.0.get(record.number as usize)?.get(skip..skip + length)?);
            Some(())
        }
    }

    proptest! {
        #[test]
        fn any_order_reads_back_the_first_copy(
            pieces in prop::collection::vec((0_usize..300, prop::collection::vec(any::<u8>(), 1..60)), 1..60),
            trim in 0_u64..200,
        ) {
            let mut oracle: Vec<Option<u8>> = vec![None; 400];
            let mut spans = Spans::default();
            for (number, (start, data)) in pieces.iter().enumerate() {
                for (i, byte) in data.iter().enumerate() {
                    oracle[start + i].get_or_insert(*byte);
                }
                let record = Record { position: None, number: number as u64 };
                spans.insert(*start as u64, data.len(), record, 0).unwrap();
            }
            spans.trim(trim);
            let log = Payloads(pieces.into_iter().map(|(_, data)| data).collect());
            for from in trim..300 {
                let known = oracle[from as usize..].iter().map_while(|byte| *byte).collect::<Vec<_>>();
                let to = from + known.len() as u64;
                prop_assert_eq!(spans.end_from(from), to);
                let before = oracle[trim as usize..from as usize].iter().rev().take_while(|byte| byte.is_some());
                prop_assert_eq!(spans.start_before(from).max(trim), from - before.count() as u64);
                prop_assert_eq!(spans.read(from..to, &log), Some(known));
                prop_assert_eq!(spans.read(from..to + 1, &log), None);
            }
        }
    }

    #[test]
    fn overwritten_records_are_not_read() {
        let mut spans = Spans::default();
        spans.insert(0, 4, Record { position: None, number: 7 }, 0).unwrap();
        assert_eq!(spans.read(0..4, &Payloads(vec![])), None);
        assert_eq!(spans.read(2..2, &Payloads(vec![])), Some(vec![]));
    }

    #[test]
    fn the_bound_holds() {
        let mut spans = Spans::default();
        let full = (0..=MAX_SPANS as u64).find_map(|i| spans.insert(2 * i, 1, Record::default(), 0).err());
        assert_eq!(full, Some(TooManySpans));
        assert_eq!(spans.len(), MAX_SPANS);
    }
}
