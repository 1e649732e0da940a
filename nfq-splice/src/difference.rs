//! Where an alternate's body differs from the logged one, for the operator.

use crate::take_in::Verdict;

/// Bytes shown of each side of a mismatch.
const CONTEXT: usize = 32;

/// `logged` has the differing byte at `place`; behind its end, if that byte is not known.
pub(crate) fn mismatch(at: u64, (logged, place): (&[u8], usize), alternate: &[u8]) -> Verdict {
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
pub(crate) fn note_difference(
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
