//! Whether an application answers the operator's check, asked when it is late.

use std::time::Duration;

use packet::Time;

use super::finding::{Finding, Output};
use super::probing::{Answer, ProbeId, Probing, Question, Verdict, step};
use super::worst::Worst;

/// Connections that are tried within the patience: a lost SYN is repeated by its kernel after a second only.
const ATTEMPTS: u32 = 3;
/// How long a slow answer is remembered.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// The check of one backend's application.
#[derive(Debug)]
pub(super) struct ApplicationCheck {
    /// The question, and since when it is asked.
    underway: Option<(Probing, Time)>,
    took: Worst,
}

impl ApplicationCheck {
    pub(super) fn new() -> Self {
        Self { underway: None, took: Worst::new(HALF_LIFE) }
    }

    pub(super) fn underway(&self) -> bool {
        self.underway.is_some()
    }

    /// What the slowest answer of late took.
    pub(super) fn slowest(&self, now: Time) -> Duration {
        self.took.get(now)
    }

    /// Asks, unless that is done already. The application has `patience` from the moment when its kernel has accepted.
    pub(super) fn ask(&mut self, question: Question, patience: Duration, now: Time) {
        let probing = || Probing::new(question, patience / ATTEMPTS, ATTEMPTS);
        self.underway.get_or_insert_with(|| match question {
            Question::Application => (probing().watching(patience), now),
            Question::Service | Question::Host => (probing(), now),
        });
    }

    /// Nobody wants to know any more.
    pub(super) fn cancel(&mut self) {
        self.underway = None;
    }

    /// A probe, perhaps one of these, met with something.
    pub(super) fn handle_answer(&mut self, id: ProbeId, answer: Answer, now: Time) -> Option<Finding> {
        let (probing, asked) = self.underway.as_mut().filter(|(probing, _)| probing.owns(id))?;
        let verdict = probing.handle_answer(answer, now)?;
        if answer == Answer::Answered {
            self.took.note(now.since(*asked), now);
        }
        self.end(verdict)
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, now: Time, next_id: &mut u64, out: &mut Vec<Output>) {
        let probing = self.underway.as_mut().map(|(probing, _)| probing);
        if let Some(verdict) = step(probing, now, next_id, out) {
            out.extend(self.end(verdict).map(Output::Found));
        }
    }

    /// When [`ApplicationCheck::poll`] is due.
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        self.underway.as_mut().map(|(probing, _)| probing.due(now))
    }

    fn end(&mut self, verdict: Verdict) -> Option<Finding> {
        let (_, asked) = self.underway.take()?;
        Some(if verdict == Verdict::Alive { Finding::Answers(asked) } else { Finding::AnswersNot(asked) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn asked(question: Question) -> ApplicationCheck {
        let mut check = ApplicationCheck::new();
        check.ask(question, PATIENCE, at(0));
        check.poll(at(0), &mut 0, &mut vec![]);
        check
    }

    #[test]
    fn a_slow_answer_is_remembered_for_a_while() {
        let mut check = asked(Question::Application);
        assert_eq!(check.handle_answer(ProbeId(1), Answer::Accepted, at(1)), None);
        let found = check.handle_answer(ProbeId(1), Answer::Answered, at(250));
        assert_eq!((found, check.underway()), (Some(Finding::Answers(at(0))), false));
        assert_eq!(check.slowest(at(251)), Duration::from_millis(250));
        assert_eq!(check.slowest(at(60_300)), Duration::from_millis(125));
    }

    #[test]
    fn that_a_kernel_accepts_says_nothing_of_an_answers_time() {
        let mut check = asked(Question::Service);
        check.handle_answer(ProbeId(1), Answer::Accepted, at(1));
        let mut out = vec![];
        check.poll(at(101), &mut 1, &mut out);
        assert_eq!(out, [Output::Found(Finding::Answers(at(0)))]);
        assert_eq!(check.slowest(at(101)), Duration::ZERO);
    }

    #[test]
    fn one_that_never_answers_is_asked_three_times_if_not_even_its_kernel_does() {
        let (mut check, mut out, mut id) = (asked(Question::Application), vec![], 1);
        (1..=300).for_each(|millis| check.poll(at(millis), &mut id, &mut out));
        assert_eq!((id, out.last()), (3, Some(&Output::Found(Finding::AnswersNot(at(0))))));
    }
}
