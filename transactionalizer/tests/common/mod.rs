//! A client, a backend and a log in memory around the engine.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unnecessary_wraps)]

use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{ConnectionReport, Evidence, Flow};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, Time};
use segment_log::LeftOut;
use transactionalizer::detector::probing::{Answer, ProbeId, Question};
use transactionalizer::engine::{Action, Engine, Failure, Logged};
use transactionalizer::spans::{LogBytes, Record};

pub const CONFIG: &str = r#"
[cluster]
name = "test"
[service]
address = "10.9.9.9:80"
[[route]]
pool = "all"
[pool.all]
backends = ["b1", "b2"]
[backend.b1]
address = "10.0.3.1:8080"
[backend.b2]
address = "10.0.3.2:8080"
[proxy.p]
address = "10.0.2.1"
[logger.l]
control = "10.0.2.2:7000"
[detector]
kinds = 64
[recovery]
request_bytes = 65536
[[tag]]
method = ["GET", "HEAD"]
deterministic = true
read_only = true
idempotent = true
"#;

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn b1() -> SocketAddr {
    addr("10.0.3.1:8080")
}

pub fn b2() -> SocketAddr {
    addr("10.0.3.2:8080")
}

/// Payloads by record number.
#[derive(Default)]
pub struct Log(pub Vec<Vec<u8>>, pub usize);

impl LogBytes for Log {
    fn read(&self, record: Record, skip: usize, length: usize, into: &mut Vec<u8>) -> Option<()> {
        if (record.number as usize) < self.1 {
            return None;
        }
        let packet = self.0.get(record.number as usize)?;
        let payload = packet::TcpSegment::parse(packet).ok()?.payload();
        into.extend_from_slice(payload.get(skip..skip + length)?);
        Some(())
    }
}

pub struct World {
    pub engine: Engine,
    pub log: Log,
    pub now: Time,
    pub actions: Vec<Action>,
    next_hold: u64,
    /// Barriers wait for the test.
    pub fences_are_slow: bool,
    pub barriers: Vec<u64>,
    pub probes: Vec<(SocketAddr, ProbeId, Question)>,
    pub b2_lives: bool,
}

/// One connection's numbers.
#[derive(Clone, Copy)]
pub struct Conn {
    pub flow: Flow,
    pub client_isn: Seq,
    pub backend_isn: Seq,
}

pub fn conn(port: u16, backend: SocketAddr) -> Conn {
    let client = SocketAddr::new("10.0.1.1".parse().unwrap(), port);
    Conn { flow: Flow { client, backend }, client_isn: Seq(u32::MAX - 20), backend_isn: Seq(u32::MAX - 50) }
}

pub const OPTIONS: SynOptions =
    SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamp: None };

impl World {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: &str) -> Self {
        let mut world = Self::begun(config);
        world.engine.handle_managers(1);
        world.engine.handle_live(world.now);
        world
    }

    /// No manager is there, and the log is still being caught up with.
    pub fn starting() -> Self {
        Self::begun(CONFIG)
    }

    fn begun(config: &str) -> Self {
        let cluster = Cluster::parse(config, "test").unwrap();
        let now = Time::from_millis(1_000_000);
        Self {
            engine: Engine::new(cluster, now),
            log: Log::default(),
            now,
            actions: vec![],
            next_hold: 1,
            fences_are_slow: false,
            barriers: vec![],
            probes: vec![],
            b2_lives: true,
        }
    }

    pub fn pass(&mut self, millis: u64) {
        self.now = self.now + std::time::Duration::from_millis(millis);
    }

    pub fn log(&mut self, packet: Vec<u8>, from_backend: bool, is_held: bool) -> Option<u64> {
        self.log_record(packet, from_backend, is_held, None, false)
    }

    /// The logger's fence drops it.
    pub fn swallow(&mut self, packet: Vec<u8>) {
        self.log_record(packet, false, false, None, true);
    }

    fn log_record(
        &mut self,
        packet: Vec<u8>,
        from_backend: bool,
        is_held: bool,
        left_out: Option<LeftOut>,
        swallowed: bool,
    ) -> Option<u64> {
        let hold = is_held.then_some(self.next_hold);
        self.next_hold += u64::from(is_held);
        let number = self.log.0.len() as u64;
        self.log.0.push(packet);
        let record = Record { position: None, number };
        let packet = self.log.0.last().unwrap().clone();
        let time = self.now;
        let logged =
            Logged { record, writer: 1, time, hold, from_backend, swallowed, packet: &packet, left_out };
        let mut out = vec![];
        self.engine.handle_record(&logged, &self.log, &mut out);
        self.take(out);
        hold
    }

    /// All fences hold now.
    pub fn fenced(&mut self) {
        for barrier in std::mem::take(&mut self.barriers) {
            let mut out = vec![];
            self.engine.handle_fenced(barrier, self.now, &self.log, &mut out);
            self.take(out);
        }
    }

    /// Barriers hold at once, unless told otherwise; probes are kept for the test to answer.
    pub fn take(&mut self, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Barrier(barrier) if self.fences_are_slow => self.barriers.push(barrier),
                Action::Barrier(barrier) => {
                    let mut more = vec![];
                    self.engine.handle_fenced(barrier, self.now, &self.log, &mut more);
                    self.take(more);
                }
                Action::Probe(backend, id, question) => self.probes.push((backend, id, question)),
                action => self.actions.push(action),
            }
        }
    }

    pub fn timers(&mut self) {
        let mut out = vec![];
        self.engine.handle_timers(self.now, &mut out);
        self.take(out);
    }

    /// Lets time pass in small steps; `answer` says what probes meet with.
    pub fn run(&mut self, millis: u64, answer: impl Fn(Question) -> Option<Answer>) {
        for _ in 0..millis {
            self.pass(1);
            self.timers();
            self.answer(&answer);
        }
    }

    pub fn answer(&mut self, answer: &impl Fn(Question) -> Option<Answer>) {
        for (backend, id, question) in std::mem::take(&mut self.probes) {
            // The other backend is nobody's subject, unless a test connects to it.
            let other = backend == b2() && self.b2_lives;
            if let Some(answer) = if other { lives(question) } else { answer(question) } {
                let mut out = vec![];
                self.engine.handle_probe(backend, id, answer, self.now, &mut out);
                self.take(out);
            }
        }
    }

    pub fn open(&mut self, conn: Conn) {
        self.handshake(conn);
        self.client(conn, 0, b"", 0);
    }

    /// SYN and SYN-ACK, which nobody has acknowledged yet.
    pub fn handshake(&mut self, conn: Conn) {
        self.syn(conn);
        self.syn_ack(conn);
    }

    pub fn syn(&mut self, conn: Conn) {
        let Flow { client, backend } = conn.flow;
        let mut syn = SegmentBuilder::new(client, backend);
        (syn.seq, syn.flags, syn.window, syn.syn) = (conn.client_isn, Flags::SYN, 65535, Some(OPTIONS));
        self.log(syn.build(), false, false);
    }

    pub fn syn_ack(&mut self, conn: Conn) {
        let Flow { client, backend } = conn.flow;
        let mut syn_ack = SegmentBuilder::new(backend, client);
        (syn_ack.seq, syn_ack.ack) = (conn.backend_isn, Some(conn.client_isn + 1));
        (syn_ack.flags, syn_ack.window, syn_ack.syn) = (Flags::SYN, 65535, Some(OPTIONS));
        self.log(syn_ack.build(), true, false);
    }

    /// The client sends `data` at stream offset `at` and acknowledges `ack` response bytes.
    pub fn client(&mut self, conn: Conn, at: u32, data: &[u8], ack: u32) {
        self.client_flags(conn, Flags(0), at, data, ack);
    }

    pub fn client_flags(&mut self, conn: Conn, flags: Flags, at: u32, data: &[u8], ack: u32) {
        let mut segment = SegmentBuilder::new(conn.flow.client, conn.flow.backend);
        (segment.seq, segment.ack) = (conn.client_isn + 1 + at, Some(conn.backend_isn + 1 + ack));
        (segment.flags, segment.window, segment.payload) = (flags, 60_000, data);
        self.log(segment.build(), false, false);
    }

    /// The same, with a window of so many bytes.
    pub fn client_says(&mut self, conn: Conn, at: u32, data: &[u8], ack: u32, window: u32) {
        let mut segment = SegmentBuilder::new(conn.flow.client, conn.flow.backend);
        (segment.seq, segment.ack) = (conn.client_isn + 1 + at, Some(conn.backend_isn + 1 + ack));
        segment.window = u16::try_from(window >> OPTIONS.window_scale.unwrap()).unwrap();
        segment.payload = data;
        self.log(segment.build(), false, false);
    }

    pub fn backend(&mut self, conn: Conn, at: u32, data: &[u8], ack: u32) {
        self.backend_flags(conn, Flags(0), at, data, ack);
    }

    /// Of what the backend sends at stream offset `at` the log has the headers only.
    pub fn backend_left_out(&mut self, conn: Conn, at: u32, left_out: LeftOut, ack: u32) {
        let mut segment = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
        (segment.seq, segment.ack) = (conn.backend_isn + 1 + at, Some(conn.client_isn + 1 + ack));
        segment.window = 60_000;
        self.log_record(segment.build(), true, false, Some(left_out), false);
    }

    /// FIN and RST are held.
    pub fn backend_flags(&mut self, conn: Conn, flags: Flags, at: u32, data: &[u8], ack: u32) -> Option<u64> {
        let mut segment = SegmentBuilder::new(conn.flow.backend, conn.flow.client);
        (segment.seq, segment.ack) = (conn.backend_isn + 1 + at, Some(conn.client_isn + 1 + ack));
        (segment.flags, segment.window, segment.payload) = (flags, 60_000, data);
        self.log(segment.build(), true, flags.fin() || flags.rst())
    }

    pub fn failures(&self) -> Vec<&Failure> {
        let failures = self.actions.iter().map(|action| match action {
            Action::Failed(failure) => Some(failure),
            _ => None,
        });
        failures.flatten().collect()
    }

    pub fn reports(&self) -> Vec<(Evidence, bool, &ConnectionReport)> {
        self.failures()
            .into_iter()
            .flat_map(|failure| {
                failure.connections.iter().map(|report| (failure.evidence, failure.backend_down, report))
            })
            .collect()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.engine.counters.by_name()[name]
    }
}

/// A request and its response.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

pub fn response(body: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    bytes.extend((0..body).map(|i| (i * 7 + i / 256) as u8));
    bytes
}

/// What probes of a backend that works meet with.
pub fn lives(question: Question) -> Option<Answer> {
    Some(if question == Question::Application { Answer::Answered } else { Answer::Accepted })
}

/// Its kernel accepts, its application does not answer.
pub fn frozen(_: Question) -> Option<Answer> {
    Some(Answer::Accepted)
}

/// Nothing answers.
pub fn dead(_: Question) -> Option<Answer> {
    None
}

/// A connection with one request, logged and acknowledged by the backend.
pub fn asked(world: &mut World, port: u16) -> (Conn, u32) {
    let conn = conn(port, b1());
    world.open(conn);
    let request = get("/a");
    world.client(conn, 0, &request, 0);
    let length = request.len() as u32;
    world.backend(conn, 0, b"", length);
    (conn, length)
}

/// A request, and half of its response.
pub fn half(world: &mut World, conn: Conn) -> u32 {
    world.open(conn);
    let asked = get("/a").len() as u32;
    world.client(conn, 0, &get("/a"), 0);
    world.backend(conn, 0, &response(1000)[..500], asked);
    asked
}

/// Sends request number `i` of a keep-alive connection; gives the stream offsets before it.
pub fn ask(world: &mut World, conn: Conn, i: u32) -> (u32, u32) {
    let (request, reply) = (get("/a").len() as u32, response(100).len() as u32);
    world.client(conn, i * request, &get("/a"), i * reply);
    ((i + 1) * request, i * reply)
}

/// The same, and its answer `millis` later.
pub fn serve(world: &mut World, conn: Conn, i: u32, millis: u64) {
    let (asked, at) = ask(world, conn, i);
    world.run(millis, lives);
    world.backend(conn, at, &response(100), asked);
    world.client(conn, asked, b"", at + response(100).len() as u32);
}
