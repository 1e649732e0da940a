//! One backend's state: silence while something is owed, second opinions, the idle heartbeat.

use std::time::Duration;

use cluster::config::{Check, Detector};
use cluster::control::HealthState;
use packet::Time;

use super::hysteresis::Hysteresis;
use super::probing::{Answer, ProbeId, Probing, Question, Step, Verdict};

/// What was found out about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Its host answered no probe while something was owed.
    HostSilent,
    /// The network called its host unreachable while something was owed.
    HostUnreachable,
    /// Its host answers, but refuses connections, while something was owed.
    ServiceGone,
    /// The second opinion that was asked for: it serves.
    Serves,
    /// The second opinion that was asked for: it does not.
    ServesNot,
    /// The application answers the operator's check, asked at this moment.
    Answers(Time),
    /// It does not.
    AnswersNot(Time),
    /// Idle heartbeats failed.
    HeartbeatLost,
    /// Its application accepts, but answers no heartbeats: frozen, or busy with what it was asked before.
    HeartbeatMute,
    /// It is down, and that was no mistake: its service is gone.
    Gone,
    /// Heartbeats succeed again.
    Up,
}

/// What a backend wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a probe.
    Probe(ProbeId, Question),
    /// A first probe of its host was not answered: ask on a connection, too. A host whose queue of new connections is full
    /// drops SYNs, but answers there.
    KeepAlive,
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
    /// Good heartbeats that bring a backend back: at first, and at most when it fails again and again.
    pub(super) successes: (u32, u32),
    check: Check,
}

/// Probes of a heartbeat, within its interval.
const HEARTBEAT_PROBES: u32 = 3;
/// Heartbeats in a row that find a live host without its service.
const BAD_HEARTBEATS: u32 = 2;

impl Limits {
    /// Zeros count as one, so that no timer runs hot.
    pub fn new(config: &Detector) -> Self {
        let millis = |value: u64| Duration::from_millis(value.max(1));
        let successes = config.heartbeat_successes.max(1);
        Self {
            probe_after: millis(config.probe_after_ms),
            probe_interval: millis(config.probe_interval_ms),
            probe_failures: config.probe_failures.clamp(1, 100),
            heartbeat: millis(config.heartbeat_ms),
            successes: (successes, config.heartbeat_successes_most.max(successes)),
            check: config.check,
        }
    }

    /// How an application is asked.
    fn application(&self) -> Question {
        match self.check {
            Check::Http => Question::Application,
            Check::Tcp => Question::Service,
        }
    }
}

/// A backend as the detector sees it.
#[derive(Debug)]
pub struct Backend {
    limits: Limits,
    up: bool,
    /// The operator's: nothing is asked, nothing is declared.
    maintenance: bool,
    hysteresis: Hysteresis,
    heard: Time,
    silence: Option<Probing>,
    /// A probe was answered: the next is not sent before this moment.
    quiet_until: Time,
    backoff: Duration,
    opinion: Option<Probing>,
    /// The opinion was asked for again after its first probe had been sent: a new one is needed.
    ask_again: bool,
    /// The opinion is asked for again at this moment.
    opinion_due: Option<Time>,
    /// Whether the application answers, and since when that is asked.
    application: Option<(Probing, Time)>,
    heartbeat: Option<Probing>,
    heartbeat_due: Time,
    failures: u32,
}

impl Backend {
    /// A backend believed to be up.
    pub fn new(limits: Limits, now: Time) -> Self {
        Self {
            limits,
            up: true,
            maintenance: false,
            hysteresis: Hysteresis::new(now),
            heard: now,
            silence: None,
            quiet_until: now,
            backoff: limits.probe_after,
            opinion: None,
            ask_again: false,
            opinion_due: None,
            application: None,
            heartbeat: None,
            heartbeat_due: now + limits.heartbeat,
            failures: 0,
        }
    }

    /// Other durations, for questions that begin from now on.
    pub fn set_limits(&mut self, limits: Limits, now: Time) {
        self.limits = limits;
        self.backoff = limits.probe_after;
        self.heartbeat_due = self.heartbeat_due.min(now + limits.heartbeat);
    }

    /// Usable as far as is known.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// In words that operators know.
    pub fn state(&self) -> HealthState {
        match self {
            Self { maintenance: true, .. } => HealthState::Maintenance,
            Self { up: false, .. } if self.hysteresis.good() > 0 => HealthState::Returning,
            Self { up: false, .. } => HealthState::Down,
            Self { silence: Some(_), .. } | Self { application: Some(_), .. } => HealthState::Suspected,
            _ => HealthState::Up,
        }
    }

    /// Its failures and returns.
    pub fn hysteresis(&self) -> &Hysteresis {
        &self.hysteresis
    }

    /// Good heartbeats that it needs now to be used again.
    pub fn needed(&self) -> u32 {
        self.hysteresis.needed(self.limits.successes)
    }

    /// What the operator wants of it. One that is given back by hand is used again after one good heartbeat.
    pub fn set_maintenance(&mut self, maintenance: bool, now: Time) {
        if std::mem::replace(&mut self.maintenance, maintenance) == maintenance {
            return;
        }
        self.heartbeat = None;
        self.heartbeat_due = now;
        if !maintenance {
            self.hysteresis.pardon(now);
        }
    }

    /// A packet from it was logged.
    pub fn handle_heard(&mut self, now: Time) {
        self.heard = now;
        self.silence = None;
        self.backoff = self.limits.probe_after;
        if self.up {
            self.heartbeat = None;
            self.failures = 0;
        }
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

    /// Somebody needs to know whether it still serves at that moment.
    pub fn ask_opinion_at(&mut self, due: Time) {
        self.opinion_due = Some(self.opinion_due.map_or(due, |earlier| earlier.min(due)));
    }

    fn new_opinion(&self) -> Probing {
        Probing::new(Question::Service, self.limits.probe_interval, self.limits.probe_failures)
    }

    /// Somebody needs to know within `patience` whether its application answers.
    pub fn ask_application(&mut self, patience: Duration, now: Time) {
        let question = || Probing::new(self.limits.application(), patience, 1);
        self.application.get_or_insert_with(|| (question(), now));
    }

    /// Its failure was declared.
    pub fn handle_down(&mut self, now: Time) {
        if self.up {
            self.hysteresis.handle_down(now);
        }
        self.up = false;
        self.silence = None;
        self.application = None;
        self.heartbeat = None;
        self.heartbeat_due = now + self.limits.heartbeat;
        self.failures = 0;
    }

    /// A probe met with something.
    pub fn handle_answer(&mut self, id: ProbeId, answer: Answer, now: Time, out: &mut Vec<Output>) {
        let application = self.application.as_mut().map(|(probing, _)| probing);
        if let Some(verdict) = answer_to(self.silence.as_mut(), id, answer, now) {
            self.end_silence(verdict, now, out);
        } else if let Some(verdict) = answer_to(self.opinion.as_mut(), id, answer, now) {
            self.end_opinion(verdict, out);
        } else if let Some(verdict) = answer_to(application, id, answer, now) {
            self.end_application(verdict, out);
        } else if let Some(verdict) = answer_to(self.heartbeat.as_mut(), id, answer, now) {
            self.end_heartbeat(verdict, now, out);
        }
    }

    /// Does what is due. `next_id` names new probes.
    pub fn poll(&mut self, now: Time, next_id: &mut u64, out: &mut Vec<Output>) {
        let before = out.len();
        if let Some(verdict) = step(self.silence.as_mut(), Question::Host, now, next_id, out) {
            self.end_silence(verdict, now, out);
        } else if out.len() > before && self.silence.as_ref().is_some_and(Probing::doubtful) {
            out.push(Output::KeepAlive);
        }
        if self.opinion_due.take_if(|due| *due <= now).is_some() {
            self.ask_opinion();
        }
        if let Some(verdict) = step(self.opinion.as_mut(), Question::Service, now, next_id, out) {
            self.end_opinion(verdict, out);
            // A renewed question starts at once.
            step(self.opinion.as_mut(), Question::Service, now, next_id, out);
        }
        let application = self.application.as_mut().map(|(probing, _)| probing);
        if let Some(verdict) = step(application, self.limits.application(), now, next_id, out) {
            self.end_application(verdict, out);
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
        let application = self.application.as_mut().map(|(probing, _)| probing);
        let probings = [self.silence.as_mut(), self.opinion.as_mut(), application].into_iter().flatten();
        let questions = probings.map(|probing| probing.due(now));
        questions.chain(self.opinion_due).fold(heartbeat, Time::min)
    }

    fn end_silence(&mut self, verdict: Verdict, now: Time, out: &mut Vec<Output>) {
        self.silence = None;
        match verdict {
            Verdict::Alive | Verdict::Mute => {
                self.quiet_until = now + self.backoff;
                self.backoff = (self.backoff * 2).min(self.limits.heartbeat / 4).max(self.limits.probe_after);
            }
            Verdict::Refused => out.push(Output::Found(Finding::ServiceGone)),
            Verdict::Silent => out.push(Output::Found(Finding::HostSilent)),
            Verdict::Unreachable => out.push(Output::Found(Finding::HostUnreachable)),
        }
    }

    fn end_opinion(&mut self, verdict: Verdict, out: &mut Vec<Output>) {
        self.opinion = None;
        match verdict {
            // Who asked after the probe went out may know of something that happened after it.
            Verdict::Alive if self.ask_again => self.opinion = Some(self.new_opinion()),
            Verdict::Alive => out.push(Output::Found(Finding::Serves)),
            _ => out.push(Output::Found(Finding::ServesNot)),
        }
        self.ask_again = false;
    }

    fn end_application(&mut self, verdict: Verdict, out: &mut Vec<Output>) {
        let Some((_, asked)) = self.application.take() else { return };
        let good = verdict == Verdict::Alive;
        out.push(Output::Found(if good { Finding::Answers(asked) } else { Finding::AnswersNot(asked) }));
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
        if !self.maintenance {
            let interval = self.limits.heartbeat / HEARTBEAT_PROBES;
            self.heartbeat = Some(Probing::new(self.heartbeat_question(), interval, HEARTBEAT_PROBES));
        }
    }

    fn heartbeat_question(&self) -> Question {
        match self.limits.check {
            Check::Tcp if self.up => Question::Host,
            // What declared it down may have been its application: only that can take it back.
            _ => self.limits.application(),
        }
    }

    fn end_heartbeat(&mut self, verdict: Verdict, now: Time, out: &mut Vec<Output>) {
        self.heartbeat = None;
        let good = verdict == Verdict::Alive;
        self.failures = if good { 0 } else { self.failures + 1 };
        let gone = matches!(verdict, Verdict::Silent | Verdict::Unreachable);
        if self.up && (gone || self.failures >= BAD_HEARTBEATS) {
            self.failures = 0;
            let mute = verdict == Verdict::Mute;
            out.push(Output::Found(if mute { Finding::HeartbeatMute } else { Finding::HeartbeatLost }));
        } else if !self.up && verdict == Verdict::Refused {
            self.hysteresis.handle_heartbeat(false, self.limits.successes, now);
            out.push(Output::Found(Finding::Gone));
        } else if !self.up && self.hysteresis.handle_heartbeat(good, self.limits.successes, now) {
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
