//! The large-file rule (paper §3.1): what is left out of the log.
//!
//! The transactionalizer orders it for a body that can be had again from where it broke off. Left out is the payload of segments
//! that are the next ones of the stream and lie wholly within the body; everything else (repetitions, what comes behind a hole,
//! small segments, the end of the body) is logged whole, so that readers need never guess.

use cluster::control::LargeBody;
use packet::{Flags as TcpFlags, Seq, TcpSegment};
use segment_log::LeftOut;
use xxhash_rust::xxh3::Xxh3;

/// A record of headers takes about as much.
const LEAST_BYTES: usize = 256;
/// No window reaches further (RFC 7323 §2.3): an order about bytes so far away is about others.
const WINDOW: i32 = 1 << 30;

/// The rest of a body, as its backend sends it.
#[derive(Clone)]
pub(crate) struct Rest {
    /// What was left out last ends here.
    at: Seq,
    /// Bytes of the body from `at` on.
    left: u64,
    /// Where the running hash begins.
    since: Seq,
    hash: Box<Xxh3>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rest({} bytes from {:?})", self.left, self.at)
    }
}

impl Rest {
    /// Of `body`, in a stream that was logged up to `next`; `None` if that is nowhere near.
    pub(crate) fn new(body: &LargeBody, next: Seq) -> Option<Self> {
        let from = Seq(body.from);
        let near = (-WINDOW..=WINDOW).contains(&next.since(from));
        near.then(|| Self { at: from, left: body.bytes, since: from, hash: Box::default() })
    }

    /// The body ends before `seq`.
    pub(crate) fn is_over(&self, seq: Seq) -> bool {
        u64::try_from(seq.since(self.at)).is_ok_and(|distance| distance >= self.left)
    }

    /// What to log instead of the payload of `segment`, the next one of the stream.
    pub(crate) fn take(&mut self, segment: &TcpSegment<'_>) -> Option<LeftOut> {
        let (seq, data) = (segment.seq(), segment.payload());
        let before = u64::try_from(seq.since(self.at)).ok()?;
        let left = self.left.checked_sub(before)?.checked_sub(data.len() as u64)?;
        if data.len() < LEAST_BYTES || !is_plain(segment.flags()) {
            return None;
        }
        if before > 0 {
            self.since = seq;
            self.hash.reset();
        }
        self.hash.update(data);
        (self.at, self.left) = (seq + data.len() as u32, left);
        Some(LeftOut { bytes: data.len() as u32, since: self.since.0, hash: self.hash.digest128() })
    }
}

/// Nothing but data.
fn is_plain(flags: TcpFlags) -> bool {
    flags.ack() && !flags.syn() && !flags.fin() && !flags.rst() && !flags.contains(TcpFlags::URG)
}
