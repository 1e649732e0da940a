//! Clients that check every byte.

use std::net::SocketAddr;
use std::time::Duration;

use packet::Time;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::apps::checker::Checker;
use crate::content::{Request, Variant};
use crate::hosts::Host;

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It closes when it has everything.
    Close,
    /// It closes its side right behind the last request.
    HalfClose,
    /// It resets after so many bytes.
    Abort(usize),
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Habits {
    pub requests: Vec<Request>,
    pub start: Time,
    pub pipelined: bool,
    /// Bytes written at once, and the pause after them.
    pub write: (usize, Duration),
    /// Pause before each request.
    pub think: Duration,
    /// Bytes read at once, and the pause after them.
    pub read: (usize, Duration),
    pub ending: Ending,
    /// After so many bytes it writes nothing for a while.
    pub pause_at: Option<(usize, Duration)>,
    pub receive_buffer: usize,
    pub send_buffer: usize,
}

impl Habits {
    /// Before the first answer it sends no more.
    pub fn begins_with_one_segment(&self) -> bool {
        !self.pipelined && self.write.0 == usize::MAX && self.requests[0].bytes().len() < 500
    }

    /// Asks, reads, asks the next, closes.
    pub fn plain(requests: Vec<Request>) -> Self {
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
pub enum Phase {
    Waiting,
    Running,
    /// It has all it wanted, or left on purpose.
    Done,
    /// The connection ended before that.
    Cut(String),
}

pub struct Client {
    pub habits: Habits,
    pub port: u16,
    handle: SocketHandle,
    stream: Vec<u8>,
    ends: Vec<usize>,
    sent: usize,
    asked: usize,
    write_at: Time,
    read_at: Time,
    pub received: usize,
    checker: Checker,
    closed: bool,
    pub phase: Phase,
    pub violation: Option<String>,
    pub done_at: Time,
}

impl Client {
    pub fn new(host: &mut Host, port: u16, habits: Habits, variants: &[Variant]) -> Self {
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

    pub fn step(&mut self, host: &mut Host, now: Time, service: SocketAddr) -> Option<Time> {
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
    pub fn abandon(&mut self, host: &mut Host) {
        host.socket(self.handle).abort();
    }

    pub fn progress(&self) -> String {
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
