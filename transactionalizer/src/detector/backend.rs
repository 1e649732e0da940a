//! One backend's state: silence while something is owed, second opinions, the idle heartbeat.

use std::time::Duration;

use cluster::config::Detector;
use packet::Time;

use super::probing::{Answer, ProbeId, Probing, Question, Step, Verdict};

/// What was found out about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Its host answered no probe while something was owed.
    HostSilent,
    /// Its host answers, but refuses connections, while something was owed.
    ServiceGone,
    /// The second opinion that was asked for: it serves.
    Serves,
    /// The second opinion that was asked for: it does not.
    ServesNot,
    /// Idle heartbeats failed.
    HeartbeatLost,
    /// Heartbeats succeed again.
    Up,
}

/// What a backend wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a probe.
    Probe(ProbeId, Question),
    /// React.
    Found(Finding),
}

/// Durations in force, from `[detector]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence before a host is probed.
    pub probe_after: Duration,
    probe_interval: Duration,
    probe_failures: u32,
    heartbeat: Duration,
    heartbeat_failures: u32,
    heartbeat_successes: u32,
}

impl Limits {
    /// Zeros count as one, so that no timer runs hot.
    pub fn new(config: &Detector) -> Self {
        let millis = |value: u64| Duration::from_millis(value.max(1));
        Self {
            probe_after: millis(config.probe_after_ms),
            probe_interval: millis(config.probe_interval_ms),
            probe_failures: config.probe_failures.clamp(1, 100),
            heartbeat: millis(config.heartbeat_ms),
            heartbeat_failures: 3,
            heartbeat_successes: config.heartbeat_successes.max(1),
        }
    }
}

/// A backend as the detector sees it.
#[derive(Debug)]
pub struct Backend {
    limits: Limits,
    up: bool,
    heard: Time,
    silence: Option<Probing>,
    /// A probe was answered: the next is not sent before this moment.
    quiet_until: Time,
    backoff: Duration,
    opinion: Option<Probing>,
    /// The opinion was asked for again after its first probe had been sent: a new one is needed.
    ask_again: bool,
    heartbeat: Option<Probing>,
    heartbeat_due: Time,
    failures: u32,
    successes: u32,
}

impl Backend {
    /// A backend believed to be up.
    pub fn new(limits: Limits, now: Time) -> Self {
        Self {
            limits,
            up: true,
            heard: now,
            silence: None,
            quiet_until: now,
            backoff: limits.probe_after,
            opinion: None,
            ask_again: false,
            heartbeat: None,
            heartbeat_due: now + limits.heartbeat,
            failures: 0,
            successes: 0,
        }
    }

    /// Usable as far as is known.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// A packet from it was logged.
    pub fn handle_heard(&mut self, now: Time) {
        self.heard = now;
        self.silence = None;
        self.backoff = self.limits.probe_after;
    }

    /// A connection is owed something and has heard nothing for a while. Returns when to look again.
    pub fn handle_silence(&mut self, now: Time) -> Time {
        let not_before = (self.heard + self.limits.probe_after).max(self.quiet_until);
        if self.silence.is_none() && now >= not_before {
            self.silence =
                Some(Probing::new(Question::Host, self.limits.probe_interval, self.limits.probe_failures));
        }
        not_before.max(now + self.limits.probe_after)
    }

    /// Somebody needs to know whether it serves.
    pub fn ask_opinion(&mut self) {
        if self.opinion.is_some() {
            self.ask_again = true;
        } else {
            self.opinion = Some(self.new_opinion());
        }
    }

    fn new_opinion(&self) -> Probing {
        Probing::new(Question::Service, self.limits.probe_interval, self.limits.probe_failures)
    }

    /// Its failure was declared.
    pub fn handle_down(&mut self, now: Time) {
        self.up = false;
        self.silence = None;
        self.heartbeat = None;
        self.heartbeat_due = now + self.limits.heartbeat;
        self.failures = 0;
        self.successes = 0;
    }

    /// A probe met with something.
    pub fn handle_answer(&mut self, id: ProbeId, answer: Answer, now: Time, out: &mut Vec<Output>) {
        if let Some(verdict) = answer_to(self.silence.as_mut(), id, answer, now) {
            self.end_silence(verdict, now, out);
        } else if let Some(verdict) = answer_to(self.opinion.as_mut(), id, answer, now) {
            self.end_opinion(verdict, out);
        } else if let Some(verdict) = answer_to(self.heartbeat.as_mut(), id, answer, now) {
            self.end_heartbeat(verdict, now, out);
        }
    }

    /// Does what is due. `next_id` names new probes.
    pub fn poll(&mut self, now: Time, next_id: &mut u64, out: &mut Vec<Output>) {
        if let Some(verdict) = step(self.silence.as_mut(), Question::Host, now, next_id, out) {
            self.end_silence(verdict, now, out);
        }
        if let Some(verdict) = step(self.opinion.as_mut(), Question::Service, now, next_id, out) {
            self.end_opinion(verdict, out);
            // A renewed question starts at once.
            step(self.opinion.as_mut(), Question::Service, now, next_id, out);
        }
        self.start_heartbeat(now);
        let question = self.heartbeat_question();
        if let Some(verdict) = step(self.heartbeat.as_mut(), question, now, next_id, out) {
            self.end_heartbeat(verdict, now, out);
        }
    }

    /// When [`Backend::poll`] is due.
    pub fn due(&mut self, now: Time) -> Time {
        let heartbeat = self.heartbeat.as_mut().map_or(self.heartbeat_due, |probing| probing.due(now));
        let probings = [&mut self.silence, &mut self.opinion].into_iter().flatten();
        probings.map(|probing| probing.due(now)).fold(heartbeat, Time::min)
    }

    fn end_silence(&mut self, verdict: Verdict, now: Time, out: &mut Vec<Output>) {
        self.silence = None;
        match verdict {
            Verdict::Alive => {
                self.quiet_until = now + self.backoff;
                self.backoff = (self.backoff * 2).min(self.limits.heartbeat / 4).max(self.limits.probe_after);
            }
            Verdict::Refused => out.push(Output::Found(Finding::ServiceGone)),
            Verdict::Silent => out.push(Output::Found(Finding::HostSilent)),
        }
    }

    fn end_opinion(&mut self, verdict: Verdict, out: &mut Vec<Output>) {
        self.opinion = None;
        match verdict {
            // Who asked after the probe went out may know of something that happened after it.
            Verdict::Alive if self.ask_again => self.opinion = Some(self.new_opinion()),
            Verdict::Alive => out.push(Output::Found(Finding::Serves)),
            Verdict::Refused | Verdict::Silent => out.push(Output::Found(Finding::ServesNot)),
        }
        self.ask_again = false;
    }

    /// While it is up and traffic flows there are no heartbeats (paper §3.5).
    fn start_heartbeat(&mut self, now: Time) {
        if self.heartbeat.is_some() || now < self.heartbeat_due {
            return;
        }
        let idle_from = self.heard + self.limits.heartbeat;
        if self.up && (now < idle_from || self.silence.is_some()) {
            self.heartbeat_due = idle_from.max(now + self.limits.probe_interval);
            self.failures = 0;
            return;
        }
        self.heartbeat_due = now + self.limits.heartbeat;
        self.heartbeat = Some(Probing::new(self.heartbeat_question(), self.limits.heartbeat, 1));
    }

    /// What declared it down may have been its application: only that can take it back.
    fn heartbeat_question(&self) -> Question {
        if self.up { Question::Host } else { Question::Application }
    }

    fn end_heartbeat(&mut self, verdict: Verdict, now: Time, out: &mut Vec<Output>) {
        self.heartbeat = None;
        let good = verdict == Verdict::Alive;
        self.failures = if good { 0 } else { self.failures + 1 };
        self.successes = if good { self.successes + 1 } else { 0 };
        if self.up && self.failures >= self.limits.heartbeat_failures {
            out.push(Output::Found(Finding::HeartbeatLost));
        } else if !self.up && self.successes >= self.limits.heartbeat_successes {
            self.up = true;
            self.heard = now;
            out.push(Output::Found(Finding::Up));
        }
    }
}

fn answer_to(probing: Option<&mut Probing>, id: ProbeId, answer: Answer, now: Time) -> Option<Verdict> {
    probing.filter(|probing| probing.owns(id))?.handle_answer(answer, now)
}

fn step(
    probing: Option<&mut Probing>,
    question: Question,
    now: Time,
    next_id: &mut u64,
    out: &mut Vec<Output>,
) -> Option<Verdict> {
    let probing = probing?;
    match probing.poll(now) {
        Step::Wait(_) => None,
        Step::Done(verdict) => Some(verdict),
        Step::Send => {
            *next_id += 1;
            probing.handle_sent(ProbeId(*next_id), now);
            out.push(Output::Probe(ProbeId(*next_id), question));
            None
        }
    }
}
