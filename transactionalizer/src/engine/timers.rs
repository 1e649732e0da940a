//! Silence, timeouts, probes and heartbeats.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Evidence, Flow};
use packet::Time;

use crate::connection::{Connection, Owed};
use crate::detector::backend::{Finding, Output};
use crate::detector::probing::{Answer, ProbeId};
use crate::spans::LogBytes;

use super::table::{Entry, State};
use super::{Action, Engine};

/// Body bytes after which a response tells by itself how regularly it comes.
const TELLING_BYTES: u64 = 1 << 20;

/// A SYN repeated for longer than this is nobody's hurry any more.
const SYN_PATIENCE: Duration = Duration::from_secs(3);

/// When something is to be done about a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Deadlines {
    /// The backend's host is to be probed.
    silence: Option<Time>,
    /// The application is late; since when it could have paid.
    application: Option<(Time, Time)>,
}

impl Deadlines {
    fn first(&self) -> Option<Time> {
        let application = self.application.map(|(deadline, _)| deadline);
        self.silence.into_iter().chain(application).min()
    }
}

impl Engine {
    fn deadlines(&self, flow: Flow) -> Deadlines {
        if let Some(silence) = self.unanswered_syn(flow) {
            return Deadlines { silence: Some(silence), application: None };
        }
        let concerned = self.entries.get(&flow).is_some_and(Entry::concerned);
        let (Some(live), Some(connection), true) = (self.live, self.connection(flow), concerned) else {
            return Deadlines::default();
        };
        let silence = connection.silent_since().map(|since| since.max(live) + self.limits.probe_after);
        let application = self.application_timeout(connection).map(|(since, timeout)| {
            let since = since.max(live);
            (since + timeout, since)
        });
        Deadlines { silence, application }
    }

    /// When a host that has not answered a SYN is to be probed, so that proxies learn of it before they give up.
    fn unanswered_syn(&self, flow: Flow) -> Option<Time> {
        let (live, entry) = (self.live?, self.entries.get(&flow)?);
        let since = entry.embryo?.since.max(live);
        matches!(entry.state, State::Unseen | State::Failed).then(|| since + self.limits.probe_after)
    }

    /// Since when the application owes, and how long it may.
    fn application_timeout(&self, connection: &Connection) -> Option<(Time, Duration)> {
        let floor = Duration::from_millis(self.cluster.detector.timeout_floor_ms.max(1));
        let ceiling = Duration::from_millis(self.cluster.detector.timeout_ceiling_ms.max(1)).max(floor);
        let (floor, ceiling) = connection.timeouts(floor, ceiling);
        match connection.owed() {
            Owed::Nothing => None,
            Owed::Read(since) => Some((since, ceiling)),
            Owed::Start(kind, since) => Some((since, self.kinds.get(kind).start.timeout(floor, ceiling))),
            Owed::More(kind, since) => {
                let timeout = self.kinds.get(kind).gap.timeout(floor, ceiling);
                Some((since, own_timeout(connection, floor).map_or(timeout, |own| timeout.min(own))))
            }
        }
    }

    /// Puts a flow where its next deadline is, if that is earlier than where it stands.
    pub(super) fn schedule(&mut self, flow: Flow) {
        let Some(deadline) = self.deadlines(flow).first() else { return };
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        if let Some(queued) = entry.queued {
            if queued <= deadline {
                return;
            }
            self.timers.remove(&(queued, flow));
        }
        entry.queued = Some(deadline);
        self.timers.insert((deadline, flow));
    }

    /// When [`Engine::handle_timers`] is due.
    pub fn next_timer(&mut self, now: Time) -> Time {
        let backends = self.backends.values_mut().map(|backend| backend.health.due(now)).min();
        let connections = self.timers.first().map(|(time, _)| *time);
        let unended = self.unended.due(now, self.managers);
        backends.into_iter().chain(connections).chain(unended).fold(now + Duration::from_secs(1), Time::min)
    }

    /// Does what is due. Call it when the log has been read to its end and all probe answers are in: what has arrived but
    /// not been looked at must not count as silence.
    pub fn handle_timers(&mut self, now: Time, log: &dyn LogBytes, out: &mut Vec<Action>) {
        self.forget(now);
        if self.live.is_none() {
            return;
        }
        self.fail_postponed(now, log, out);
        while let Some((time, flow)) = self.timers.first().copied().filter(|(time, _)| *time <= now) {
            self.timers.remove(&(time, flow));
            if let Some(entry) = self.entries.get_mut(&flow) {
                entry.queued = None;
                self.handle_timer(flow, now, log, out);
            }
        }
        for address in self.backends.keys().copied().collect::<Vec<_>>() {
            let mut outputs = vec![];
            if let Some(backend) = self.backends.get_mut(&address) {
                backend.health.poll(now, &mut self.next_probe, &mut outputs);
            }
            self.handle_outputs(address, outputs, now, log, out);
        }
    }

    fn handle_timer(&mut self, flow: Flow, now: Time, log: &dyn LogBytes, out: &mut Vec<Action>) {
        if self.unanswered_syn(flow).is_some_and(|due| now.since(due) > SYN_PATIENCE) {
            return;
        }
        let Deadlines { silence, application } = self.deadlines(flow);
        if let Some((deadline, since)) = application
            && deadline <= now
        {
            return self.handle_timeout(flow, since, now, log, out);
        }
        let mut next = application.map(|(deadline, _)| deadline);
        if let Some(due) = silence {
            let backend = self.backends.get_mut(&flow.backend).filter(|_| due <= now);
            let again = backend.map_or(due, |backend| backend.health.handle_silence(now));
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        let (Some(next), Some(entry)) = (next, self.entries.get_mut(&flow)) else { return };
        entry.queued = Some(next);
        self.timers.insert((next, flow));
    }

    /// The host may live, but the application is later than it ever was. If others of the same backend get on, only this
    /// connection has failed.
    fn handle_timeout(
        &mut self,
        flow: Flow,
        since: Time,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        self.counters.timeouts += 1;
        // If the suspicion is wrong, the answer that would have taught so never comes: the wait itself is the lesson.
        match self.connection(flow).map(Connection::owed) {
            Some(Owed::Start(kind, _)) => self.kinds.learn(kind, Some(now.since(since)), None),
            Some(Owed::More(kind, _)) => self.kinds.learn(kind, None, Some(now.since(since))),
            Some(Owed::Nothing | Owed::Read(_)) | None => {}
        }
        let Some(backend) = self.backends.get_mut(&flow.backend) else { return };
        backend.timeouts += 1;
        let evidence = Evidence::ApplicationTimeout;
        if backend.progressed <= since || backend.timeouts >= 2 {
            self.fail_backend(flow.backend, evidence, since, now, log, out);
        } else {
            self.fail(vec![flow], evidence, since, false, now, log, out);
        }
    }

    /// A probe met with something.
    pub fn handle_probe(
        &mut self,
        backend: SocketAddr,
        id: ProbeId,
        answer: Answer,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        let mut outputs = vec![];
        if let Some(entry) = self.backends.get_mut(&backend) {
            entry.health.handle_answer(id, answer, now, &mut outputs);
        }
        self.handle_outputs(backend, outputs, now, log, out);
    }

    fn handle_outputs(
        &mut self,
        backend: SocketAddr,
        outputs: Vec<Output>,
        now: Time,
        log: &dyn LogBytes,
        out: &mut Vec<Action>,
    ) {
        for output in outputs {
            match output {
                Output::Probe(id, question) => {
                    self.counters.probes += 1;
                    out.push(Action::Probe(backend, id, question));
                }
                Output::Found(Finding::Up) => out.push(Action::BackendUp(backend)),
                Output::Found(Finding::Serves) => self.handle_serves(backend, now, out),
                Output::Found(finding) => {
                    let (evidence, since) = self.evidence(backend, finding, now);
                    self.fail_backend(backend, evidence, since, now, log, out);
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
            Finding::HeartbeatLost => (Evidence::Heartbeat, now),
            Finding::HostSilent | Finding::Serves | Finding::Up => (Evidence::HostSilent, silent),
        }
    }

    /// Since when the backend has been silent on the connection that has waited longest.
    fn silent_since(&self, backend: SocketAddr) -> Option<Time> {
        let flows = self.backends.get(&backend)?.flows.iter();
        flows.filter_map(|flow| self.connection(*flow)?.silent_since()).min()
    }
}

/// A long response that may be run again without harm need not wait for its kind to be known: ten times its own longest
/// gap is suspicious enough.
fn own_timeout(connection: &Connection, floor: Duration) -> Option<Duration> {
    let telling = connection.read_only() && connection.body_bytes() >= TELLING_BYTES;
    telling.then(|| (connection.longest_gap().unwrap_or_default() * 10).max(2 * floor))
}
