//! The real engine between simulated clients and a backend whose application freezes again and again.

use std::collections::BTreeMap;

use packet::Time;
use transactionalizer::detector::probing::{Answer, ProbeId, Question};
use transactionalizer::engine::Action;

use super::common::{CONFIG, Conn, World, b1, b2, conn, get, response};
use super::traces::{Chance, Latencies, Trace};

/// Connections of the backend.
pub(crate) const CONNECTIONS: usize = 8;
/// Mean pause of a client between two requests, ms.
pub(crate) const THINK_MS: f64 = 20.0;
/// Mean time between two failures, ms.
const BETWEEN_FAILURES_MS: f64 = 4000.0;
/// Records that the engine may still ask for.
const KEPT_RECORDS: usize = 10_000;
/// Only how fast failures are found is measured, not how fast a backend returns.
const QUICK_RETURN: &str = "[detector]\nheartbeat_successes = 1\nheartbeat_successes_most = 1";

/// What came of one trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// Failures declared while there was none.
    pub(crate) wrong: u64,
    /// Milliseconds from each failure to its declaration.
    pub(crate) detection: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Ask(usize),
    Respond(usize, u16),
    Met(ProbeId, Answer),
    Fail,
}

#[derive(Clone, Copy)]
struct Client {
    conn: Conn,
    asked: u32,
    replied: u32,
}

struct Simulation {
    world: World,
    latencies: Latencies,
    chance: Chance,
    events: BTreeMap<(Time, u64), Event>,
    number: u64,
    clients: Vec<Client>,
    last_port: u16,
    frozen: Option<Time>,
    down: bool,
    /// Whether the host dies with its application.
    host: bool,
    /// Records of the log that are empty by now.
    forgotten: usize,
    outcome: Outcome,
}

/// Lets `requests` be answered, with failures in between; of the whole `host`, or of its application only.
pub(crate) fn simulate(trace: Trace, host: bool, seed: u64, requests: u64) -> Outcome {
    let world = World::with(&CONFIG.replace("[detector]", QUICK_RETURN));
    let mut simulation = Simulation {
        world,
        latencies: Latencies::new(trace),
        chance: Chance::new(seed),
        events: BTreeMap::new(),
        number: 0,
        clients: vec![],
        last_port: 1000,
        frozen: None,
        down: false,
        host,
        forgotten: 0,
        outcome: Outcome::default(),
    };
    for index in 0..CONNECTIONS {
        let client = simulation.open();
        simulation.clients.push(client);
        simulation.after(0.0, Event::Ask(index));
    }
    simulation.after(BETWEEN_FAILURES_MS, Event::Fail);
    while simulation.outcome.requests < requests {
        simulation.step();
    }
    simulation.outcome
}

impl Simulation {
    fn open(&mut self) -> Client {
        self.last_port = self.last_port.checked_add(1).unwrap_or(1001);
        let conn = conn(self.last_port, b1());
        self.world.open(conn);
        Client { conn, asked: 0, replied: 0 }
    }

    fn after(&mut self, millis: f64, event: Event) {
        self.number += 1;
        let at = self.world.now + std::time::Duration::from_secs_f64(millis / 1000.0);
        self.events.insert((at, self.number), event);
    }

    fn now_ms(&self) -> f64 {
        self.world.now.since(Time::default()).as_secs_f64() * 1000.0
    }

    fn step(&mut self) {
        let timer = self.world.engine.next_timer(self.world.now);
        match self.events.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= timer) {
            Some(key) => {
                self.world.now = self.world.now.max(key.0);
                if let Some(event) = self.events.remove(&key) {
                    self.handle(event);
                }
            }
            None => self.world.now = self.world.now.max(timer),
        }
        self.world.timers();
        self.answer_probes();
        self.react();
        self.forget();
    }

    /// Nobody asks for old records any more. Each is looked at once, so that long runs stay linear.
    fn forget(&mut self) {
        let until = self.world.log.0.len().saturating_sub(KEPT_RECORDS);
        if until >= self.forgotten + KEPT_RECORDS {
            self.world.log.0[self.forgotten..until].iter_mut().for_each(|record| *record = Vec::new());
            self.forgotten = until;
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ask(index) if self.down => self.after(50.0, Event::Ask(index)),
            Event::Ask(index) => self.ask(index),
            Event::Respond(index, port) => self.respond(index, port),
            Event::Met(..) if self.frozen.is_some() => {}
            Event::Met(id, answer) => self.met(id, answer),
            Event::Fail if self.down => self.after(1000.0, Event::Fail),
            Event::Fail => self.frozen = Some(self.world.now),
        }
    }

    fn ask(&mut self, index: usize) {
        let Client { conn, asked, replied } = self.clients[index];
        self.world.client(conn, asked, &get("/a"), replied);
        self.clients[index].asked += get("/a").len() as u32;
        if self.frozen.is_none() || !self.host {
            self.world.backend(conn, replied, b"", self.clients[index].asked);
        }
        let now = self.now_ms();
        let latency = self.latencies.sample(now, &mut self.chance);
        self.after(latency, Event::Respond(index, conn.flow.client.port()));
    }

    fn respond(&mut self, index: usize, port: u16) {
        let Client { conn, asked, replied } = self.clients[index];
        if self.frozen.is_some() || conn.flow.client.port() != port {
            return;
        }
        self.world.backend(conn, replied, &response(100), asked);
        self.clients[index].replied += response(100).len() as u32;
        self.outcome.requests += 1;
        let think = self.chance.exponential(THINK_MS);
        self.after(think, Event::Ask(index));
    }

    /// The kernel answers at once, the application as it answers others, but for what it takes to make a page.
    fn answer_probes(&mut self) {
        for (backend, id, question) in std::mem::take(&mut self.world.probes) {
            let application = question == Question::Application;
            if backend == b2() {
                let mut out = vec![];
                let answer = if application { Answer::Answered } else { Answer::Accepted };
                self.world.engine.handle_probe(backend, id, answer, self.world.now, &mut out);
                self.world.take(out);
            } else if self.frozen.is_none() || !self.host {
                self.met(id, Answer::Accepted);
                if application && self.frozen.is_none() {
                    let now = self.now_ms();
                    let latency = self.latencies.sample(now, &mut self.chance) / 2.0;
                    self.after(latency, Event::Met(id, Answer::Answered));
                }
            }
        }
    }

    fn met(&mut self, id: ProbeId, answer: Answer) {
        let mut out = vec![];
        self.world.engine.handle_probe(b1(), id, answer, self.world.now, &mut out);
        self.world.take(out);
    }

    fn react(&mut self) {
        for action in std::mem::take(&mut self.world.actions) {
            match action {
                Action::Failed(failure) => {
                    match self.frozen.take() {
                        Some(since) => {
                            let took = self.world.now.since(since).as_secs_f64() * 1000.0;
                            self.outcome.detection.push(took);
                            let pause = self.chance.exponential(BETWEEN_FAILURES_MS);
                            self.after(pause, Event::Fail);
                        }
                        None => self.outcome.wrong += 1,
                    }
                    self.down |= failure.backend_down;
                    self.renew(
                        failure.backend_down,
                        failure.connections.iter().map(|c| c.flow.client.port()),
                    );
                }
                Action::BackendUp(backend) if backend == b1() => self.down = false,
                _ => {}
            }
        }
    }

    /// The clients of failed connections come again.
    fn renew(&mut self, all: bool, ports: impl Iterator<Item = u16>) {
        let ports: Vec<u16> = ports.collect();
        for index in 0..self.clients.len() {
            if all || ports.contains(&self.clients[index].conn.flow.client.port()) {
                self.clients[index] = self.open();
                self.after(THINK_MS, Event::Ask(index));
            }
        }
    }
}
