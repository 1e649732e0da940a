//! Comparing the alternate's first bytes with what the client already has (paper §3.4, §4.3; design §6 step 6).

use cluster::control::{Prefix, TakeIn};
use http1::{ContentRange, compare_heads};

use crate::body_hash::BodyHash;
use crate::chunks::Rechunked;
use crate::difference::{mismatch, note_difference};
use crate::message_end::MessageEnd;

/// Longest head an alternate may answer a `Range` request with, bytes.
const MAX_HEAD: usize = 64 << 10;
/// Bytes between the last of the content and the next: if more of the logged body are left, it was in other chunks. Extensions
/// may be longer; then the content alone counts, too.
const LONGEST_SIZE_LINE: u64 = 64;

/// What the bytes so far mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not all has been taken in.
    More,
    /// All was taken in and equals; splice after `taken` bytes of the alternate's stream.
    Equal {
        /// Bytes from the beginning of the alternate's response.
        taken: u64,
    },
    /// The client has seen other bytes.
    Mismatch {
        /// Position in the response (head included).
        at: u64,
        /// What both have before it.
        before: Vec<u8>,
        /// The log's bytes there.
        logged: Vec<u8>,
        /// The alternate's.
        alternate: Vec<u8>,
    },
    /// The answer is not what was asked for, but nothing shows that the bytes would differ.
    Unfit(String),
}

/// A comparison in progress.
pub struct Comparison {
    expected: TakeIn,
    /// The alternate's head, or its beginning.
    head: Vec<u8>,
    head_done: bool,
    hash: BodyHash,
    /// Where the alternate's response is over.
    end: MessageEnd,
    /// The first difference from the body's logged end: its position in the body, and what the alternate sent there.
    differs: Option<(u64, Vec<u8>)>,
    body: u64,
    taken: u64,
    /// The same content in other chunks will do.
    rechunked: Option<Box<Rechunked>>,
    /// How the bytes as sent differ, if only the content counts any more.
    other_chunks: Option<Verdict>,
}

impl Comparison {
    /// Nothing taken in yet.
    pub fn new(expected: TakeIn) -> Self {
        let content = match &expected {
            TakeIn::Prefix(prefix) => prefix.content,
            _ => None,
        };
        Self {
            expected,
            head: Vec::new(),
            head_done: false,
            hash: BodyHash::default(),
            end: MessageEnd::new(),
            differs: None,
            body: 0,
            taken: 0,
            rechunked: content.map(|content| Box::new(Rechunked::new(content))),
            other_chunks: None,
        }
    }

    /// Bytes that the alternate sends before the splice point; of the head of an answer to a `Range` request the length is
    /// not known.
    pub fn lacking(&self) -> u64 {
        match &self.expected {
            TakeIn::Nothing => 0,
            TakeIn::Prefix(Prefix { head, body_bytes, .. }) => {
                let as_sent = (head.len() as u64).saturating_add(*body_bytes).saturating_sub(self.taken);
                let content = self.rechunked.as_ref().map(|rechunked| rechunked.lacking());
                match content {
                    Some(content) if self.other_chunks.is_some() => content,
                    // In longer chunks it comes with fewer bytes.
                    Some(content) => as_sent.min(content),
                    None => as_sent,
                }
            }
            TakeIn::Range { overlap, .. } => (overlap.len() as u64).saturating_sub(self.body),
        }
    }

    /// Bytes taken in so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that may come between those that the client has and the alternate's own.
    pub(crate) fn longest_joint(&self) -> u64 {
        self.rechunked.as_ref().map_or(0, |rechunked| rechunked.longest_joint())
    }

    /// What the client gets between the bytes that it has and the alternate's: other chunks' end and beginning. `None`: nothing,
    /// the alternate's bytes follow as they are.
    pub fn joint(&self) -> Option<&[u8]> {
        self.other_chunks.as_ref().and(self.rechunked.as_ref()).map(|rechunked| rechunked.joint())
    }

    /// Takes the next bytes of the alternate's response; what lies behind the splice point is not looked at.
    pub fn push(&mut self, data: &[u8]) -> Verdict {
        let mut rest = data;
        if !self.head_done {
            match self.push_head(&mut rest) {
                Verdict::Equal { .. } => self.head_done = true,
                other => return other,
            }
        }
        self.push_body(rest)
    }

    /// `Equal` once the head has been compared.
    fn push_head(&mut self, rest: &mut &[u8]) -> Verdict {
        match &self.expected {
            TakeIn::Nothing => Verdict::Equal { taken: 0 },
            TakeIn::Prefix(Prefix { head, volatile, .. }) => {
                let need = head.len() - self.head.len();
                let (now, later) = rest.split_at(need.min(rest.len()));
                self.head.extend_from_slice(now);
                self.taken += now.len() as u64;
                *rest = later;
                if self.head.len() < head.len() {
                    return Verdict::More;
                }
                match compare_heads(head, &self.head, volatile) {
                    Ok(()) => {
                        self.end.find(&self.head);
                        Verdict::Equal { taken: self.taken }
                    }
                    Err(at) => mismatch(at as u64, (head, at), self.head.get(at..).unwrap_or_default()),
                }
            }
            TakeIn::Range { first, complete, .. } => {
                let (first, complete) = (*first, *complete);
                self.push_range_head(rest, first, complete)
            }
        }
    }

    fn push_range_head(&mut self, rest: &mut &[u8], first: u64, complete: u64) -> Verdict {
        let before = self.head.len();
        self.head.extend_from_slice(rest);
        match http1::parse_response(&self.head, MAX_HEAD, "GET") {
            Ok(None) => {
                self.taken += rest.len() as u64;
                Verdict::More
            }
            Ok(Some(head)) if head.status == 206 && fits(head.content_range(), first, complete) => {
                let used = head.head_bytes - before;
                *rest = rest.get(used..).unwrap_or_default();
                self.taken += used as u64;
                Verdict::Equal { taken: self.taken }
            }
            Ok(Some(head)) if head.status == 200 => self.push_whole(rest),
            Ok(Some(head)) => Verdict::Unfit(format!("asked for bytes {first}-, got status {}", head.status)),
            Err(refusal) => Verdict::Unfit(format!("unreadable response head: {refusal}")),
        }
    }

    /// The alternate ignores ranges (RFC 9110 §14.2): what has come so far is the beginning of the whole.
    fn push_whole(&mut self, rest: &mut &[u8]) -> Verdict {
        let TakeIn::Range { whole, .. } = &self.expected else { return Verdict::More };
        let mut other = Self::new(TakeIn::Prefix(whole.clone()));
        let verdict = other.push(&self.head);
        if matches!(verdict, Verdict::Equal { .. }) && other.taken <= self.taken {
            return Verdict::Unfit("asked for a range, got the whole".to_owned());
        }
        *rest = &[];
        *self = other;
        verdict
    }

    fn push_body(&mut self, data: &[u8]) -> Verdict {
        match &self.expected {
            TakeIn::Nothing => Verdict::Equal { taken: 0 },
            TakeIn::Prefix(_) if self.other_chunks.is_some() => self.push_content(data),
            TakeIn::Prefix(_) => self.push_as_sent(data),
            TakeIn::Range { .. } => self.push_overlap(data),
        }
    }

    fn push_overlap(&mut self, data: &[u8]) -> Verdict {
        let TakeIn::Range { overlap, first, .. } = &self.expected else { return Verdict::More };
        let rest = overlap.get(self.body as usize..).unwrap_or_default();
        let need = rest.len().min(data.len());
        let differs = rest.iter().zip(data).position(|(logged, alternate)| logged != alternate);
        if let Some(at) = differs {
            let place = self.body as usize + at;
            let alternate = data.get(at..).unwrap_or_default();
            return mismatch(first.saturating_add(place as u64), (overlap, place), alternate);
        }
        self.body += need as u64;
        self.taken += need as u64;
        if need < rest.len() { Verdict::More } else { Verdict::Equal { taken: self.taken } }
    }

    /// The whole body, chunk framing included.
    fn push_as_sent(&mut self, data: &[u8]) -> Verdict {
        let TakeIn::Prefix(Prefix { head, body_bytes, hashes, tail, .. }) = &self.expected else {
            return Verdict::More;
        };
        let place = |at: u64| (head.len() as u64).saturating_add(at);
        let need = usize::try_from(body_bytes - self.body).unwrap_or(usize::MAX).min(data.len());
        let now = data.get(..need).unwrap_or_default();
        let end = self.end.find(now);
        let now = now.get(..end.unwrap_or(need)).unwrap_or_default();
        let behind = data.get(now.len()..).filter(|_| end.is_none());
        let tail_at = body_bytes.saturating_sub(tail.len() as u64);
        note_difference((tail, tail_at), (now, self.body), &mut self.differs);
        if let Some(used) = follow(self.rechunked.as_deref_mut(), now, body_bytes - self.body) {
            let differs = mismatch(place(self.body), (&[], 0), &[]);
            self.taken += used as u64;
            return self.judge_content(differs, Some(&[]));
        }
        let hashed = self.hash.push(now, hashes);
        self.body += now.len() as u64;
        self.taken += now.len() as u64;
        if let Err(start) = hashed {
            let end = start.saturating_add(self.hash.stretch(hashes));
            let found = self.differs.take().filter(|(at, _)| (start..end).contains(at));
            let (at, alternate) = found.unwrap_or((start, Vec::new()));
            let known = at.checked_sub(tail_at).filter(|_| !alternate.is_empty());
            let in_tail = known.map_or(tail.len(), |place| place as usize);
            let differs = mismatch(place(at), (tail, in_tail), &alternate);
            return self.judge_content(differs, behind);
        }
        if self.body >= *body_bytes {
            Verdict::Equal { taken: self.taken }
        } else if end.is_some() {
            let differs = mismatch(place(self.body), (&[], 0), &[]);
            self.judge_content(differs, behind)
        } else {
            Verdict::More
        }
    }
}

/// The same bytes of the body for its content; `left`: bytes of the logged body from there on. `Some`: it was in other chunks, as far more than
/// a size line is left of it where the content is equal; so many of the bytes have been taken.
fn follow(rechunked: Option<&mut Rechunked>, now: &[u8], left: u64) -> Option<usize> {
    let rechunked = rechunked?;
    let used = rechunked.push(now);
    if rechunked.is_compared() && left.saturating_sub(used as u64) > LONGEST_SIZE_LINE {
        return Some(used);
    }
    rechunked.append(now.get(used..).unwrap_or_default());
    None
}

impl Comparison {
    /// The bytes as sent differ, so: the content need not. `behind`: what follows them; `None`: the response is over.
    fn judge_content(&mut self, differs: Verdict, behind: Option<&[u8]>) -> Verdict {
        self.other_chunks = Some(differs);
        match (&self.rechunked, behind) {
            (Some(_), Some(behind)) => self.push_content(behind),
            (Some(rechunked), None) if rechunked.is_joined() => Verdict::Equal { taken: self.taken },
            _ => self.other_content(),
        }
    }

    fn push_content(&mut self, data: &[u8]) -> Verdict {
        let Some(rechunked) = &mut self.rechunked else { return self.other_content() };
        self.taken += rechunked.push(data) as u64;
        if rechunked.differs() {
            return self.other_content();
        }
        if rechunked.is_joined() { Verdict::Equal { taken: self.taken } } else { Verdict::More }
    }

    fn other_content(&mut self) -> Verdict {
        self.rechunked = None;
        self.other_chunks.clone().unwrap_or(Verdict::More)
    }
}

fn fits(range: Option<ContentRange>, first: u64, complete: u64) -> bool {
    let wanted = ContentRange { first, last: complete.saturating_sub(1), complete: Some(complete) };
    range == Some(wanted)
}
