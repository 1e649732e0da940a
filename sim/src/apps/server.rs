//! A web server on each backend.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use http1::RequestFraming;
use packet::Time;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::content::{UNTIL_CLOSE, Variant, respond};
use crate::hosts::Host;

/// One accepted, or awaited, connection of a server.
pub struct Worker {
    handle: SocketHandle,
    incoming: Vec<u8>,
    /// Answers and when they are ready.
    ready: VecDeque<(Time, Vec<u8>)>,
    outgoing: Vec<u8>,
    written: usize,
    /// It closes when all is written.
    closes: bool,
    /// Updates that were run on this connection.
    updates: usize,
    /// It has had a peer.
    used: bool,
}

impl Worker {
    fn new(handle: SocketHandle) -> Self {
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        let ready = VecDeque::new();
        Self { handle, incoming, ready, outgoing, written: 0, closes: false, updates: 0, used: false }
    }
}

pub struct Server {
    /// Nothing is written after so many bytes of a connection.
    pub stalls: Option<usize>,
    pub workers: Vec<Worker>,
    pub variant: Variant,
    pub service_time: Duration,
    pub number: usize,
    /// Its process was killed: nothing listens any more.
    pub killed: bool,
    /// Updates that it has run: whose, and how long.
    pub updates: Vec<(SocketAddr, usize)>,
}

impl Server {
    pub fn new(host: &mut Host, sockets: usize, receive: usize, send: usize, variant: Variant) -> Self {
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
    pub fn kill(&mut self, host: &mut Host, reset: bool) {
        self.killed = true;
        for worker in &mut self.workers {
            worker.ready.clear();
            worker.outgoing.clear();
            let socket = host.socket(worker.handle);
            if reset { socket.abort() } else { socket.close() }
        }
    }

    /// The process dies, as its kernel sees it: what it had closed already goes on to its end, what nobody had accepted is reset.
    pub fn die(&mut self, host: &mut Host, reset: bool) {
        self.killed = true;
        for worker in &mut self.workers {
            worker.ready.clear();
            worker.outgoing.clear();
            let socket = host.socket(worker.handle);
            match socket.state() {
                // smoltcp would number a FIN like its SYN.
                State::SynReceived => socket.abort(),
                State::Established | State::CloseWait if reset => socket.abort(),
                State::Listen | State::Established | State::CloseWait => socket.close(),
                _ => {}
            }
        }
    }

    /// The process is started anew: it listens as soon as the old connections are gone.
    pub fn restart(&mut self) {
        self.killed = false;
        for worker in &mut self.workers {
            worker.incoming.clear();
        }
    }

    /// Reads, answers, closes. When it wants to be called again.
    pub fn step(&mut self, host: &mut Host, now: Time) -> Option<Time> {
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
        let ends = self.closes && socket.state() == State::Established || socket.state() == State::CloseWait;
        if ends && self.outgoing.is_empty() && self.ready.is_empty() {
            socket.close();
        }
    }

    fn answer(&mut self, now: Time, variant: Variant, service_time: Duration, date: &str) -> Vec<usize> {
        let mut updates = Vec::new();
        while !self.closes
            && let Ok(Some(head)) = http1::parse_request(&self.incoming, 64 << 10)
        {
            let body = if let RequestFraming::Length(bytes) = head.framing { bytes as usize } else { 0 };
            let all = head.head_bytes + body;
            if self.incoming.len() < all {
                break;
            }
            if head.path() == "/update" {
                updates.push(body);
            }
            self.updates += usize::from(head.method() == "POST");
            let answer = respond(&head, &self.incoming[head.head_bytes..all], variant, self.updates, date);
            self.ready.push_back((now + service_time, answer));
            self.incoming.drain(..all);
            if head.path().starts_with(UNTIL_CLOSE) {
                self.closes = true;
                break;
            }
        }
        updates
    }
}
