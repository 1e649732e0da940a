//! One backend's state: silence while something is owed, second opinions, the idle heartbeat.

use std::time::Duration;

use cluster::config::Check;
use cluster::control::HealthState;
use packet::Time;

use super::application::ApplicationCheck;
use super::finding::{Finding, Output};
use super::hysteresis::Hysteresis;
use super::limits::Limits;
use super::probing::{Answer, ProbeId, Probing, Question, Verdict, step};

/// Probes of a heartbeat, within its interval.
const HEARTBEAT_PROBES: u32 = 3;
/// Heartbeats in a row that find a live host without its service.
const BAD_HEARTBEATS: u32 = 2;

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
    application: ApplicationCheck,
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
            application: ApplicationCheck::new(),
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
            Self { silence: Some(_), .. } => HealthState::Suspected,
            Self { application, .. } if application.underway() => HealthState::Suspected,
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

    /// The kernel has lost it, or something on the way to it: its host is asked at once, whether it owes something or not. What
    /// is certain of this very host (`itself`) needs no long wait for each answer.
    pub fn handle_lost(&mut self, itself: bool, now: Time) {
        if !self.up || self.maintenance || self.silence.is_some() || now < self.quiet_until {
            return;
        }
        let interval = self.limits.probe_interval / if itself { 4 } else { 1 };
        self.silence = Some(Probing::new(Question::Host, interval, self.limits.probe_failures));
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
        self.application.ask(self.limits.application(), patience, now);
    }

    /// What its application has taken of late to answer such a question.
    pub fn slowest_answer(&self, now: Time) -> Duration {
        self.application.slowest(now)
    }

    /// Its failure was declared.
    pub fn handle_down(&mut self, now: Time) {
        if self.up {
            self.hysteresis.handle_down(now);
        }
        self.up = false;
        self.silence = None;
        self.application.cancel();
        self.heartbeat = None;
        self.heartbeat_due = now + self.limits.heartbeat;
        self.failures = 0;
    }

    /// A probe met with something.
    pub fn handle_answer(&mut self, id: ProbeId, answer: Answer, now: Time, out: &mut Vec<Output>) {
        if let Some(verdict) = answer_to(self.silence.as_mut(), id, answer, now) {
            self.end_silence(verdict, now, out);
        } else if let Some(verdict) = answer_to(self.opinion.as_mut(), id, answer, now) {
            self.end_opinion(verdict, out);
        } else if let Some(finding) = self.application.handle_answer(id, answer, now) {
            out.push(Output::Found(finding));
        } else if let Some(verdict) = answer_to(self.heartbeat.as_mut(), id, answer, now) {
            self.end_heartbeat(verdict, now, out);
        }
    }

    /// Does what is due. `next_id` names new probes.
    pub fn poll(&mut self, now: Time, next_id: &mut u64, out: &mut Vec<Output>) {
        let before = out.len();
        if let Some(verdict) = step(self.silence.as_mut(), now, next_id, out) {
            self.end_silence(verdict, now, out);
        } else if out.len() > before && self.silence.as_ref().is_some_and(Probing::doubtful) {
            out.push(Output::KeepAlive);
        }
        if self.opinion_due.take_if(|due| *due <= now).is_some() {
            self.ask_opinion();
        }
        if let Some(verdict) = step(self.opinion.as_mut(), now, next_id, out) {
            self.end_opinion(verdict, out);
            // A renewed question starts at once.
            step(self.opinion.as_mut(), now, next_id, out);
        }
        self.application.poll(now, next_id, out);
        self.start_heartbeat(now);
        if let Some(verdict) = step(self.heartbeat.as_mut(), now, next_id, out) {
            self.end_heartbeat(verdict, now, out);
        }
    }

    /// When [`Backend::poll`] is due.
    pub fn due(&mut self, now: Time) -> Time {
        let heartbeat = self.heartbeat.as_mut().map_or(self.heartbeat_due, |probing| probing.due(now));
        let probings = [self.silence.as_mut(), self.opinion.as_mut()].into_iter().flatten();
        let questions = probings.map(|probing| probing.due(now)).chain(self.application.due(now));
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
        } else if !self.up && gone {
            // What has been connected to it since, before it was avoided, has failed, too.
            self.hysteresis.handle_heartbeat(false, self.limits.successes, now);
            out.push(Output::Found(Finding::HeartbeatLost));
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
