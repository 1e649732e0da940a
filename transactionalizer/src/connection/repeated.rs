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
        let Some(start) = repeated(sender, segment) else { return false };
        if !segment.flags().ack() || !receiver.acceptable_ack(segment.ack()) {
            return false;
        }
        let delivered = sender.delivered();
        let known = if from_backend {
            self.spans.start_before(delivered)
        } else {
            delivered.saturating_sub(self.requests.tail_length())
        };
        let range = start.max(known)..delivered.min(start + segment.payload().len() as u64);
        if range.is_empty() {
            return false;
        }
        let again = segment.payload().get((range.start - start) as usize..).unwrap_or_default();
        let differs = |first: &[u8]| first.iter().zip(again).any(|(first, again)| first != again);
        if from_backend {
            self.spans.read(range, log).is_some_and(|first| differs(&first))
        } else {
            let length = (range.end - range.start) as usize;
            differs(&self.requests.before_end((delivered - range.start) as usize, length))
        }
    }
}

/// The stream offset of a segment's data that begins before the end of what was delivered. A keep-alive probe may have a byte of
/// anything (RFC 1122 §4.2.3.6).
fn repeated(sender: &Direction, segment: &TcpSegment<'_>) -> Option<u64> {
    let start = u64::try_from(sender.offset(segment.seq())).ok()?;
    let probe = segment.payload().len() == 1 && start + 1 == sender.delivered();
    (!segment.payload().is_empty() && start < sender.delivered() && !probe).then_some(start)
}
