//! One running recovery.

use std::net::SocketAddr;

use cluster::control::{ConnectionReport, Evidence, Outcome, RecoveryRecord, Swallowed};
use packet::Time;

use super::alternates::Alternates;
use super::waiting::Place;
use super::{LoggerId, Now};
use crate::plan::p;

/// A connection's failure, as it was reported.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) report: ConnectionReport,
    pub(super) logger: LoggerId,
    pub(super) evidence: Evidence,
    pub(super) noticed_us: u64,
}

impl Failure {
    /// What the report holds on to.
    pub(super) fn bytes(&self) -> usize {
        // What was left out of the log comes from the alternate, and waits at the proxy as if it had been reported.
        let left_out = usize::try_from(self.report.partial.left_out).unwrap_or(usize::MAX);
        self.report.bytes().saturating_add(left_out)
    }
}

/// An order that the proxy is executing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) id: u64,
    pub(super) alternate: SocketAddr,
    /// The whole response is asked for, not a range.
    pub(super) whole: bool,
    pub(super) ranged: bool,
    /// Updates are replayed that must not run twice on one backend.
    pub(super) once: bool,
    /// The client's initial sequence number there: S − R − 1.
    pub(super) client_isn: u32,
    pub(super) ordered_at: Option<Time>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The proxy ended the order for this alternate.
    Order(SocketAddr, Outcome),
    /// The manager gave up: the client is reset.
    Reset(String),
    /// The manager gave up: the client is answered with this status.
    Answer(u16, String),
    /// The same client failed anew; the newer report counts.
    Superseded,
}

#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) failure: Failure,
    /// S, as far as any report of the connection had it.
    pub(super) client_known: u32,
    pub(super) started: Now,
    pub(super) deadline: Time,
    pub(super) attempt: Option<Attempt>,
    /// It waits for an alternate to have room.
    pub(super) waiting: Option<Place>,
    /// Alternates that failed.
    pub(super) tried: Vec<SocketAddr>,
    /// Those of them that did not answer although nobody calls them down: asked again before the client is given up.
    pub(super) silent: Vec<SocketAddr>,
    pub(super) last_failure: Option<String>,
    /// Orders that were replaced because their alternate was found to fail, not ended by the proxy yet.
    pub(super) replaced: Vec<(u64, SocketAddr)>,
    /// The alternate's failure, in case that the client is there after all.
    pub(super) newer: Option<Box<Failure>>,
    pub(super) steps: Vec<(String, u64)>,
    /// What the client sent into the failed backend's fence: it follows each order.
    pub(super) swallowed: Vec<Swallowed>,
}

impl Recovery {
    pub(super) fn new(failure: Failure, client_known: u32, started: Now, deadline: Time) -> Self {
        Self {
            failure,
            client_known,
            started,
            deadline,
            attempt: None,
            waiting: None,
            tried: Vec::new(),
            silent: Vec::new(),
            last_failure: None,
            replaced: Vec::new(),
            newer: None,
            steps: Vec::new(),
            swallowed: Vec::new(),
        }
    }

    /// What it holds on to.
    pub(super) fn bytes(&self) -> usize {
        self.failure.bytes().saturating_add(self.swallowed_bytes())
    }

    pub(super) fn swallowed_bytes(&self) -> usize {
        self.swallowed.iter().map(|swallowed| swallowed.bytes.len()).sum()
    }

    /// Microseconds since the failure notice arrived.
    pub(super) fn elapsed(&self, now: Time) -> u64 {
        now.since(self.started.monotonic).as_micros() as u64
    }

    pub(super) fn step(&mut self, name: impl Into<String>, now: Time) {
        let elapsed = self.elapsed(now);
        self.steps.push((name.into(), elapsed));
    }

    /// The order leaves for the first time.
    pub(super) fn stamp(&mut self, order: u64, now: Time) -> bool {
        let waiting = |attempt: &&mut Attempt| attempt.id == order && attempt.ordered_at.is_none();
        let Some(attempt) = self.attempt.as_mut().filter(waiting) else { return false };
        attempt.ordered_at = Some(now);
        true
    }

    /// The present order cannot succeed; its alternate is not tried again.
    pub(super) fn give_up_attempt(&mut self, why: &str, now: Time) -> Option<Attempt> {
        let attempt = self.attempt.take()?;
        self.step(format!("{} failed", attempt.alternate), now);
        self.last_failure = Some(format!("{}: {why}", attempt.alternate));
        Some(attempt)
    }

    /// Takes back that silent ones were tried, unless they have been called down meanwhile. False if there is none.
    pub(super) fn asks_again(&mut self, alternates: &Alternates) -> bool {
        let mut again = std::mem::take(&mut self.silent);
        again.retain(|alternate| alternates.down_by(*alternate).is_none());
        self.tried.retain(|tried| !again.contains(tried));
        !again.is_empty()
    }

    /// The alternate of order `id`, whether the present one or a replaced one.
    pub(super) fn alternate_of(&self, id: u64) -> Option<SocketAddr> {
        let present = self.attempt.filter(|attempt| attempt.id == id).map(|attempt| attempt.alternate);
        present
            .or_else(|| self.replaced.iter().find(|(order, _)| *order == id).map(|(_, alternate)| *alternate))
    }

    /// What people get to see of it.
    pub(super) fn into_record(mut self, end: &End, now: Time) -> RecoveryRecord {
        let proxy_began =
            self.attempt.and_then(|attempt| attempt.ordered_at).map_or(0, |at| self.elapsed(at));
        if let End::Order(_, Outcome::Respliced { steps, .. }) = end {
            let from_notice = |(name, at): &(String, u64)| (name.clone(), proxy_began.saturating_add(*at));
            self.steps.extend(steps.iter().map(from_notice));
        }
        self.step("ended", now);
        let alternate = match end {
            End::Order(alternate, _) => Some(*alternate),
            End::Reset(_) | End::Answer(..) | End::Superseded => {
                self.attempt.map(|a| a.alternate).or(self.tried.last().copied())
            }
        };
        let report = self.failure.report;
        RecoveryRecord {
            at_ms: self.started.unix_ms,
            flow: report.flow,
            alternate,
            evidence: self.failure.evidence,
            noticed_us: self.failure.noticed_us,
            t_l: report.t_l,
            p: p(&report),
            request: report.pending.first().map(|request| request.summary.clone()),
            outcome: crate::story::in_words(end),
            ok: matches!(end, End::Order(_, Outcome::Respliced { .. } | Outcome::Elsewhere(_))),
            steps: self.steps,
        }
    }
}
