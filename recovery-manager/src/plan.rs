//! The plan for one connection: how its response is continued, or why it cannot be.

use std::net::SocketAddr;

use cluster::config;
use cluster::control::{
    ConnectionReport, PartialResponse, PendingRequest, Prefix, RecoveryOrder, Replayed, Rest, TakeIn,
};
use packet::Seq;

use crate::equations::{self, AlternateState};
use crate::replay::{Replay, replay};
use crate::{range, report};

/// The log kept neither the bytes nor what would be needed to have them again.
const LEFT_OUT: &str =
    "bytes of a large file were left out of the log, and a Range request cannot get them again";

/// What becomes of a connection whose backend failed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The client continues on an alternate.
    Recover(Box<Steps>),
    /// It does not; the client is told at once.
    GiveUp(Refusal),
}

/// Why a connection is not continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the log and the operator.
    pub reason: String,
    /// With what status the client may be answered, if it has nothing of the response; `None`: it can only be reset.
    pub status: Option<u16>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, status: None }
    }
}

/// The ingredients of a [`RecoveryOrder`] that are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// The alternate backend A.
    pub alternate: SocketAddr,
    /// T_SP: the first transaction on the re-spliced connection.
    pub t_sp: u64,
    /// T_R: the first transaction that runs on the alternate.
    pub t_r: u64,
    /// Transactions of `[T_R, T_L]` that run again first.
    pub replayed: Vec<Replayed>,
    /// The requests to send to the alternate, those of `replayed` first; R is their length.
    pub replay: Vec<u8>,
    /// Logged response bytes from Ack_CL on; empty if the client has acknowledged all.
    pub resend: Vec<u8>,
    /// What of the alternate's answer the client has already.
    pub take_in: TakeIn,
}

impl Steps {
    /// The order to the proxy with number `id`.
    ///
    /// `logger`: the name of the one that has the requests' [rest](ConnectionReport::rest).
    pub fn into_order(self, id: u64, report: &ConnectionReport, logger: &str) -> RecoveryOrder {
        let rest = report.rest.map(|logged| Rest { logger: logger.to_owned(), logged });
        RecoveryOrder {
            id,
            flow: report.flow,
            alternate: self.alternate,
            options: report.options,
            client_window: report.client_window,
            client_next: report.client_next,
            client_known: report.client_next,
            client_fin: report.client_fin,
            replayed: self.replayed,
            replay: self.replay,
            rest,
            resend_from: report.ack_cl,
            resend: self.resend,
            take_in: self.take_in,
            beyond: report.beyond.clone(),
            left_out: report.partial.left_out,
        }
    }
}

/// Plans the recovery of one connection (paper §4.3) on the first of `alternates`.
///
/// The client is reset, with the reason, if the log cannot recover the connection or contradicts itself, if
/// an update is in flight whose effect is unknown, if the alternate cannot be brought to the state of T_L, or if there
/// is no alternate.
pub fn plan(
    report: &ConnectionReport,
    state: AlternateState,
    alternates: &[SocketAddr],
    config: &config::Recovery,
) -> Plan {
    match steps(report, state, alternates, config) {
        Ok(steps) => Plan::Recover(Box::new(steps)),
        Err(refusal) => Plan::GiveUp(refusal),
    }
}

fn steps(
    report: &ConnectionReport,
    state: AlternateState,
    alternates: &[SocketAddr],
    config: &config::Recovery,
) -> Result<Steps, Refusal> {
    if let Some(reason) = &report.unrecoverable {
        return Err(reason.clone().into());
    }
    report::check(report).map_err(|wrong| format!("the log's report contradicts itself: {wrong}"))?;
    refuse_unknown_effect(report).map_err(|reason| Refusal { reason, status: Some(502) })?;
    let Replay { mut bytes, replayed } =
        replay(report, state, config).map_err(|reason| Refusal { reason, status: Some(502) })?;
    let nobody = || Refusal { reason: "no alternate backend is up".to_owned(), status: Some(503) };
    let alternate = *alternates.first().ok_or_else(nobody)?;
    let (outstanding, take_in) = continue_response(report, config)?;
    if outstanding.len() > config.request_bytes.saturating_add(range::HEAD_GROWTH) {
        return Err(format!(
            "{} bytes of requests are outstanding, more than recovery.request_bytes",
            outstanding.len()
        )
        .into());
    }
    if report.rest.is_some_and(|rest| rest.bytes > config.upload_bytes) {
        return Err("more bytes of requests are outstanding than recovery.upload_bytes".to_owned().into());
    }
    bytes.extend_from_slice(&outstanding);
    Ok(Steps {
        alternate,
        t_sp: equations::t_sp(report.t_l),
        t_r: equations::t_r(report.t_l, state.t_a),
        replayed,
        replay: bytes,
        resend: resend(report),
        take_in,
    })
}

/// Whether the proxy can answer in the backends' place: a request waits, and nothing of its response was sent.
pub(crate) fn is_unanswered(report: &ConnectionReport) -> bool {
    let usable = report.unrecoverable.is_none() && report::check(report).is_ok();
    let asked = report.pending.first().is_some_and(|request| !request.bytes.is_empty());
    usable && asked && p(report) == 0 && report.beyond.is_empty()
}

/// What the proxy needs for such an answer.
pub(crate) fn without_alternate(report: &ConnectionReport) -> RecoveryOrder {
    let steps = Steps {
        alternate: report.flow.backend,
        t_sp: equations::t_sp(report.t_l),
        t_r: equations::t_sp(report.t_l),
        replayed: Vec::new(),
        replay: report.pending.first().map_or_else(Vec::new, |request| beginning(&request.bytes)),
        resend: resend(report),
        take_in: TakeIn::Nothing,
    };
    RecoveryOrder { rest: None, ..steps.into_order(0, report, "") }
}

/// The method shows whether the answer may have a body.
fn beginning(request: &[u8]) -> Vec<u8> {
    request.iter().take(16).copied().collect()
}

/// p: logged response bytes of T_L + 1.
pub(crate) fn p(report: &ConnectionReport) -> u64 {
    report.partial.body_bytes.saturating_add(report.partial.head.len() as u64)
}

/// One after the last response byte that passed: Ack_TL + p and what was left out of the log, or Ack_CL if the report contradicts
/// itself.
pub(crate) fn response_end(report: &ConnectionReport) -> u32 {
    let end = Seq(report.ack_tl) + p(report) as u32 + report.partial.left_out as u32;
    end.max(Seq(report.ack_cl)).0
}

fn resend(report: &ConnectionReport) -> Vec<u8> {
    if equations::must_resend(Seq(report.ack_cl), Seq(report.ack_tl), p(report)) {
        report.unacked.clone()
    } else {
        Vec::new()
    }
}

/// A complete request may have been executed, whichever of a pipeline it is; one that is half sent was not,
/// unless its final response had begun.
fn refuse_unknown_effect(report: &ConnectionReport) -> Result<(), String> {
    for (place, request) in report.pending.iter().enumerate() {
        let answered = place == 0 && p(report) > 0 && !only_interim(&report.partial);
        if (request.complete || answered) && !repeatable(request) {
            let progress = if answered { "its response had begun" } else { "it may have been applied" };
            return Err(format!(
                "update in flight: request {} ({}) is neither read-only nor idempotent, and {progress}",
                request.ordinal, request.summary
            ));
        }
    }
    Ok(())
}

/// Nothing, or nothing but whole interim responses, like the `100 Continue` that asks for a request's body.
fn only_interim(partial: &PartialResponse) -> bool {
    let mut head = partial.head.as_slice();
    if partial.head_complete || partial.body_bytes > 0 {
        return false;
    }
    while !head.is_empty() {
        match http1::parse_response(head, usize::MAX, "POST") {
            Ok(Some(response)) if response.interim() => {
                head = head.get(response.head_bytes..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    true
}

fn repeatable(request: &PendingRequest) -> bool {
    request.tags.read_only || request.tags.idempotent
}

/// The bytes to replay, and what to take in of the answer.
fn continue_response(
    report: &ConnectionReport,
    config: &config::Recovery,
) -> Result<(Vec<u8>, TakeIn), String> {
    let Some((first, following)) = report.pending.split_first() else {
        return Ok((Vec::new(), TakeIn::Nothing));
    };
    let whole = prefix(report, config);
    // Nothing may be put into a request that is sent on as it was logged.
    let resumable = report.rest.is_none() || !following.is_empty();
    let logged = report.partial.is_hashed() && report.partial.left_out == 0;
    let from = if logged { config.range_from_bytes } else { 0 };
    let resumption = range::resume(first, &report.partial, from, &whole).filter(|_| resumable);
    let (mut replay, take_in) = match resumption {
        Some(resumption) => (resumption.request, resumption.take_in),
        None if !logged => return Err(LEFT_OUT.to_owned()),
        None if p(report) == 0 => (first.bytes.clone(), TakeIn::Nothing),
        None => (first.bytes.clone(), TakeIn::Prefix(whole)),
    };
    for request in following {
        replay.extend_from_slice(&request.bytes);
    }
    Ok((replay, take_in))
}

fn prefix(report: &ConnectionReport, config: &config::Recovery) -> Prefix {
    let volatile = report.pending.first().and_then(|request| request.volatile_headers.as_ref());
    Prefix {
        head: report.partial.head.clone(),
        head_complete: report.partial.head_complete,
        volatile: volatile.unwrap_or(&config.volatile_headers).clone(),
        body_bytes: report.partial.body_bytes,
        hashes: report.partial.hashes.clone(),
        // Behind a hole the client has bytes in the failed backend's framing.
        content: report.partial.content.filter(|_| report.beyond.is_empty() && report.partial.left_out == 0),
        tail: report.partial.tail.clone(),
    }
}
