//! What arrives: failures from the logs, outcomes from the proxy, connections and time.

use std::net::SocketAddr;

use cluster::config::{BackendState, Cluster};
use cluster::control::{Client, FromLog, FromProxy, LogStatus, Outcome, ToLog, ToProxy};
use packet::Time;

use super::alternates::Down;
use super::recent::Fingerprint;
use super::recovery::{End, Failure, Recovery};
use super::resets::{Resets, Untold};
use super::swallowed::belongs;
use super::{Action, LoggerId, Manager, Now, recovery_settings};
use crate::plan::Refusal;
use crate::story::Story;

impl Manager {
    /// A logger's transactionalizer is connected: a new session, in which message numbers begin anew.
    pub fn handle_log_connected(&mut self, logger: LoggerId) {
        let Some(peer) = self.loggers.get_mut(logger.0) else { return };
        peer.connected = true;
        peer.last_number = None;
        if self.fenced_by.is_some() {
            return;
        }
        self.ask_log(logger, ToLog::Subscribe { epoch: self.epoch });
        self.ask_log(logger, ToLog::Status);
        if !self.wanted.is_empty() {
            self.ask_log(logger, ToLog::Wanted(self.wanted.clone()));
        }
    }

    /// What the operator wants of backends: also the detectors have to know.
    fn handle_wanted(&mut self, wanted: Vec<(SocketAddr, BackendState)>) {
        self.alternates.want(&wanted);
        for logger in (0..self.loggers.len()).map(LoggerId) {
            if self.loggers.get(logger.0).is_some_and(|peer| peer.connected) {
                self.ask_log(logger, ToLog::Wanted(wanted.clone()));
            }
        }
        self.wanted = wanted;
    }

    /// The connection to a transactionalizer is lost.
    pub fn handle_log_disconnected(&mut self, logger: LoggerId) {
        if let Some(peer) = self.loggers.get_mut(logger.0) {
            peer.connected = false;
        }
        self.pieces.forget(logger);
    }

    /// A message from a transactionalizer.
    pub fn handle_log(&mut self, now: Now, logger: LoggerId, message: FromLog) {
        self.take_from_log(now, logger, message);
        self.order_waiting(now.monotonic);
    }

    fn take_from_log(&mut self, now: Now, logger: LoggerId, message: FromLog) {
        match message {
            FromLog::Fenced { epoch } => self.fence(epoch),
            _ if self.fenced_by.is_some() => {}
            FromLog::Failed { number, evidence, noticed_us, backend_down, backend, connections } => {
                if !self.is_new(logger, number) {
                    return self.count("log_messages_old");
                }
                if backend_down {
                    self.set_backend(backend, Some(Down::new(logger, evidence, now.monotonic)));
                }
                for report in connections {
                    self.begin(now, Failure { report, logger, evidence, noticed_us });
                }
                if backend_down {
                    self.leave_alternate(now, backend);
                }
            }
            FromLog::Swallowed(swallowed) => self.take_swallowed(swallowed),
            FromLog::BackendUp { backend } => self.set_backend(backend, None),
            FromLog::Piece(piece) => self.pass_piece(logger, piece),
            FromLog::Status(status) => self.reconcile(logger, &status),
            FromLog::Done(_) => {}
        }
    }

    fn is_new(&mut self, logger: LoggerId, number: u64) -> bool {
        let Some(peer) = self.loggers.get_mut(logger.0) else { return false };
        let new = peer.last_number.is_none_or(|last| number > last);
        if new {
            peer.last_number = Some(number);
        }
        new
    }

    /// A restarted transactionalizer does not know what its predecessor called down; what it says is up, is.
    fn reconcile(&mut self, logger: LoggerId, status: &LogStatus) {
        for (backend, up) in &status.backends {
            if *up && self.alternates.down_by(*backend) == Some(logger) {
                self.set_backend(*backend, None);
            }
        }
    }

    /// A failure is new, a repetition, that of an alternate in mid-recovery, or replaces an older one.
    fn begin(&mut self, now: Now, failure: Failure) {
        let client = failure.report.flow.client;
        if let Some(ended) = self.recent.repeated(&failure.report) {
            self.count("reports_repeated");
            return self.ask_log(failure.logger, ToLog::Ended { client, backend: ended.backend });
        }
        let Some(running) = self.active.get(&client) else { return self.admit(now, failure) };
        let failed = failure.report.flow.backend;
        let repeated = Fingerprint::of(&running.failure.report) == Fingerprint::of(&failure.report);
        let replaced = running.replaced.iter().any(|(_, alternate)| *alternate == failed);
        if repeated || (running.tried.contains(&failed) && !replaced) {
            self.count("reports_repeated");
        } else if replaced {
            self.keep_newer(client, failure);
        } else if running.attempt.is_some_and(|attempt| attempt.alternate == failed) {
            self.fail_alternate(now, client, Some(failure));
        } else {
            self.count("reports_superseding");
            self.finish(now.monotonic, client, &End::Superseded);
            self.admit(now, failure);
        }
    }

    /// The alternate's failure was known before this report of the client's connection to it: it counts only if the proxy had
    /// re-spliced already.
    fn keep_newer(&mut self, client: Client, failure: Failure) {
        if let Some(running) = self.active.get_mut(&client) {
            running.newer = Some(Box::new(failure));
        }
    }

    fn admit(&mut self, now: Now, failure: Failure) {
        let client = failure.report.flow.client;
        let deadline = now.monotonic + self.timeout();
        let bytes = self.report_bytes.saturating_add(failure.bytes());
        let full = self.active.len() >= self.limits.recoveries || bytes > self.limits.report_bytes;
        let contradiction = self.recent.contradicts(&failure.report);
        self.report_bytes = bytes;
        let client_known = self.recent.client_known(&failure.report);
        self.active.insert(client, Recovery::new(failure, client_known, now, deadline));
        self.deadlines.insert((deadline, client));
        self.tell_noticed(client);
        if full {
            self.count("recoveries_refused_at_limit");
            return self.finish(now.monotonic, client, &End::Reset("too many recoveries at once".to_owned()));
        }
        if let Some(why) = contradiction {
            self.count("reports_going_back");
            let reason = format!("the log's report contradicts an earlier one: {why}");
            return self.finish(now.monotonic, client, &End::Reset(reason));
        }
        self.order_next(now.monotonic, client);
    }

    /// A backend went down: what it stands in for goes on elsewhere.
    fn leave_alternate(&mut self, now: Now, backend: SocketAddr) {
        let on_it =
            |recovery: &Recovery| recovery.attempt.is_some_and(|attempt| attempt.alternate == backend);
        let clients: Vec<Client> =
            self.active.iter().filter(|(_, recovery)| on_it(recovery)).map(|(client, _)| *client).collect();
        for client in clients {
            self.fail_alternate(now, client, None);
        }
    }

    /// The proxy's splice daemon is connected. It may have been restarted: it is told everything again.
    pub fn handle_proxy_connected(&mut self, now: Time) {
        self.proxy_connected = true;
        if self.fenced_by.is_some() {
            return;
        }
        self.ask_proxy(ToProxy::Subscribe { epoch: self.epoch });
        for (backend, up) in self.alternates.all() {
            self.ask_proxy(ToProxy::Backend { backend, up });
        }
        for reset in self.resets.send_waiting(now) {
            self.actions.push_back(Action::ToProxy(reset));
        }
        let clients: Vec<Client> = self.active.keys().copied().collect();
        for client in clients {
            self.repeat_order(now, client);
        }
    }

    /// Another configuration, which may replace the one before: for failures reported from now on.
    pub fn handle_reload(&mut self, cluster: &Cluster) {
        (self.config, self.whole) = recovery_settings(cluster);
        self.alternates.reload(cluster);
    }

    /// The connection to the splice daemon is lost; orders wait for it until they time out.
    pub fn handle_proxy_disconnected(&mut self, now: Time) {
        self.proxy_connected = false;
        self.resets.handle_disconnected(now);
        self.untold.postpone(now, self.timeout());
        self.batch.take();
        self.actions.retain(|action| !matches!(action, Action::ToProxy(_)));
    }

    /// A message from the splice daemon.
    pub fn handle_proxy(&mut self, now: Now, message: FromProxy) {
        self.take_from_proxy(now, message);
        self.order_waiting(now.monotonic);
    }

    fn take_from_proxy(&mut self, now: Now, message: FromProxy) {
        let (id, outcome) = match message {
            FromProxy::Fenced { epoch } => return self.fence(epoch),
            _ if self.fenced_by.is_some() => return,
            FromProxy::Ended { id, outcome } => (id, outcome),
            FromProxy::Read(rest) => return self.ask_piece(&rest),
            FromProxy::Wanted(wanted) => return self.handle_wanted(wanted),
            FromProxy::Status(_) | FromProxy::Done(_) => return,
        };
        let Some(client) = self.orders.get(&id).copied() else { return self.late_outcome(id, &outcome) };
        let Some(recovery) = self.active.get(&client) else { return };
        let Some(alternate) = recovery.alternate_of(id) else { return };
        let present = recovery.attempt.is_some_and(|attempt| attempt.id == id);
        match outcome {
            Outcome::Respliced { .. } => self.respliced(now, client, alternate, outcome),
            _ if !present => self.count("proxy_messages_unknown"),
            Outcome::AlternateFailed(why) => self.retry(now.monotonic, client, &why),
            Outcome::AlternateSilent => self.retry_silent(now.monotonic, client),
            Outcome::Gone(_) | Outcome::Elsewhere(_) if self.begin_newer(now, client) => {}
            Outcome::Mismatch { .. } | Outcome::Gone(_) | Outcome::Elsewhere(_) => {
                self.finish(now.monotonic, client, &End::Order(alternate, outcome));
            }
        }
    }

    /// The proxy does not have the connection where the first report has it: it had itself chosen the backend whose failure was reported
    /// meanwhile, if one was. False if none was.
    fn begin_newer(&mut self, now: Now, client: Client) -> bool {
        let Some((newer, mut swallowed)) = self.take_newer(client) else { return false };
        swallowed.retain(|swallowed| belongs(swallowed, &newer.report));
        self.count("reports_superseding");
        self.finish(now.monotonic, client, &End::Superseded);
        self.begin(now, newer);
        for swallowed in swallowed {
            self.take_swallowed(swallowed);
        }
        true
    }

    /// The client is on `alternate`, though that may have been found to fail meanwhile.
    fn respliced(&mut self, now: Now, client: Client, alternate: SocketAddr, outcome: Outcome) {
        let newer = self.take_newer(client);
        self.finish(now.monotonic, client, &End::Order(alternate, outcome));
        if let Some((newer, swallowed)) = newer.filter(|(newer, _)| newer.report.flow.backend == alternate) {
            let (flow, client_next) = (newer.report.flow, newer.report.client_next);
            self.begin(now, newer);
            self.carry_swallowed(flow, client_next, swallowed);
        }
    }

    /// Another manager is in charge: nothing is asked of anybody any more. What this one had begun, that one begins anew or the proxy
    /// ends by its own timeout.
    fn fence(&mut self, epoch: u64) {
        if epoch <= self.epoch {
            return self.tell(Story::NotBelieved { epoch: self.epoch });
        }
        if self.fenced_by.replace(epoch).is_some() {
            return;
        }
        self.actions.clear();
        self.batch.take();
        self.active.clear();
        self.orders.clear();
        self.deadlines.clear();
        self.waiting.clear();
        self.report_bytes = 0;
        self.resets = Resets::new(self.limits.waiting_resets);
        self.untold = Untold::default();
        self.tell(Story::Fenced { by: epoch });
    }

    /// An order that the manager had given up was executed in time after all: the log has to know.
    fn late_outcome(&mut self, id: u64, outcome: &Outcome) {
        self.count("proxy_messages_unknown");
        let Some((client, ended)) = self.recent.by_order(id) else { return };
        if let (Outcome::Respliced { .. }, Some((_, alternate))) = (outcome, ended.order) {
            self.ask_log(ended.logger, ToLog::Ended { client, backend: Some(alternate) });
        }
    }

    /// [`Manager::poll_timeout`] is reached.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((_, client)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.count("recoveries_timed_out");
            let reason = self.timeout_reason(client);
            self.give_up(now, client, Refusal { reason, status: Some(502) });
        }
        self.order_waiting(now);
        *self.counters.entry("resets_given_up").or_default() += self.resets.handle_timeout(now);
        self.tell_logs(now);
    }

    fn timeout_reason(&self, client: Client) -> String {
        let attempt = self.active.get(&client).and_then(|recovery| recovery.attempt);
        let limit = self.config.timeout_ms;
        match attempt {
            _ if !self.proxy_connected => format!("nfq-splice was not reachable for {limit} ms"),
            Some(attempt) => format!("no re-splice to {} within {limit} ms", attempt.alternate),
            None => format!("no alternate had room within {limit} ms"),
        }
    }
}
