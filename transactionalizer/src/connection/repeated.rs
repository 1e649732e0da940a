//! Bytes that come again with other content, after their first copy was delivered: that one counts (RFC 9293 §3.10), the
//! contradiction is counted. It is seen as long as the first copy is still known: responses in the log, pending requests in memory.

use packet::TcpSegment;

use crate::direction::Direction;
use crate::spans::LogBytes;

use super::Connection;

impl Connection {
    /// The segment, which has not been taken in yet, contradicts what was delivered before it.
    pub fn contradicts(&self, segment: &TcpSegment<'_>, from_backend: bool, log: &dyn LogBytes) -> bool {
        let (sender, receiver) =
            if from_backend { (&self.backend, &self.client) } else { (&self.client, &self.backend) };
        let (data, acceptable) = (segment.payload(), receiver.acceptable_ack(segment.ack()));
        let Some(start) = repeated(sender, segment).filter(|_| segment.flags().ack() && acceptable) else {
            return false;
        };
        let delivered = sender.delivered();
        let end = delivered.min(start + data.len() as u64);
        let known = if from_backend {
            let from = self.spans.start_before(delivered).max(start);
            (from < end).then(|| self.spans.read(from..end, log)).flatten().map(|bytes| (from, bytes))
        } else {
            let kept = self.requests.tail();
            let from = delivered.saturating_sub(kept.len() as u64).max(start);
            let skip = (from + kept.len() as u64).saturating_sub(delivered) as usize;
            let first = kept.get(skip..).unwrap_or_default();
            Some((from, first.get(..end.saturating_sub(from) as usize).unwrap_or_default().to_vec()))
        };
        known.is_some_and(|(from, first)| {
            let again = data.get((from - start) as usize..).unwrap_or_default();
            first.iter().zip(again).any(|(first, again)| first != again)
        })
    }
}

/// The stream offset of a segment's data that begins before the end of what was delivered. A keep-alive probe may have a byte of
/// anything (RFC 1122 §4.2.3.6).
fn repeated(sender: &Direction, segment: &TcpSegment<'_>) -> Option<u64> {
    let start = u64::try_from(sender.offset(segment.seq())).ok()?;
    let probe = segment.payload().len() == 1 && start + 1 == sender.delivered();
    (!segment.payload().is_empty() && start < sender.delivered() && !probe).then_some(start)
}
