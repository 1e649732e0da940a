//! Orders, retries and ends.

use std::time::Duration;

use cluster::config::GiveUp;
use cluster::control::{Client, Flow, Mismatch, Outcome, RecoveryOrder, TakeIn, ToLog, ToProxy};
use packet::Time;

use super::alternates::Choice;
use super::mismatches::kind;
use super::recent::{Ended, Fingerprint, Respliced};
use super::recovery::{Attempt, End, Failure, Recovery};
use super::{Manager, Now};
use crate::plan::{Plan, Refusal, Steps, is_unanswered, plan, response_end, without_alternate};
use crate::replay::{barred, runs_once};
use crate::story::{SILENT, Story};

/// Why a backend with a state of its own is no alternate.
const RAN_THERE: &str = "the others may have run this connection's updates before";

impl Manager {
    pub(super) fn tell_noticed(&mut self, client: Client) {
        let Some(recovery) = self.active.get(&client) else { return };
        let failure = &recovery.failure;
        let story = Story::noticed(&failure.report, failure.evidence, failure.noticed_us);
        self.tell(story);
    }

    /// Orders the recovery on the next alternate, lets it wait until one has room, or resets the client if there is none or there is no
    /// plan.
    pub(super) fn order_next(&mut self, now: Time, client: Client) {
        let Some(recovery) = self.active.get_mut(&client) else { return };
        let report = &recovery.failure.report;
        let failed = report.flow.backend;
        let state = self.alternates.state_for(report);
        let barred = barred(report, state).to_vec();
        let excluded = |recovery: &Recovery| [&barred, recovery.tried.as_slice()].concat();
        let mut choice = self.alternates.choose(failed, &excluded(recovery), now);
        if choice == Choice::Nobody && recovery.asks_again(&self.alternates) {
            choice = self.alternates.choose(failed, &excluded(recovery), now);
        }
        let alternate = match choice {
            Choice::Take(alternate) => Some(alternate),
            Choice::Nobody => None,
            Choice::Wait if recovery.waiting.is_some() => return,
            Choice::Wait => {
                recovery.waiting = Some(self.waiting.push(failed, client));
                return self.count("recoveries_at_alternate_limit");
            }
        };
        if let Some(place) = recovery.waiting.take() {
            self.waiting.remove(place);
        }
        let why = recovery.last_failure.as_deref().or((!barred.is_empty()).then_some(RAN_THERE));
        if let (None, Some(why)) = (alternate, why) {
            let reason = format!("no alternate is left ({why})");
            return self.give_up(now, client, Refusal { reason, status: Some(502) });
        }
        self.order(now, client, alternate.as_slice(), false);
    }

    /// What waits for an alternate to have room is asked anew whether one has.
    pub(super) fn order_waiting(&mut self, now: Time) {
        loop {
            let before = self.waiting.len();
            for client in self.waiting.first() {
                self.order_next(now, client);
            }
            if self.waiting.len() == before {
                return;
            }
        }
    }

    fn order(&mut self, now: Time, client: Client, alternates: &[std::net::SocketAddr], whole: bool) {
        let Some(recovery) = self.active.get_mut(&client) else { return };
        let report = &recovery.failure.report;
        let config = if whole { &self.whole } else { &self.config };
        let state = self.alternates.state_for(report);
        match plan(report, state, alternates, config) {
            Plan::GiveUp(refusal) => self.give_up(now, client, refusal),
            Plan::Recover(steps) => {
                let id = self.next_order;
                self.next_order += 1;
                let ranged = matches!(steps.take_in, TakeIn::Range { .. });
                let alternate = steps.alternate;
                let once = runs_once(report, state);
                let rest = report.rest.map_or(0, |rest| rest.bytes as u32);
                let replayed = (steps.replay.len() as u32).wrapping_add(rest);
                let client_isn = report.client_next.wrapping_sub(replayed).wrapping_sub(1);
                let ordered_at = None;
                recovery.attempt =
                    Some(Attempt { id, alternate, whole, ranged, once, client_isn, ordered_at });
                self.orders.insert(id, client);
                self.alternates.begin(alternate);
                self.tell_planned(client, &steps);
                self.send_order(client, *steps, id);
            }
        }
    }

    fn tell_planned(&mut self, client: Client, steps: &Steps) {
        let Some(recovery) = self.active.get(&client) else { return };
        let story = Story::planned(&recovery.failure.report, steps, recovery.last_failure.clone());
        self.tell(story);
    }

    fn send_order(&mut self, client: Client, steps: Steps, id: u64) {
        let Some(recovery) = self.active.get(&client) else { return };
        let logger = self.loggers.get(recovery.failure.logger.0).map_or("", |logger| logger.name.as_str());
        let order = steps.into_order(id, &recovery.failure.report, logger);
        let order = RecoveryOrder { client_known: recovery.client_known, ..order };
        self.ask_to_recover(order);
        self.pass_kept_swallowed(client);
    }

    /// The same order again, for a proxy that may not have got it. If it did and was restarted, the alternate may have run updates
    /// already that must not run there twice: then another one is asked.
    pub(super) fn repeat_order(&mut self, now: Time, client: Client) {
        let Some(recovery) = self.active.get(&client) else { return };
        let Some(attempt) = recovery.attempt else { return };
        if attempt.once && attempt.ordered_at.is_some() {
            return self.leave_attempt(now, client, "it may have run the updates for an earlier nfq-splice");
        }
        let report = &recovery.failure.report;
        let config = if attempt.whole { &self.whole } else { &self.config };
        let state = self.alternates.state_for(report);
        if let Plan::Recover(steps) = plan(report, state, &[attempt.alternate], config) {
            self.send_order(client, *steps, attempt.id);
        }
    }

    /// The proxy could not use the alternate. If it was asked for a range, it may still serve the whole, unless it has run updates
    /// that must not run there twice.
    pub(super) fn retry(&mut self, now: Time, client: Client, why: &str) {
        let Some(attempt) = self.end_attempt(now, client, why) else { return };
        if attempt.ranged && !attempt.once {
            return self.order(now, client, &[attempt.alternate], true);
        }
        if let Some(recovery) = self.active.get_mut(&client) {
            recovery.tried.push(attempt.alternate);
        }
        self.order_next(now, client);
    }

    /// The proxy is done with the alternate.
    fn end_attempt(&mut self, now: Time, client: Client, why: &str) -> Option<Attempt> {
        self.count("alternates_failed");
        let attempt = self.active.get_mut(&client)?.give_up_attempt(why, now)?;
        self.orders.remove(&attempt.id);
        self.alternates.end(attempt.alternate);
        Some(attempt)
    }

    /// The alternate did not answer. If nobody calls it down, the path may have lost the handshake: where no other is left, it is asked
    /// again until the recovery's time is over.
    pub(super) fn retry_silent(&mut self, now: Time, client: Client) {
        let Some(attempt) = self.end_attempt(now, client, SILENT) else { return };
        if let Some(recovery) = self.active.get_mut(&client) {
            recovery.tried.push(attempt.alternate);
            recovery.silent.push(attempt.alternate);
        }
        self.order_next(now, client);
    }

    /// The log found the alternate failing while the proxy still works with it. `newer` is the failure of the
    /// client's connection there: it counts only if the proxy had re-spliced already.
    pub(super) fn fail_alternate(&mut self, now: Now, client: Client, newer: Option<Failure>) {
        let Some(recovery) = self.active.get_mut(&client) else { return };
        if recovery.attempt.is_some() {
            recovery.newer = newer.map(Box::new).or(recovery.newer.take());
        }
        self.leave_attempt(now.monotonic, client, "it failed, too");
    }

    /// Goes on with the next alternate, though the proxy may still be working with this one.
    fn leave_attempt(&mut self, now: Time, client: Client, why: &str) {
        self.count("alternates_failed");
        let Some(recovery) = self.active.get_mut(&client) else { return };
        let Some(attempt) = recovery.give_up_attempt(why, now) else { return };
        recovery.tried.push(attempt.alternate);
        recovery.replaced.push((attempt.id, attempt.alternate));
        self.alternates.end(attempt.alternate);
        self.order_next(now, client);
    }

    /// Answers the client if the operator wants that and it can be done, otherwise resets it.
    pub(super) fn give_up(&mut self, now: Time, client: Client, refusal: Refusal) {
        let Some(recovery) = self.active.get(&client) else { return };
        let wanted = self.config.give_up == GiveUp::Answer && self.http && self.proxy_connected;
        let may = wanted && is_unanswered(&recovery.failure.report);
        let end = match refusal.status {
            Some(status) if may => End::Answer(status, refusal.reason),
            _ => End::Reset(refusal.reason),
        };
        self.finish(now, client, &end);
    }

    /// Ends a recovery: the client's fate to the proxy, the outcome to the log and to people.
    pub(super) fn finish(&mut self, now: Time, client: Client, end: &End) {
        let Some(recovery) = self.active.remove(&client) else { return };
        if let Some(place) = recovery.waiting {
            self.waiting.remove(place);
        }
        self.deadlines.remove(&(recovery.deadline, client));
        self.report_bytes = self.report_bytes.saturating_sub(recovery.bytes());
        for (id, _) in recovery.replaced.iter().copied().chain(recovery.attempt.map(|a| (a.id, a.alternate)))
        {
            self.orders.remove(&id);
        }
        if let Some(attempt) = recovery.attempt {
            self.alternates.end(attempt.alternate);
        }
        self.tell_client(now, &recovery, end);
        self.close(now, recovery, end);
    }

    /// Which of its possible connections the client really has, the proxy knows.
    fn tell_client(&mut self, now: Time, recovery: &Recovery, end: &End) {
        let report = &recovery.failure.report;
        let reason = match end {
            End::Reset(reason) => {
                let end = Some(response_end(report));
                self.tell_last(now, ToProxy::Reset { flow: report.flow, end, reason: reason.clone() });
                reason
            }
            End::Answer(status, reason) => {
                let order = Box::new(without_alternate(report));
                self.tell_last(now, ToProxy::Answer { order, status: *status, reason: reason.clone() });
                reason
            }
            End::Order(..) | End::Superseded => return,
        };
        for (_, backend) in recovery.replaced.iter().copied() {
            let flow = Flow { client: report.flow.client, backend };
            self.tell_last(now, ToProxy::Reset { flow, end: None, reason: reason.clone() });
        }
    }

    fn close(&mut self, now: Time, recovery: Recovery, end: &End) {
        let logger = recovery.failure.logger;
        let client = recovery.failure.report.flow.client;
        let order = recovery.attempt.map(|attempt| (attempt.id, attempt.alternate));
        let fingerprint = Fingerprint::of(&recovery.failure.report);
        let backend = match end {
            End::Order(alternate, Outcome::Respliced { .. }) => Some(*alternate),
            End::Order(_, Outcome::Elsewhere(backend)) => Some(*backend),
            _ => None,
        };
        let on_it = recovery.attempt.filter(|attempt| Some(attempt.alternate) == backend);
        let respliced = on_it.map(|attempt| {
            Respliced::new(attempt.client_isn, recovery.failure.report.t_l, recovery.client_known)
        });
        self.count_end(end);
        self.note_mismatch(&recovery, end);
        let record = recovery.into_record(end, now);
        self.tell(Story::Ended(record.clone()));
        self.remember(record);
        if matches!(end, End::Superseded) {
            return;
        }
        self.recent.remember(client, Ended { fingerprint, logger, backend, order, respliced });
        if matches!(end, End::Order(..)) {
            return self.ask_log(logger, ToLog::Ended { client, backend });
        }
        let wait = if self.proxy_connected { Duration::ZERO } else { self.timeout() };
        self.untold.push(now, wait, logger, client);
        self.tell_logs(now);
    }

    fn count_end(&mut self, end: &End) {
        self.count(match end {
            End::Order(_, Outcome::Respliced { .. }) => "resplices",
            End::Order(_, Outcome::Gone(_)) => "clients_gone",
            End::Order(_, Outcome::Elsewhere(_)) => "clients_elsewhere",
            End::Answer(..) => "answers",
            End::Superseded => "recoveries_superseded",
            End::Reset(_) | End::Order(..) => "resets",
        });
    }

    /// For the operator, who may want to write a tag rule.
    fn note_mismatch(&mut self, recovery: &Recovery, end: &End) {
        let End::Order(alternate, Outcome::Mismatch { at, before, logged, alternate: sent }) = end else {
            return;
        };
        let report = &recovery.failure.report;
        let request = report.pending.first().map(|request| request.summary.clone()).unwrap_or_default();
        self.mismatches.add(Mismatch {
            at_ms: recovery.started.unix_ms,
            flow: report.flow,
            alternate: *alternate,
            kind: kind(&request),
            request,
            position: *at,
            before: before.clone(),
            logged: logged.clone(),
            sent: sent.clone(),
        });
        self.count("mismatches");
    }

    fn remember(&mut self, record: cluster::control::RecoveryRecord) {
        self.history.push_back(record);
        while self.history.len() > self.config.history {
            self.history.pop_front();
        }
    }

    /// The proxy ends the client's connection.
    fn tell_last(&mut self, now: Time, message: ToProxy) {
        if self.proxy_connected {
            let message = self.resets.send(now, message);
            return self.ask_proxy(message);
        }
        if self.resets.wait(now + self.timeout(), message) {
            self.count("resets_given_up");
        }
    }

    /// Those logs that may be told now that a client's connection has been ended.
    pub(super) fn tell_logs(&mut self, now: Time) {
        while let Some((logger, client)) = self.untold.pop(now, self.limits.waiting_resets) {
            self.ask_log(logger, ToLog::Ended { client, backend: None });
        }
    }
}
