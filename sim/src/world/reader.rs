//! The transactionalizer's daemon: reads the log eagerly, judges, detects, reports.

use cluster::control::{Evidence, FromLog, Swallowed, ToLog, ToLogger};
use packet::TcpSegment;
use segment_log::Flags;
use transactionalizer::engine::{Action, Engine, Failure, Logged};
use transactionalizer::spans::Record;

use super::*;
use crate::addresses::backend_number;
use crate::net::show;

pub(super) struct Reader {
    pub(super) engine: Engine,
    pub(super) down: bool,
    pub(super) life: u64,
    /// When its engine wants to be called.
    pub(super) due: Option<Time>,
    /// It has nothing to do any more: all clients are gone.
    pub(super) asleep: bool,
    /// Number of the next record to read.
    next: u64,
    /// It has been woken for what it has not read yet.
    woken: bool,
    /// It has read all that was there when it was started, and wants to judge.
    judges: bool,
    /// Barriers that the logger has not answered, in the order of its answers.
    unanswered: std::collections::VecDeque<u64>,
    /// Barriers that hold, each with the number of the record up to which the log must be read before it counts.
    barriers: Vec<(u64, u64)>,
    subscribed: BTreeSet<u64>,
    last_number: u64,
}

impl Reader {
    pub(super) fn new(scenario: &Scenario, now: Time) -> Self {
        Self {
            engine: Engine::new(scenario.cluster.clone(), now),
            down: false,
            life: 0,
            due: None,
            asleep: false,
            next: 1,
            woken: false,
            judges: false,
            unanswered: std::collections::VecDeque::new(),
            barriers: Vec::new(),
            subscribed: BTreeSet::new(),
            last_number: 0,
        }
    }

    pub(super) fn die(&mut self) {
        self.down = true;
        self.due = None;
    }

    /// It begins with the oldest record.
    pub(super) fn restart(&mut self, scenario: &Scenario, now: Time, oldest: u64) {
        *self = Self { life: self.life, asleep: self.asleep, next: oldest, ..Self::new(scenario, now) };
    }
}

impl World {
    pub(super) fn wake_reader(&mut self) {
        if self.reader.down || std::mem::replace(&mut self.reader.woken, true) {
            return;
        }
        let (least, most) = self.scenario.control.reading;
        let delay = Duration::from_micros(self.rng.between(least, most));
        self.after(delay, Event::Read(self.reader.life));
    }

    /// One round of its loop.
    pub(super) fn read(&mut self) {
        if self.reader.down {
            return;
        }
        self.reader.woken = false;
        if !self.read_log() {
            return;
        }
        self.pass_barriers();
        self.reader.engine.handle_live(self.now);
        if !std::mem::replace(&mut self.reader.judges, true) {
            self.connect(Channel::Judge, self.reader.life);
        }
        let mut actions = Vec::new();
        self.reader.engine.handle_timers(self.now, &mut actions);
        self.carry_out(actions);
        self.set_reader_due();
    }

    fn set_reader_due(&mut self) {
        if !self.reader.down && !self.reader.asleep {
            let due = self.reader.engine.next_timer(self.now);
            self.reader.due = Some(due.max(self.now + Duration::from_micros(50)));
        }
    }

    /// False: it died.
    fn read_log(&mut self) -> bool {
        let oldest = self.logger.log.oldest();
        if self.reader.next < oldest {
            let lost = oldest - self.reader.next;
            self.reader.next = oldest;
            self.note(|| format!("the transactionalizer lost {lost} records"));
            let mut actions = Vec::new();
            self.reader.engine.handle_lapped(lost, &mut actions);
            self.carry_out(actions);
            self.excuse_all("the log was overwritten before it was read");
        }
        while self.reader.next <= self.logger.log.newest() {
            let mut actions = Vec::new();
            let log = &self.logger.log;
            let entry = log.get(self.reader.next);
            if let Some(entry) = entry.filter(|entry| !entry.flags.contains(Flags::FENCED)) {
                let logged = Logged {
                    record: Record { position: None, number: entry.number },
                    writer: entry.writer,
                    time: entry.time,
                    hold: entry.hold,
                    from_backend: entry.flags.contains(Flags::FROM_BACKEND),
                    swallowed: entry.flags.contains(Flags::SWALLOWED),
                    packet: &entry.packet,
                    left_out: entry.left_out,
                };
                self.reader.engine.handle_record(&logged, log, &mut actions);
            }
            self.reader.next += 1;
            if !actions.is_empty() && self.dies(Daemon::Transactionalizer) {
                return false;
            }
            self.carry_out(actions);
            if self.reader.down {
                return false;
            }
        }
        true
    }

    /// The logger has answered: what passed before the fences is in the log by now.
    pub(super) fn fences_hold(&mut self) {
        if let Some(barrier) = self.reader.unanswered.pop_front() {
            self.reader.barriers.push((barrier, self.logger.log.newest()));
            self.after(Duration::ZERO, Event::Read(self.reader.life));
        }
    }

    /// What the logger had fenced when we came to it.
    pub(super) fn fenced(&mut self, flows: &[cluster::control::Flow]) {
        self.reader.engine.handle_fences(flows, self.now);
        self.after(Duration::ZERO, Event::Read(self.reader.life));
    }

    fn pass_barriers(&mut self) {
        let read = self.reader.next - 1;
        let all = std::mem::take(&mut self.reader.barriers).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|(_, at)| *at <= read);
        self.reader.barriers = later;
        for (barrier, _) in due {
            let mut actions = Vec::new();
            self.reader.engine.handle_fenced(barrier, self.now, &self.logger.log, &mut actions);
            self.carry_out(actions);
        }
    }

    pub(super) fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            if self.reader.down || self.dies(Daemon::Transactionalizer) {
                return;
            }
            self.carry_out_one(action);
        }
    }

    fn carry_out_one(&mut self, action: Action) {
        match action {
            Action::Release(hold) => self.tell_logger(ToLogger::Release { hold }),
            Action::Suppress(hold) => self.tell_logger(ToLogger::Suppress { hold }),
            Action::Fence(flow) => self.tell_logger(ToLogger::Fence(flow)),
            Action::LeaveOut(body) => self.tell_logger(ToLogger::LeaveOut(body)),
            Action::Barrier(barrier) => {
                if self.line(Channel::Judge).client.is_some() {
                    self.reader.unanswered.push_back(barrier);
                    self.tell_logger(ToLogger::Status);
                }
            }
            Action::Failed(failure) => self.report(failure),
            Action::Swallowed(swallowed) => self.tell_managers(&FromLog::Swallowed(swallowed)),
            Action::BackendUp(backend) => {
                self.note(|| format!("{backend} answers again"));
                self.tell_managers(&FromLog::BackendUp { backend });
            }
            Action::Probe(backend, id, question) => self.probe(backend, id, question),
            Action::KeepAlive(bytes) => self.ask_on_connection(bytes),
            Action::Unreported(flow, evidence) => {
                self.note(|| format!("UNREPORTED {} on {}: {evidence:?}", flow.client, flow.backend));
                self.excuse(flow.client, "its failure was found while no manager listened");
            }
            Action::Note(text) => self.note(|| text),
        }
    }

    /// A probe on a connection leaves the logger's host; the answer comes by its queue.
    fn ask_on_connection(&mut self, bytes: Vec<u8>) {
        let Ok(segment) = TcpSegment::parse(&bytes) else { return };
        let Some(number) = backend_number(segment.destination()) else { return };
        self.note(|| format!("keep-alive {}", show(&bytes)));
        self.serial += 1;
        let packet = Packet { bytes, born: self.serial, from_backend: None, departed: 0, window: None };
        self.transmit(2, Node::Backend(number), packet);
    }

    fn tell_logger(&mut self, message: ToLogger) {
        self.send(Channel::Judge, End::Server, &Message::ToLogger(message));
    }

    /// The next logger is asked again, when it has been told of the fences.
    pub(super) fn judge_link_lost(&mut self) {
        self.reader.unanswered.clear();
        self.reader.barriers.clear();
    }

    pub(super) fn fence_again(&mut self) {
        let mut actions = Vec::new();
        self.reader.engine.fence_again(&mut actions);
        self.carry_out(actions);
    }

    fn report(&mut self, failure: Failure) {
        let Failure { evidence, backend, .. } = failure;
        *self.tally.noticed.entry(format!("{evidence:?}")).or_default() += 1;
        for report in &failure.connections {
            self.note(|| {
                format!(
                    "REPORT {} on {backend} ({evidence:?}): T_L {} pending {} p {}+{} ack_cl {} next {} unacked {} beyond {} fin {} {:?}",
                    report.flow.client,
                    report.t_l,
                    report.pending.len(),
                    report.partial.head.len(),
                    report.partial.body_bytes,
                    report.ack_cl,
                    report.client_next,
                    report.unacked.len(),
                    report.beyond.len(),
                    report.client_fin,
                    report.unrecoverable
                )
            });
        }
        if failure.backend_down {
            self.note(|| format!("{backend} is down ({evidence:?})"));
        }
        let message = self.message_of(failure);
        self.tell_managers(&message);
    }

    fn tell_managers(&mut self, message: &FromLog) {
        for session in self.reader.subscribed.clone() {
            self.send_on(Channel::Reports, End::Client, session, Message::FromLog(message.clone()));
        }
    }

    pub(super) fn reader_told(&mut self, session: u64, message: &ToLog) {
        self.note(|| format!("transactionalizer is told {message:?}"));
        match message {
            ToLog::Subscribe { .. } => self.subscribe(session),
            ToLog::Ended { client, backend } => self.reader.engine.handle_ended(*client, *backend),
            ToLog::Status => {
                let status = FromLog::Status(self.reader.engine.status());
                self.send_on(Channel::Reports, End::Client, session, Message::FromLog(status));
            }
            ToLog::Read(logged) => {
                let piece = self.reader.engine.handle_read(*logged, self.now, &self.logger.log);
                self.send_on(Channel::Reports, End::Client, session, Message::FromLog(FromLog::Piece(piece)));
            }
            ToLog::Wanted(wanted) => self.reader.engine.handle_wanted(wanted, self.now),
            ToLog::Reload => {}
        }
        self.reader.engine.handle_managers(self.reader.subscribed.len());
        self.after(Duration::ZERO, Event::Read(self.reader.life));
    }

    fn subscribe(&mut self, session: u64) {
        self.reader.subscribed.insert(session);
        for backend in self.reader.engine.down() {
            self.reader.last_number += 1;
            let message = FromLog::Failed {
                number: self.reader.last_number,
                evidence: Evidence::Heartbeat,
                noticed_us: 0,
                backend_down: true,
                backend,
                connections: vec![],
            };
            self.send_on(Channel::Reports, End::Client, session, Message::FromLog(message));
        }
        let unended: Vec<Failure> = self.reader.engine.unended().collect();
        for failure in unended {
            let message = self.message_of(failure);
            self.send_on(Channel::Reports, End::Client, session, Message::FromLog(message));
        }
        let swallowed: Vec<Swallowed> = self.reader.engine.unended_swallowed().cloned().collect();
        for swallowed in swallowed {
            let message = FromLog::Swallowed(swallowed);
            self.send_on(Channel::Reports, End::Client, session, Message::FromLog(message));
        }
    }

    fn message_of(&mut self, failure: Failure) -> FromLog {
        self.reader.last_number += 1;
        let Failure { evidence, since, backend_down, backend, connections } = failure;
        let number = self.reader.last_number;
        let noticed_us = self.now.since(since).as_micros() as u64;
        FromLog::Failed { number, evidence, noticed_us, backend_down, backend, connections }
    }

    pub(super) fn manager_gone(&mut self, session: u64) {
        self.reader.subscribed.remove(&session);
        self.reader.engine.handle_managers(self.reader.subscribed.len());
    }
}
