//! What a report must satisfy before a plan is built on it: it comes from another machine.

use cluster::control::{BEYOND_BYTES, ConnectionReport, LEFT_OUT_BYTES, TAIL_BYTES};
use packet::Seq;
use thiserror::Error;

use crate::equations::logged_until;
use crate::plan::p;

/// How a report contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Contradiction {
    #[error("requests are not numbered from T_L + 1 on")]
    Ordinals,
    #[error("a request follows an incomplete one")]
    AfterIncomplete,
    #[error("a pending request is empty")]
    EmptyRequest,
    #[error("the rest of the requests is of another connection, or of none")]
    Rest,
    #[error("the answered updates are empty, out of order or beyond T_L")]
    Updates,
    #[error("there are response bytes without a request")]
    Unasked,
    #[error("there are body bytes after an incomplete head")]
    BodyBeforeHead,
    #[error("the body's tail is longer than the body or its limit")]
    Tail,
    #[error("hashes reach beyond the body")]
    Hashes,
    #[error("the body has more content than bytes")]
    Content,
    #[error("more bytes were left out of the log than a large file's window takes, or of no file")]
    LeftOut,
    #[error("the client acknowledged response bytes that were not logged")]
    Ahead,
    #[error("the pieces behind a hole touch, overlap or lie too far away")]
    Beyond,
    #[error("the bytes to re-send do not reach from Ack_CL to Ack_TL + p")]
    Unacked,
}

/// Refuses a report whose parts do not fit each other.
pub(crate) fn check(report: &ConnectionReport) -> Result<(), Contradiction> {
    check_updates(report)?;
    check_requests(report)?;
    check_response(report)?;
    check_beyond(report)?;
    check_unacked(report)
}

fn check_beyond(report: &ConnectionReport) -> Result<(), Contradiction> {
    let left_out = report.partial.left_out;
    let mut end = left_out;
    for (at, bytes) in &report.beyond {
        if *at <= end || bytes.is_empty() {
            return Err(Contradiction::Beyond);
        }
        end = at.saturating_add(bytes.len() as u64);
    }
    if end - left_out > BEYOND_BYTES as u64 { Err(Contradiction::Beyond) } else { Ok(()) }
}

fn check_updates(report: &ConnectionReport) -> Result<(), Contradiction> {
    let mut last = 0;
    for update in report.updates.iter().flat_map(|updates| &updates.answered) {
        if update.ordinal <= last || update.ordinal > report.t_l || update.bytes.is_empty() {
            return Err(Contradiction::Updates);
        }
        last = update.ordinal;
    }
    Ok(())
}

fn check_requests(report: &ConnectionReport) -> Result<(), Contradiction> {
    let mut expected = u64::from(report.t_l);
    for (place, request) in report.pending.iter().enumerate() {
        expected += 1;
        if u64::from(request.ordinal) != expected {
            return Err(Contradiction::Ordinals);
        }
        // What follows the rest's beginning is in the log only.
        if request.bytes.is_empty() && report.rest.is_none() {
            return Err(Contradiction::EmptyRequest);
        }
        if !request.complete && place + 1 < report.pending.len() {
            return Err(Contradiction::AfterIncomplete);
        }
    }
    check_rest(report)
}

fn check_rest(report: &ConnectionReport) -> Result<(), Contradiction> {
    let Some(rest) = &report.rest else { return Ok(()) };
    let own = rest.flow == report.flow && rest.bytes > 0 && !report.pending.is_empty();
    if own { Ok(()) } else { Err(Contradiction::Rest) }
}

fn check_response(report: &ConnectionReport) -> Result<(), Contradiction> {
    let partial = &report.partial;
    if report.pending.is_empty() && p(report) > 0 {
        return Err(Contradiction::Unasked);
    }
    if partial.body_bytes > 0 && !partial.head_complete {
        return Err(Contradiction::BodyBeforeHead);
    }
    if partial.tail.len() > TAIL_BYTES || partial.tail.len() as u64 > partial.body_bytes {
        return Err(Contradiction::Tail);
    }
    let mut hashed = partial.hashes.iter().map(|stretch| stretch.bytes);
    if hashed.try_fold(0, u64::checked_add).is_none_or(|hashed| hashed > partial.body_bytes) {
        return Err(Contradiction::Hashes);
    }
    if partial.content.is_some_and(|chunked| chunked.content.bytes > partial.body_bytes) {
        return Err(Contradiction::Content);
    }
    if partial.left_out > LEFT_OUT_BYTES || partial.left_out > 0 && !partial.head_complete {
        return Err(Contradiction::LeftOut);
    }
    Ok(())
}

/// A client's window is at most 1 GiB (RFC 7323 §2.3), so half the sequence space tells before from after.
fn check_unacked(report: &ConnectionReport) -> Result<(), Contradiction> {
    let unacked = logged_until(Seq(report.ack_tl), p(report)).since(Seq(report.ack_cl));
    let Ok(unacked) = usize::try_from(unacked) else { return Err(Contradiction::Ahead) };
    if unacked == report.unacked.len() { Ok(()) } else { Err(Contradiction::Unacked) }
}
