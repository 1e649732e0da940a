//! Comparing the alternate's first bytes with what the client already has (paper §3.4, §4.3; design §6 step 6).

use cluster::control::{Prefix, Stretch, TakeIn};
use http1::{ContentRange, compare_heads};
use xxhash_rust::xxh3::Xxh3;

use crate::chunks::Rechunked;
use crate::message_end::MessageEnd;

/// Longest head an alternate may answer a `Range` request with, bytes.
const MAX_HEAD: usize = 64 << 10;
/// Bytes between the last of the content and the next: if more of the logged body are left, it was in other chunks. Extensions
/// may be longer; then the content alone counts, too.
const LONGEST_SIZE_LINE: u64 = 64;
/// Bytes shown of each side of a mismatch.
const CONTEXT: usize = 32;

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

/// A body's stretches as they come.
#[derive(Default)]
struct BodyHash {
    hash: Xxh3,
    /// Bytes in `hash`.
    hashed: u64,
    /// Stretches that were equal, and their bytes.
    equal: (usize, u64),
}

impl BodyHash {
    /// Takes the next bytes of the body; `Err`: the stretch that begins there has other bytes than `expected`.
    fn push(&mut self, mut data: &[u8], expected: &[Stretch]) -> Result<(), u64> {
        while let Some(stretch) = expected.get(self.equal.0) {
            let lacking = usize::try_from(stretch.bytes - self.hashed).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(lacking.min(data.len()));
            self.hash.update(now);
            self.hashed += now.len() as u64;
            data = later;
            if self.hashed < stretch.bytes {
                return Ok(());
            }
            let (count, start) = self.equal;
            if self.hash.digest128() != stretch.hash {
                return Err(start);
            }
            *self = Self { equal: (count + 1, start.saturating_add(stretch.bytes)), ..Self::default() };
        }
        Ok(())
    }

    /// Bytes of the stretch that is being hashed, or differs.
    fn stretch(&self, stretches: &[Stretch]) -> u64 {
        stretches.get(self.equal.0).map_or(0, |stretch| stretch.bytes)
    }
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
        if self.other_chunks.is_some() {
            return self.push_content(data);
        }
        match &self.expected {
            TakeIn::Nothing => Verdict::Equal { taken: 0 },
            TakeIn::Prefix(Prefix { head, body_bytes, hashes, tail, .. }) => {
                let need = usize::try_from(body_bytes - self.body).unwrap_or(usize::MAX).min(data.len());
                let now = data.get(..need).unwrap_or_default();
                let end = self.end.find(now);
                let now = now.get(..end.unwrap_or(need)).unwrap_or_default();
                let tail_at = body_bytes.saturating_sub(tail.len() as u64);
                note_difference((tail, tail_at), (now, self.body), &mut self.differs);
                if let Some(rechunked) = &mut self.rechunked {
                    let used = rechunked.push(now);
                    let left = body_bytes - self.body - used as u64;
                    if rechunked.is_compared() && left > LONGEST_SIZE_LINE {
                        self.taken += used as u64;
                        let at = (head.len() as u64).saturating_add(self.body);
                        return self.judge_content(mismatch(at, (&[], 0), &[]), Some(&[]));
                    }
                    rechunked.append(now.get(used..).unwrap_or_default());
                }
                let behind = data.get(now.len()..).filter(|_| end.is_none());
                if let Err(start) = self.hash.push(now, hashes) {
                    let end = start.saturating_add(self.hash.stretch(hashes));
                    let found = self.differs.take().filter(|(at, _)| (start..end).contains(at));
                    let (at, alternate) = found.unwrap_or((start, Vec::new()));
                    let known = at.checked_sub(tail_at).filter(|_| !alternate.is_empty());
                    let place = known.map_or(tail.len(), |place| place as usize);
                    let differs = mismatch((head.len() as u64).saturating_add(at), (tail, place), &alternate);
                    self.taken += now.len() as u64;
                    return self.judge_content(differs, behind);
                }
                self.body += now.len() as u64;
                self.taken += now.len() as u64;
                if self.body >= *body_bytes {
                    Verdict::Equal { taken: self.taken }
                } else if end.is_some() {
                    let differs = mismatch((head.len() as u64).saturating_add(self.body), (&[], 0), &[]);
                    self.judge_content(differs, behind)
                } else {
                    Verdict::More
                }
            }
            TakeIn::Range { overlap, first, .. } => {
                let rest = overlap.get(self.body as usize..).unwrap_or_default();
                let need = rest.len().min(data.len());
                let differs = rest.iter().zip(data).position(|(logged, alternate)| logged != alternate);
                if let Some(at) = differs {
                    let place = self.body as usize + at;
                    return mismatch(
                        first.saturating_add(place as u64),
                        (overlap, place),
                        data.get(at..).unwrap_or_default(),
                    );
                }
                self.body += need as u64;
                self.taken += need as u64;
                if need < rest.len() { Verdict::More } else { Verdict::Equal { taken: self.taken } }
            }
        }
    }
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

/// `logged` has the differing byte at `place`; behind its end, if that byte is not known.
fn mismatch(at: u64, (logged, place): (&[u8], usize), alternate: &[u8]) -> Verdict {
    let some = |bytes: &[u8]| bytes.iter().take(CONTEXT).copied().collect();
    let known = logged.get(place..).filter(|rest| !rest.is_empty());
    let before = known.and(logged.get(place.saturating_sub(CONTEXT)..place)).unwrap_or_default();
    Verdict::Mismatch {
        at,
        before: before.to_vec(),
        logged: some(known.unwrap_or_default()),
        alternate: some(alternate),
    }
}

/// Compares `now`, which begins at `body`, with the logged `tail`, which begins at `tail_at`, as far as they overlap.
fn note_difference(
    (tail, tail_at): (&[u8], u64),
    (now, body): (&[u8], u64),
    differs: &mut Option<(u64, Vec<u8>)>,
) {
    if let Some((_, bytes)) = differs {
        bytes.extend(now.iter().take(CONTEXT.saturating_sub(bytes.len())));
        return;
    }
    let skipped = tail_at.saturating_sub(body) as usize;
    let logged = tail.get(body.saturating_sub(tail_at) as usize..).unwrap_or_default();
    let other = now.get(skipped..).unwrap_or_default();
    if let Some(at) = logged.iter().zip(other).position(|(logged, other)| logged != other) {
        let sent = other.iter().skip(at).take(CONTEXT).copied().collect();
        *differs = Some((body + (skipped + at) as u64, sent));
    }
}
