//! One question to a backend's host, asked by connecting to it, repeated until it is answered or given up.

use std::time::Duration;

use packet::Time;

use super::finding::Output;

/// Names a probe between the engine and its shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProbeId(pub u64);

/// What is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Does the host's kernel answer? Any answer to a SYN will do.
    Host,
    /// Is the service there? It must keep the connection for a moment: the listening socket of a dying server
    /// still accepts, and then resets.
    Service,
    /// Does the application answer the operator's request?
    Application,
}

/// What a probe met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The handshake succeeded.
    Accepted,
    /// The application sent bytes.
    Answered,
    /// The connection ended before any byte came.
    Closed,
    /// RST in answer to the SYN.
    Refused,
    /// The application's answer has a status that the operator does not call good.
    Bad,
    /// The network says that the host cannot be reached (RFC 1122 §3.2.2.1), or its neighbours do not find it.
    Unreachable,
    /// Something of our own kept the probe from being sent: that says nothing of the host.
    NotSent,
}

/// The answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Alive,
    /// The host lives, the service is gone, or calls itself unwell.
    Refused,
    /// The host lives and accepts connections, but the application does not answer.
    Mute,
    /// No answer.
    Silent,
    /// The network says that it cannot be reached.
    Unreachable,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send a probe, tell its name with [`Probing::handle_sent`].
    Send,
    /// Nothing before this moment.
    Wait(Time),
    /// Decided.
    Done(Verdict),
}

/// How often a late look at the clock is forgiven: our own pause is not the backend's silence.
const FORGIVEN: u32 = 3;

/// Probes that may fail to be sent.
const NOT_SENT: u32 = 10;

/// The question in progress.
#[derive(Debug, Clone)]
pub struct Probing {
    question: Question,
    interval: Duration,
    attempts: u32,
    sent: Vec<ProbeId>,
    due: Time,
    /// How long an accepted connection is watched.
    watch: Duration,
    /// Until when the accepted connection is watched.
    settled: Option<Time>,
    forgiven: u32,
    /// Of those sent: how many could not be.
    not_sent: u32,
    /// Of those sent: how many the network called undeliverable.
    unreachable: u32,
}

impl Probing {
    /// At most `attempts` probes, one each `interval`.
    pub fn new(question: Question, interval: Duration, attempts: u32) -> Self {
        let attempts = attempts.max(1);
        let due = Time::default();
        Self {
            question,
            interval,
            attempts,
            sent: vec![],
            due,
            watch: interval,
            settled: None,
            forgiven: 0,
            not_sent: 0,
            unreachable: 0,
        }
    }

    /// The same, but the application has so much time for its answer once a connection was accepted.
    #[must_use]
    pub fn watching(self, watch: Duration) -> Self {
        Self { watch, ..self }
    }

    /// A first probe has gone unanswered.
    pub fn doubtful(&self) -> bool {
        self.sent.len() > 1 && self.settled.is_none()
    }

    /// What to do at `now`.
    pub fn poll(&mut self, now: Time) -> Step {
        if let Some(settled) = self.settled {
            return self.poll_accepted(now, settled);
        }
        if self.sent.is_empty() {
            return Step::Send;
        }
        if now < self.due {
            return Step::Wait(self.due);
        }
        if self.forgives(self.due, now) {
            self.due = now + self.interval;
            return Step::Wait(self.due);
        }
        let tried = (self.sent.len() as u32).saturating_sub(self.not_sent);
        match self {
            // Whoever cannot ask must not call anybody dead.
            _ if self.not_sent >= NOT_SENT => Step::Done(Verdict::Alive),
            _ if tried < self.attempts => Step::Send,
            _ if self.unreachable >= self.attempts => Step::Done(Verdict::Unreachable),
            _ => Step::Done(Verdict::Silent),
        }
    }

    /// When [`Probing::poll`] has something to do.
    pub fn due(&mut self, now: Time) -> Time {
        match self.poll(now) {
            Step::Wait(until) => until,
            Step::Send | Step::Done(_) => now,
        }
    }

    fn poll_accepted(&mut self, now: Time, settled: Time) -> Step {
        if self.question == Question::Host {
            return Step::Done(Verdict::Alive);
        }
        if now < settled {
            return Step::Wait(settled);
        }
        if self.question == Question::Service {
            return Step::Done(Verdict::Alive);
        }
        if self.forgives(settled, now) {
            let again = now + self.watch;
            self.settled = Some(again);
            return Step::Wait(again);
        }
        Step::Done(Verdict::Mute)
    }

    fn forgives(&mut self, due: Time, now: Time) -> bool {
        let forgiven = now.since(due) > self.interval && self.forgiven < FORGIVEN;
        self.forgiven += u32::from(forgiven);
        forgiven
    }

    /// A probe was sent.
    pub fn handle_sent(&mut self, id: ProbeId, now: Time) {
        self.sent.push(id);
        self.due = now + self.interval;
    }

    /// The probe is one of these.
    pub fn owns(&self, id: ProbeId) -> bool {
        self.sent.contains(&id)
    }

    /// A probe met with something.
    pub fn handle_answer(&mut self, answer: Answer, now: Time) -> Option<Verdict> {
        match answer {
            Answer::Unreachable => {
                self.unreachable += 1;
                // The next one need not wait for an answer to this one.
                self.due = self.due.min(now + self.interval / 4);
                None
            }
            Answer::NotSent => {
                self.not_sent += 1;
                None
            }
            Answer::Answered => Some(Verdict::Alive),
            Answer::Accepted | Answer::Closed if self.question == Question::Host => Some(Verdict::Alive),
            Answer::Refused | Answer::Closed | Answer::Bad => Some(Verdict::Refused),
            Answer::Accepted => {
                self.settled.get_or_insert(now + self.watch);
                None
            }
        }
    }
}

/// What is due of a question, if there is one; `next_id` names a new probe.
pub(super) fn step(
    probing: Option<&mut Probing>,
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
            out.push(Output::Probe(ProbeId(*next_id), probing.question));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(20);

    fn at(millis: u64) -> Time {
        Time::from_millis(1000 + millis)
    }

    fn sent(question: Question) -> Probing {
        let mut probing = Probing::new(question, INTERVAL, 3);
        assert_eq!(probing.poll(at(0)), Step::Send);
        probing.handle_sent(ProbeId(1), at(0));
        probing
    }

    #[test]
    fn three_unanswered_are_silence() {
        let mut probing = sent(Question::Host);
        assert_eq!(probing.poll(at(19)), Step::Wait(at(20)));
        for (millis, id) in [(20, 2), (40, 3)] {
            assert_eq!(probing.poll(at(millis)), Step::Send);
            probing.handle_sent(ProbeId(id), at(millis));
        }
        assert_eq!(probing.poll(at(60)), Step::Done(Verdict::Silent));
        assert!(probing.owns(ProbeId(2)) && !probing.owns(ProbeId(9)));
    }

    #[test]
    fn our_own_pause_is_not_silence() {
        let mut probing = sent(Question::Host);
        assert_eq!(probing.poll(at(500)), Step::Wait(at(520)));
        assert_eq!(probing.handle_answer(Answer::Accepted, at(501)), Some(Verdict::Alive));
    }

    #[test]
    fn a_kernel_that_refuses_lives_but_its_service_does_not() {
        assert_eq!(sent(Question::Host).handle_answer(Answer::Refused, at(1)), Some(Verdict::Refused));
        assert_eq!(sent(Question::Host).handle_answer(Answer::Closed, at(1)), Some(Verdict::Alive));
    }

    #[test]
    fn what_the_network_calls_unreachable_is_given_up_sooner() {
        let mut probing = sent(Question::Host);
        for (millis, id) in [(0, 2), (5, 3)] {
            assert_eq!(probing.handle_answer(Answer::Unreachable, at(millis)), None);
            assert_eq!(probing.poll(at(millis + 4)), Step::Wait(at(millis + 5)));
            assert_eq!(probing.poll(at(millis + 5)), Step::Send);
            probing.handle_sent(ProbeId(id), at(millis + 5));
        }
        assert_eq!(probing.handle_answer(Answer::Unreachable, at(10)), None);
        assert_eq!(probing.poll(at(15)), Step::Done(Verdict::Unreachable));
    }

    #[test]
    fn one_unreachable_among_silence_is_silence_and_an_answer_outweighs_it() {
        let mut probing = sent(Question::Host);
        assert_eq!(probing.handle_answer(Answer::Unreachable, at(0)), None);
        probing.handle_sent(ProbeId(2), at(5));
        probing.handle_sent(ProbeId(3), at(25));
        assert_eq!(probing.poll(at(45)), Step::Done(Verdict::Silent));
        assert_eq!(probing.handle_answer(Answer::Accepted, at(46)), Some(Verdict::Alive));
    }

    #[test]
    fn probes_that_cannot_be_sent_prove_nothing() {
        let mut probing = sent(Question::Host);
        let mut millis = 0;
        for id in 2..50 {
            assert_eq!(probing.handle_answer(Answer::NotSent, at(millis)), None);
            millis += 20;
            match probing.poll(at(millis)) {
                Step::Send => probing.handle_sent(ProbeId(id), at(millis)),
                step => return assert_eq!(step, Step::Done(Verdict::Alive)),
            }
        }
        panic!("it never gives up");
    }

    #[test]
    fn a_dying_listener_accepts_and_resets() {
        let mut probing = sent(Question::Service);
        assert_eq!(probing.handle_answer(Answer::Accepted, at(1)), None);
        assert_eq!(probing.poll(at(2)), Step::Wait(at(21)));
        assert_eq!(probing.clone().handle_answer(Answer::Closed, at(3)), Some(Verdict::Refused));
        assert_eq!(probing.clone().handle_answer(Answer::Answered, at(3)), Some(Verdict::Alive));
        assert_eq!(probing.poll(at(21)), Step::Done(Verdict::Alive));
    }

    #[test]
    fn a_pause_of_our_own_is_no_silence_of_an_application_either() {
        let mut probing = sent(Question::Application).watching(Duration::from_millis(50));
        assert_eq!(probing.handle_answer(Answer::Accepted, at(1)), None);
        assert_eq!(probing.poll(at(50)), Step::Wait(at(51)));
        assert_eq!(probing.poll(at(500)), Step::Wait(at(550)));
        assert_eq!(probing.clone().handle_answer(Answer::Answered, at(501)), Some(Verdict::Alive));
        assert_eq!(probing.poll(at(550)), Step::Done(Verdict::Mute));
    }

    #[test]
    fn a_frozen_application_accepts_but_does_not_answer() {
        let mut probing = sent(Question::Application);
        assert_eq!(probing.handle_answer(Answer::Accepted, at(1)), None);
        assert_eq!(probing.poll(at(21)), Step::Done(Verdict::Mute));
    }
}
