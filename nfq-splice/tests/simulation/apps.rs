//! What runs on the hosts: a web server on each backend, clients that check every byte.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use http1::RequestFraming;
use packet::Time;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::content::{Request, Variant, date_range, respond};
use crate::hosts::Host;

/// One accepted, or awaited, connection of a server.
pub(crate) struct Worker {
    handle: SocketHandle,
    incoming: Vec<u8>,
    /// Answers and when they are ready.
    ready: VecDeque<(Time, Vec<u8>)>,
    outgoing: Vec<u8>,
    written: usize,
    /// It has had a peer.
    used: bool,
}

impl Worker {
    fn new(handle: SocketHandle) -> Self {
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Self { handle, incoming, ready: VecDeque::new(), outgoing, written: 0, used: false }
    }
}

pub(crate) struct Server {
    /// Nothing is written after so many bytes of a connection.
    pub(crate) stalls: Option<usize>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) variant: Variant,
    pub(crate) service_time: Duration,
    pub(crate) number: usize,
    /// Its process was killed: nothing listens any more.
    pub(crate) killed: bool,
    /// Updates that it has run: whose, and how long.
    pub(crate) updates: Vec<(SocketAddr, usize)>,
}

impl Server {
    pub(crate) fn new(
        host: &mut Host,
        sockets: usize,
        receive: usize,
        send: usize,
        variant: Variant,
    ) -> Self {
        let workers = (0..sockets).map(|_| Worker::new(host.add_socket(receive, send))).collect();
        for_each_listen(host, &workers);
        Self {
            stalls: None,
            updates: Vec::new(),
            workers,
            variant,
            service_time: Duration::ZERO,
            number: host.number,
            killed: false,
        }
    }

    /// The process dies: its kernel closes, or resets, all connections.
    pub(crate) fn kill(&mut self, host: &mut Host, reset: bool) {
        self.killed = true;
        for worker in &mut self.workers {
            worker.ready.clear();
            worker.outgoing.clear();
            let socket = host.socket(worker.handle);
            if reset { socket.abort() } else { socket.close() }
        }
    }

    /// Reads, answers, closes. When it wants to be called again.
    pub(crate) fn step(&mut self, host: &mut Host, now: Time) -> Option<Time> {
        if self.killed {
            return None;
        }
        let date = format!(
            "Mon, 23 Nov 2026 10:{:02}:{:02} GMT",
            self.number,
            (now.as_nanos() / 1_000_000_000) % 60
        );
        let mut next = None;
        for worker in &mut self.workers {
            let updates = worker.step(host, now, self.variant, self.service_time, &date);
            self.updates.extend(updates);
            worker.write(host, self.stalls.unwrap_or(usize::MAX));
            next = next.into_iter().chain(worker.ready.front().map(|(at, _)| *at)).min();
        }
        next
    }
}

fn for_each_listen(host: &mut Host, workers: &Vec<Worker>) {
    for worker in workers {
        host.socket(worker.handle).listen(80).unwrap();
    }
}

impl Worker {
    /// Gives the updates that it ran.
    fn step(
        &mut self,
        host: &mut Host,
        now: Time,
        variant: Variant,
        service_time: Duration,
        date: &str,
    ) -> Vec<(SocketAddr, usize)> {
        let socket = host.socket(self.handle);
        let peer = socket.remote_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
        // A reset in SYN-RECEIVED leads smoltcp back to LISTEN with remains of the old connection, which stall the next one.
        let again = socket.state() == State::Listen && self.used;
        if !socket.is_open() || again {
            *self = Self::new(self.handle);
            socket.abort();
            socket.listen(80).unwrap();
            return Vec::new();
        }
        self.used |= socket.state() != State::Listen;
        while socket.can_recv() {
            let _ = socket.recv(|bytes| {
                self.incoming.extend_from_slice(bytes);
                (bytes.len(), ())
            });
        }
        let updates = self.answer(now, variant, service_time, date);
        while self.ready.front().is_some_and(|(at, _)| *at <= now) {
            self.outgoing.extend(self.ready.pop_front().unwrap().1);
        }
        updates.into_iter().filter_map(|bytes| Some((peer?, bytes))).collect()
    }

    fn write(&mut self, host: &mut Host, stalls: usize) {
        let socket = host.socket(self.handle);
        let may = self.outgoing.len().min(stalls - self.written);
        if socket.can_send() && may > 0 {
            let sent = socket.send_slice(&self.outgoing[..may]).unwrap();
            self.outgoing.drain(..sent);
            self.written += sent;
        }
        if socket.state() == State::CloseWait && self.outgoing.is_empty() && self.ready.is_empty() {
            socket.close();
        }
    }

    fn answer(&mut self, now: Time, variant: Variant, service_time: Duration, date: &str) -> Vec<usize> {
        let mut updates = Vec::new();
        while let Ok(Some(head)) = http1::parse_request(&self.incoming, 64 << 10) {
            let body = if let RequestFraming::Length(bytes) = head.framing { bytes as usize } else { 0 };
            let all = head.head_bytes + body;
            if self.incoming.len() < all {
                break;
            }
            if head.path == "/update" {
                updates.push(body);
            }
            let answer = respond(&head, &self.incoming[head.head_bytes..all], variant, date);
            self.ready.push_back((now + service_time, answer));
            self.incoming.drain(..all);
        }
        updates
    }
}

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It closes when it has everything.
    Close,
    /// It closes its side right behind the last request.
    HalfClose,
    /// It resets after so many bytes.
    Abort(usize),
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    pub(crate) requests: Vec<Request>,
    pub(crate) start: Time,
    pub(crate) pipelined: bool,
    /// Bytes written at once, and the pause after them.
    pub(crate) write: (usize, Duration),
    /// Pause before each request.
    pub(crate) think: Duration,
    /// Bytes read at once, and the pause after them.
    pub(crate) read: (usize, Duration),
    pub(crate) ending: Ending,
    /// After so many bytes it writes nothing for a while.
    pub(crate) pause_at: Option<(usize, Duration)>,
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
}

impl Habits {
    /// Before the first answer it sends no more.
    pub(crate) fn begins_with_one_segment(&self) -> bool {
        !self.pipelined && self.write.0 == usize::MAX && self.requests[0].bytes().len() < 500
    }

    /// Asks, reads, asks the next, closes.
    pub(crate) fn plain(requests: Vec<Request>) -> Self {
        Self {
            requests,
            start: Time::default(),
            pipelined: false,
            write: (usize::MAX, Duration::ZERO),
            think: Duration::ZERO,
            read: (usize::MAX, Duration::ZERO),
            ending: Ending::Close,
            pause_at: None,
            receive_buffer: 65_535,
            send_buffer: 65_535,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Running,
    /// It has all it wanted, or left on purpose.
    Done,
    /// The connection ended before that.
    Cut(String),
}

pub(crate) struct Client {
    pub(crate) habits: Habits,
    pub(crate) port: u16,
    handle: SocketHandle,
    stream: Vec<u8>,
    ends: Vec<usize>,
    sent: usize,
    asked: usize,
    write_at: Time,
    read_at: Time,
    pub(crate) received: usize,
    checker: Checker,
    closed: bool,
    pub(crate) phase: Phase,
    pub(crate) violation: Option<String>,
    pub(crate) done_at: Time,
}

impl Client {
    pub(crate) fn new(host: &mut Host, port: u16, habits: Habits, variants: &[Variant]) -> Self {
        let handle = host.add_socket(habits.receive_buffer, habits.send_buffer);
        let stream: Vec<Vec<u8>> = habits.requests.iter().map(|request| request.bytes()).collect();
        let ends = stream.iter().scan(0, |at, bytes| {
            *at += bytes.len();
            Some(*at)
        });
        Self {
            port,
            handle,
            ends: ends.collect(),
            stream: stream.concat(),
            sent: 0,
            asked: 0,
            write_at: habits.start,
            read_at: habits.start,
            received: 0,
            checker: Checker::new(&habits.requests, variants),
            closed: false,
            phase: Phase::Waiting,
            violation: None,
            done_at: habits.start,
            habits,
        }
    }

    pub(crate) fn step(&mut self, host: &mut Host, now: Time, service: SocketAddr) -> Option<Time> {
        match self.phase {
            Phase::Waiting if now < self.habits.start => return Some(self.habits.start),
            Phase::Waiting => {
                host.connect(self.handle, service, self.port);
                self.phase = Phase::Running;
            }
            Phase::Running => {}
            Phase::Done | Phase::Cut(_) => {
                self.drain(host);
                return None;
            }
        }
        self.read(host, now);
        self.write(host, now);
        self.end(host, now);
        self.next(now)
    }

    fn next(&self, now: Time) -> Option<Time> {
        let wants = self.phase == Phase::Running;
        let read = (wants && self.read_at > now).then_some(self.read_at);
        let write = (wants && self.write_at > now && self.sent < self.stream.len()).then_some(self.write_at);
        read.into_iter().chain(write).min()
    }

    fn read(&mut self, host: &mut Host, now: Time) {
        let socket = host.socket(self.handle);
        if now < self.read_at || !socket.can_recv() {
            return;
        }
        let (limit, pause) = self.habits.read;
        let mut left = limit;
        while left > 0 && socket.can_recv() {
            let checker = &mut self.checker;
            let (taken, verdict) = socket
                .recv(|bytes| {
                    let taken = bytes.len().min(left);
                    (taken, (taken, checker.push(&bytes[..taken])))
                })
                .unwrap();
            left -= taken;
            self.received += taken;
            if let Err(why) = verdict {
                self.violation.get_or_insert(why);
            }
        }
        self.read_at = now + pause;
    }

    fn write(&mut self, host: &mut Host, now: Time) {
        let socket = host.socket(self.handle);
        if self.closed || now < self.write_at || !socket.can_send() {
            return;
        }
        if self
            .ends
            .get(self.asked)
            .is_some_and(|_| self.habits.pipelined || self.checker.index >= self.asked)
            && self.sent == self.asked.checked_sub(1).map_or(0, |last| self.ends[last])
        {
            self.asked += 1;
            if self.habits.think > Duration::ZERO {
                self.write_at = now + self.habits.think;
                return;
            }
        }
        let allowed = self.asked.checked_sub(1).map_or(0, |last| self.ends[last]);
        if self.sent < allowed {
            let to = allowed.min(self.sent.saturating_add(self.habits.write.0));
            if let Some((at, pause)) = self.habits.pause_at.filter(|(at, _)| self.sent < *at && *at <= to) {
                self.sent += socket.send_slice(&self.stream[self.sent..at]).unwrap();
                self.write_at = now + pause;
                return;
            }
            self.sent += socket.send_slice(&self.stream[self.sent..to]).unwrap();
            self.write_at = now + self.habits.write.1;
        }
        if self.sent == self.stream.len() && self.habits.ending == Ending::HalfClose {
            socket.close();
            self.closed = true;
        }
    }

    fn end(&mut self, host: &mut Host, now: Time) {
        let socket = host.socket(self.handle);
        let complete = self.checker.is_complete();
        if let Ending::Abort(at) = self.habits.ending
            && self.received >= at
        {
            socket.abort();
            self.phase = Phase::Done;
        } else if complete {
            socket.close();
            self.phase = Phase::Done;
        } else if !socket.is_open() && !socket.can_recv() {
            self.phase = Phase::Cut("reset".to_owned());
        } else if !socket.may_recv()
            && !socket.can_recv()
            && !matches!(socket.state(), State::SynSent | State::SynReceived)
        {
            self.phase = Phase::Cut("closed by the server".to_owned());
            socket.close();
        }
        self.done_at = now;
    }

    /// A client that is done takes no more.
    fn drain(&mut self, host: &mut Host) {
        let socket = host.socket(self.handle);
        while socket.can_recv() {
            let extra = socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
            if self.phase == Phase::Done && self.checker.is_complete() && extra > 0 {
                self.violation.get_or_insert(format!("{extra} bytes beyond the last answer"));
            }
        }
    }

    /// Whatever is left of its connection.
    pub(crate) fn abandon(&mut self, host: &mut Host) {
        host.socket(self.handle).abort();
    }

    pub(crate) fn progress(&self) -> String {
        format!(
            "{} of {} bytes received, {} of {} sent, {:?}",
            self.received,
            self.checker.total(),
            self.sent,
            self.stream.len(),
            self.phase
        )
    }
}

/// Every answer must be that of one execution, byte by byte, `Date` values aside.
struct Checker {
    /// For each request, what each variant answers.
    answers: Vec<Vec<Vec<u8>>>,
    index: usize,
    offset: usize,
    alive: Vec<bool>,
}

impl Checker {
    fn new(requests: &[Request], variants: &[Variant]) -> Self {
        let mut unique = variants.to_vec();
        unique.dedup();
        let answers = requests
            .iter()
            .map(|request| unique.iter().map(|variant| request.answer(*variant)).collect())
            .collect();
        Self { answers, index: 0, offset: 0, alive: vec![true; unique.len()] }
    }

    fn total(&self) -> usize {
        self.answers.iter().map(|answer| answer[0].len()).sum()
    }

    fn is_complete(&self) -> bool {
        self.index == self.answers.len()
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(answers) = self.answers.get(self.index) else {
                return Err(format!("{} bytes beyond the last answer", rest.len()));
            };
            let date = date_range(&answers[0]);
            let length = answers[0].len();
            let take = rest.len().min(length - self.offset);
            for (variant, answer) in answers.iter().enumerate() {
                let same = rest[..take].iter().enumerate().all(|(i, byte)| {
                    let at = self.offset + i;
                    date.contains(&at) || answer[at] == *byte
                });
                self.alive[variant] &= same;
            }
            if !self.alive.contains(&true) {
                let at = self.offset;
                let got = String::from_utf8_lossy(&rest[..take.min(80)]).into_owned();
                return Err(format!(
                    "answer {}: bytes {at}..{} are of no execution: {got:?}",
                    self.index,
                    at + take
                ));
            }
            self.offset += take;
            rest = &rest[take..];
            if self.offset == length {
                self.index += 1;
                self.offset = 0;
                self.alive.fill(true);
            }
        }
        Ok(())
    }
}
