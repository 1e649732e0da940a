//! Bytes that this proxy owes one side of a connection: they were acknowledged to, or taken from, the other side,
//! so the proxy itself repeats them until they are acknowledged. A small TCP sender (RFC 9293 §3.8, RFC 6298 §5).

use std::time::Duration;

use cluster::control::{LoggedPiece, Rest};
use packet::{Seq, Time};

use crate::supply::{Supplied, Supply};

/// Duplicate acknowledgements that mean a loss (RFC 5681 §3.2).
const DUPLICATES: u32 = 3;
/// Acknowledged bytes at the beginning that are kept at most.
const ACKED_BYTES: usize = 256 << 10;
/// Segments in flight at the beginning (RFC 6928).
const INITIAL_SEGMENTS: usize = 10;
/// The timeout's doubling ends here.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// One stretch of the stream to be put into a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its first byte (or the FIN).
    pub seq: Seq,
    /// Its data.
    pub data: &'a [u8],
    /// A FIN follows the data.
    pub fin: bool,
}

/// A bounded stream on its way out.
#[derive(Debug, Clone)]
pub struct Sender {
    base: Seq,
    bytes: Vec<u8>,
    /// Absent if all is here.
    supply: Option<Box<Supply>>,
    fin: bool,
    acked: usize,
    next: usize,
    highest: usize,
    /// One after the last byte that was sent from here.
    polled: usize,
    mss: usize,
    window: usize,
    flight: usize,
    duplicates: u32,
    timeout: Duration,
    timeouts: u32,
    deadline: Option<Time>,
}

impl Sender {
    /// Owes `bytes`, the first of which is `base`, and a FIN after them if `fin`.
    /// `window`: bytes the receiver is known to take; `timeout`: the first retransmission timeout.
    pub fn new(base: Seq, bytes: Vec<u8>, fin: bool, mss: usize, window: usize, timeout: Duration) -> Self {
        let mss = mss.max(1);
        Self {
            base,
            bytes,
            supply: None,
            fin,
            acked: 0,
            next: 0,
            highest: 0,
            polled: 0,
            mss,
            window,
            flight: INITIAL_SEGMENTS * mss,
            duplicates: 0,
            timeout,
            timeouts: 0,
            deadline: None,
        }
    }

    /// As many bytes at once as the receiver takes: they were in flight before, the path carried them. Any of them may have
    /// arrived then, so that any may be acknowledged.
    pub fn in_one_burst(mut self) -> Self {
        self.flight = self.bytes.len().max(self.flight);
        self.highest = self.bytes.len().max(self.highest);
        self
    }

    /// Behind these bytes, and before the FIN, others will come.
    pub(crate) fn set_supply(&mut self, supply: Supply) {
        self.supply = (!supply.is_empty()).then(|| Box::new(supply));
        self.restock();
    }

    /// So many bytes were given to it, if no others are to come.
    pub(crate) fn given(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that are still to come.
    fn later(&self) -> usize {
        self.supply.as_ref().map_or(0, |supply| supply.bytes())
    }

    fn end(&self) -> usize {
        self.bytes.len().saturating_add(self.later()).saturating_add(usize::from(self.fin))
    }

    fn at_hand(&self) -> usize {
        self.bytes.len().saturating_sub(self.acked)
    }

    /// What to ask a log for, that is to be sent soon.
    pub(crate) fn ask(&mut self, now: Time) -> Option<Rest> {
        let at_hand = self.at_hand();
        self.supply.as_mut()?.ask(now, at_hand)
    }

    /// The answer; `Err`: what is owed cannot be had.
    pub(crate) fn supply(&mut self, piece: LoggedPiece) -> Result<(), String> {
        let Some(supply) = &mut self.supply else { return Ok(()) };
        match supply.take(piece) {
            Supplied::Other => {}
            Supplied::Bytes(bytes) => self.bytes.extend_from_slice(&bytes),
            Supplied::Lost(why) => return Err(why),
        }
        self.restock();
        Ok(())
    }

    /// Nobody answers what was asked for.
    pub(crate) fn is_starved(&self, now: Time) -> bool {
        self.supply.as_ref().is_some_and(|supply| supply.is_given_up(now))
    }

    fn restock(&mut self) {
        let Self { bytes, supply, acked, .. } = self;
        let Some(supplied) = supply else { return };
        while let Some(here) = supplied.take_here(bytes.len().saturating_sub(*acked)) {
            bytes.extend_from_slice(&here);
        }
        if supplied.is_empty() {
            *supply = None;
        }
    }

    /// Of a long stream, what has been acknowledged is not kept.
    fn forget_acked(&mut self) {
        if self.supply.is_none() || self.acked < ACKED_BYTES {
            return;
        }
        let acked = self.acked.min(self.bytes.len());
        self.bytes.drain(..acked);
        self.base = self.base + acked as u32;
        self.acked -= acked;
        self.next = self.next.saturating_sub(acked);
        self.highest = self.highest.saturating_sub(acked);
        self.polled = self.polled.saturating_sub(acked);
        self.restock();
    }

    /// Everything has been acknowledged.
    pub fn is_done(&self) -> bool {
        self.acked >= self.end()
    }

    /// The first byte not yet acknowledged.
    pub fn unacknowledged(&self) -> Seq {
        self.base + self.acked as u32
    }

    /// One after the last byte (and FIN).
    pub fn end_seq(&self) -> Seq {
        self.base + self.end() as u32
    }

    /// One after the last byte (or FIN) that was ever sent.
    pub fn sent_seq(&self) -> Seq {
        self.base + self.highest as u32
    }

    /// The bytes at hand from `seq` on, if it lies within them or at their end, what follows them, and whether a FIN does.
    pub(crate) fn from(&self, seq: Seq) -> Option<(&[u8], Supply, bool)> {
        let at = usize::try_from(seq.since(self.base)).ok()?;
        let later = self.supply.as_deref().map(Supply::again).unwrap_or_default();
        Some((self.bytes.get(at..)?, later, self.fin))
    }

    /// This sequence number was sent and is not acknowledged.
    pub fn in_flight(&self, seq: Seq) -> bool {
        let at = seq.since(self.base);
        at >= self.acked as i32 && at < self.highest as i32
    }

    /// Others have sent the receiver bytes of this stream up to `end`: it may acknowledge them.
    pub(crate) fn note_passed(&mut self, end: Seq) {
        let end = end.since(self.base).max(0) as usize;
        self.highest = self.highest.max(end.min(self.end()));
    }

    /// The path takes segments with at most `mss` bytes of data: what is in flight was lost and goes again.
    pub fn limit(&mut self, mss: usize) {
        if mss < self.mss {
            self.mss = mss.max(1);
            self.next = self.acked;
        }
    }

    /// Timeouts in a row without progress.
    pub fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline.into_iter().chain(self.supply.as_ref().and_then(|supply| supply.deadline())).min()
    }

    /// More bytes behind those owed already; not after a FIN.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A FIN follows what is owed.
    pub fn close(&mut self) {
        self.fin = true;
    }

    /// The stream's end is among what is owed.
    pub(crate) fn is_closed(&self) -> bool {
        self.fin
    }

    /// More bytes, which others may have sent already: they may be acknowledged, and the path carries them.
    pub fn append_known(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        self.highest = self.highest.max(self.bytes.len());
        self.flight = self.flight.max(self.bytes.len() - self.acked.min(self.bytes.len()));
        self.window = self.window.max(self.bytes.len() - self.acked.min(self.bytes.len()));
    }

    /// What lies behind `from` and was neither sent from here nor acknowledged is not owed any more. Gives what is left there.
    pub(crate) fn withdraw(&mut self, from: Seq) -> usize {
        let from = from.since(self.base).max(0) as usize;
        self.bytes.truncate(from.max(self.polled).max(self.acked));
        self.highest = self.highest.min(self.bytes.len());
        self.next = self.next.min(self.bytes.len());
        self.deadline = self.deadline.filter(|_| !self.is_done());
        self.bytes.len().saturating_sub(from)
    }

    /// What the receiver's window of `window` bytes, from the first byte not acknowledged on, leaves from `seq` on.
    pub fn granted(&self, seq: Seq, window: u32) -> u32 {
        (self.unacknowledged() + window).since(seq).max(0) as u32
    }

    /// The receiver acknowledged up to `ack` and takes `window` bytes from there. Acknowledgements of what was
    /// never sent, by nobody, are ignored; one may also cover what others have sent behind these bytes.
    pub fn handle_ack(&mut self, now: Time, ack: Seq, window: usize) {
        let advance = ack.since(self.unacknowledged()).min((self.end() - self.acked) as i32);
        if advance < 0 || self.acked + advance as usize > self.highest {
            return;
        }
        if advance == 0 && window == self.window && self.highest > self.acked {
            self.duplicate();
        }
        self.window = window;
        if advance > 0 {
            self.acked += advance as usize;
            self.next = self.next.max(self.acked);
            self.flight += advance as usize;
            self.duplicates = 0;
            self.timeouts = 0;
            self.deadline = (!self.is_done()).then(|| now + self.timeout);
            self.forget_acked();
        }
    }

    fn duplicate(&mut self) {
        self.duplicates += 1;
        if self.duplicates == DUPLICATES {
            self.next = self.acked;
        }
    }

    /// The timeout passed: go back to the first byte not acknowledged, one segment at first.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.timeouts += 1;
        self.next = self.acked;
        self.flight = self.mss;
        self.timeout = (self.timeout * 2).min(MAX_TIMEOUT);
        self.deadline = Some(now + self.timeout);
    }

    /// The next segment to send, while the window has room. A closed window is probed with one byte at each timeout.
    pub fn poll(&mut self, now: Time) -> Option<Piece<'_>> {
        let window = if self.window == 0 && self.timeouts > 0 { 1 } else { self.window };
        let limit = self.acked + window.min(self.flight);
        let here = if self.supply.is_some() { self.bytes.len() } else { self.end() };
        if self.next >= here || (self.next >= limit && !self.fin_only(window)) {
            // While nothing is in flight that could be lost, the supply has its own timer.
            let waits = self.supply.is_some() && self.acked >= self.bytes.len();
            let owes = !self.is_done() && !waits;
            self.deadline = self.deadline.filter(|_| !waits).or(owes.then(|| now + self.timeout));
            return None;
        }
        let from = self.next;
        let to = (from + self.mss).min(self.bytes.len()).min(limit.max(from));
        let fin = self.fin && self.supply.is_none() && to == self.bytes.len();
        self.next = to + usize::from(fin);
        self.highest = self.highest.max(self.next);
        self.polled = self.polled.max(self.next);
        self.deadline = self.deadline.or(Some(now + self.timeout));
        Some(Piece { seq: self.base + from as u32, data: self.bytes.get(from..to).unwrap_or_default(), fin })
    }

    fn fin_only(&self, window: usize) -> bool {
        self.fin && self.supply.is_none() && self.next == self.bytes.len() && window > 0
    }
}

#[cfg(test)]
mod tests;
