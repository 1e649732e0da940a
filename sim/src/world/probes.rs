//! Connections with which the transactionalizer asks backends, and what they meet with.

use std::net::SocketAddr;

use transactionalizer::detector::probing::Question;

use super::*;
use crate::addresses::backend_number;

impl World {
    pub(super) fn probe(&mut self, backend: SocketAddr, id: ProbeId, question: Question) {
        let Some(number) = backend_number(backend) else { return };
        let round = self.round(2);
        let state = self.backends[number];
        // A probe's SYN may be lost like any packet.
        let lost = self.faults[2] < crate::scenario::FAULTS_PER_LINK
            && self.rng.chance(self.scenario.links[2].loss * 2);
        let life = self.reader.life;
        let mut answers = Vec::new();
        match question {
            _ if state.silent || lost => {}
            _ if state.killed => answers.push((round, Answer::Refused)),
            Question::Application if !state.frozen => {
                answers.push((round, Answer::Accepted));
                answers.push((round * 2 + self.scenario.service_time, Answer::Answered));
            }
            _ => answers.push((round, Answer::Accepted)),
        }
        self.note(|| format!("probe of {backend} ({question:?}): {answers:?}"));
        for (delay, answer) in answers {
            self.after(delay, Event::Probed(life, backend, id, answer));
        }
    }

    fn round(&mut self, link: usize) -> Duration {
        let (least, most) = self.scenario.links[link].delay;
        Duration::from_micros(self.rng.between(least, most) + self.rng.between(least, most))
    }

    pub(super) fn probed(&mut self, life: u64, backend: SocketAddr, id: ProbeId, answer: Answer) {
        if self.reader.down || life != self.reader.life {
            return;
        }
        let mut actions = Vec::new();
        self.reader.engine.handle_probe(backend, id, answer, self.now, &mut actions);
        self.carry_out(actions);
        self.after(Duration::ZERO, Event::Read(life));
    }
}
