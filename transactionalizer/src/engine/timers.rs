//! Silence, probes and heartbeats.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cluster::control::{Evidence, Flow};
use packet::Time;

use crate::detector::finding::{Finding, Output};
use crate::detector::neighbours::Lost;
use crate::detector::probing::{Answer, ProbeId};

use super::entry::{Entry, State};
use super::{Action, Engine};

/// A SYN repeated for longer than this is nobody's hurry any more.
const SYN_PATIENCE: Duration = Duration::from_secs(3);

/// How long it is remembered that timers were looked at late.
pub(super) const LATENESS_HALF_LIFE: Duration = Duration::from_secs(10);

/// When something is to be done about a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Deadlines {
    /// The backend's host is to be probed.
    silence: Option<Time>,
    /// The application is late.
    application: Option<Time>,
}

impl Deadlines {
    fn first(&self) -> Option<Time> {
        self.silence.into_iter().chain(self.application).min()
    }
}

impl Engine {
    fn deadlines(&self, backend: SocketAddr, entry: &Entry) -> Deadlines {
        if let Some(silence) = self.unanswered_syn(entry) {
            return Deadlines { silence: Some(silence), application: None };
        }
        let (Some(live), Some(connection), true) = (self.live, entry.open(), entry.concerned()) else {
            return Deadlines::default();
        };
        let silence = connection.silent_since().map(|since| since.max(live) + self.limits.probe_after);
        Deadlines { silence, application: self.application_due(backend, entry, live) }
    }

    /// When a host that has not answered a SYN is to be probed, so that proxies learn of it before they give up.
    fn unanswered_syn(&self, entry: &Entry) -> Option<Time> {
        let since = entry.embryo.as_ref()?.since.max(self.live?);
        matches!(entry.state, State::Unseen | State::Failed(_)).then(|| since + self.limits.probe_after)
    }

    /// Puts a flow where its next deadline is, if that is earlier than where it stands.
    pub(super) fn schedule(&mut self, flow: Flow) {
        let Some(entry) = self.entries.get(&flow) else { return };
        let Some(deadline) = self.deadlines(flow.backend, entry).first() else { return };
        if let Some(queued) = entry.queued {
            if queued <= deadline {
                return;
            }
            self.timers.remove(&(queued, flow));
        }
        self.queue(flow, deadline);
    }

    fn queue(&mut self, flow: Flow, deadline: Time) {
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        entry.queued = Some(deadline);
        self.timers.insert((deadline, flow));
    }

    /// When [`Engine::handle_timers`] is due.
    pub fn next_timer(&mut self, now: Time) -> Time {
        let backends = self.backends.values_mut().map(|backend| backend.health.due(now)).min();
        let connections = self.timers.first().map(|(time, _)| *time);
        let unended = self.unended.due(now, self.managers);
        let all = backends.into_iter().chain(connections).chain(unended);
        let due = all.fold(now + Duration::from_secs(1), Time::min);
        self.awaited = Some(due);
        due
    }

    /// Does what was due at `now`. Call it when the log has been read to its end and all probe answers are in that came
    /// before `now`: what has arrived but not been looked at must not count as silence.
    pub fn handle_timers(&mut self, now: Time, out: &mut Vec<Action>) {
        self.latest = now;
        self.forget(now);
        if self.live.is_none() {
            return;
        }
        if let Some(awaited) = self.awaited.take() {
            self.lateness.note(now.since(awaited), now);
        }
        self.fail_postponed(now, out);
        while let Some((time, flow)) = self.timers.first().copied().filter(|(time, _)| *time <= now) {
            self.timers.remove(&(time, flow));
            if let Some(entry) = self.entries.get_mut(&flow) {
                entry.queued = None;
                self.handle_timer(flow, now, out);
            }
        }
        for address in self.backends.keys().copied().collect::<Vec<_>>() {
            let mut outputs = vec![];
            if let Some(backend) = self.backends.get_mut(&address) {
                backend.health.poll(now, &mut self.next_probe, &mut outputs);
            }
            self.handle_outputs(address, outputs, now, out);
        }
    }

    fn handle_timer(&mut self, flow: Flow, now: Time, out: &mut Vec<Action>) {
        let Some(entry) = self.entries.get(&flow) else { return };
        if self.unanswered_syn(entry).is_some_and(|due| now.since(due) > SYN_PATIENCE) {
            return;
        }
        let Deadlines { silence, application } = self.deadlines(flow.backend, entry);
        if let (Some(due), Some(live)) = (application, self.live)
            && due <= now
        {
            return self.handle_late(flow, live, now, out);
        }
        let mut next = application;
        if let Some(due) = silence {
            let backend = self.backends.get_mut(&flow.backend).filter(|_| due <= now);
            let again = backend.map_or(due, |backend| backend.health.handle_silence(now));
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        if let Some(next) = next {
            self.queue(flow, next);
        }
    }

    /// The kernel has lost a neighbour or a link. A neighbour that is no backend may be the way to all of them.
    pub fn handle_lost(&mut self, lost: Lost, now: Time) {
        let named = |address: IpAddr| self.backends.keys().any(|backend| backend.ip() == address);
        let itself = match lost {
            Lost::Neighbour(address) if named(address) => Some(address),
            Lost::Neighbour(_) | Lost::Link => None,
        };
        self.counters.lost_neighbours += 1;
        for (backend, entry) in &mut self.backends {
            if itself.is_none_or(|address| backend.ip() == address) {
                entry.health.handle_lost(itself.is_some(), now);
            }
        }
    }

    /// A probe met with something.
    pub fn handle_probe(
        &mut self,
        backend: SocketAddr,
        id: ProbeId,
        answer: Answer,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let mut outputs = vec![];
        self.counters.probes_not_sent += u64::from(answer == Answer::NotSent);
        if let Some(entry) = self.backends.get_mut(&backend) {
            entry.health.handle_answer(id, answer, now, &mut outputs);
        }
        self.handle_outputs(backend, outputs, now, out);
    }

    fn handle_outputs(
        &mut self,
        backend: SocketAddr,
        outputs: Vec<Output>,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        for output in outputs {
            match output {
                Output::Probe(id, question) => {
                    self.counters.probes += 1;
                    out.push(Action::Probe(backend, id, question));
                }
                Output::KeepAlive => self.keep_alive(backend, out),
                Output::Found(Finding::Up) => self.handle_up(backend, out),
                Output::Found(Finding::Serves) => self.handle_serves(backend, now, out),
                Output::Found(Finding::Answers(asked)) => self.handle_answers(backend, asked),
                Output::Found(Finding::AnswersNot(asked)) => {
                    self.handle_answers_not(backend, asked, now, out);
                }
                // The adaptive timeouts know better how long what it is busy with may take.
                Output::Found(Finding::HeartbeatMute) if self.busy(backend) => {}
                Output::Found(Finding::Gone) => {
                    if let Some(entry) = self.backends.get_mut(&backend) {
                        entry.down_by_timeout = false;
                    }
                }
                Output::Found(finding) => {
                    let (evidence, since) = self.evidence(backend, finding, now);
                    self.fail_backend(backend, evidence, since, now, out);
                }
            }
        }
    }

    /// What made us look, and when that was.
    fn evidence(&mut self, backend: SocketAddr, finding: Finding, now: Time) -> (Evidence, Time) {
        let silent = self.silent_since(backend).unwrap_or(now);
        let suspicion = self.backends.get_mut(&backend).and_then(|entry| entry.suspicion.take());
        match finding {
            Finding::ServesNot => suspicion.unwrap_or((Evidence::PrematureReset, now)),
            Finding::ServiceGone => (Evidence::PrematureReset, silent),
            Finding::HeartbeatLost | Finding::HeartbeatMute => (Evidence::Heartbeat, now),
            Finding::HostUnreachable => (Evidence::Unreachable, silent),
            _ => (Evidence::HostSilent, silent),
        }
    }

    /// It works again. What only its application's silence had spoken against was alive all the time.
    fn handle_up(&mut self, backend: SocketAddr, out: &mut Vec<Action>) {
        if let Some(entry) = self.backends.get_mut(&backend) {
            self.counters.wrong_suspicions += u64::from(std::mem::take(&mut entry.down_by_timeout));
        }
        out.push(Action::BackendUp(backend));
    }

    /// It has been asked for something that it has not delivered in full.
    fn busy(&self, backend: SocketAddr) -> bool {
        let asked = |entry: &Entry| entry.open().is_some_and(|connection| connection.request().is_some());
        self.entries.of(backend).any(|(_, entry)| entry.concerned() && asked(entry))
    }

    /// Asks the backend's kernel on the connection that has waited longest.
    fn keep_alive(&mut self, backend: SocketAddr, out: &mut Vec<Action>) {
        let concerned = self.entries.of(backend).filter(|(_, entry)| entry.concerned());
        let open = concerned.filter_map(|(_, entry)| entry.open());
        let silent = open.filter_map(|connection| Some((connection.silent_since()?, connection)));
        if let Some((_, connection)) = silent.min_by_key(|(since, _)| *since) {
            out.push(Action::KeepAlive(connection.keep_alive()));
            self.counters.keep_alives += 1;
        }
    }

    /// Since when the backend has been silent on the connection that has waited longest.
    fn silent_since(&self, backend: SocketAddr) -> Option<Time> {
        let concerned = self.entries.of(backend).filter(|(_, entry)| entry.concerned());
        concerned.filter_map(|(_, entry)| entry.open()?.silent_since()).min()
    }
}
