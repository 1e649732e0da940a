//! Probes: nonblocking connects to backends, and what they meet with.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use packet::Time;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use transactionalizer::detector::probing::{Answer, ProbeId, Question};

/// Probes under way at most; further ones count as unreachable.
const MAX_PROBES: usize = 256;
/// A probe is given up after this time, whoever still waits for it.
const LIFETIME: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Probe {
    backend: SocketAddr,
    id: ProbeId,
    question: Question,
    socket: OwnedFd,
    connected: bool,
    started: Time,
}

/// What a probe met with.
pub(crate) type Met = (SocketAddr, ProbeId, Answer);

/// All probes under way.
#[derive(Debug)]
pub(crate) struct Prober {
    probes: Vec<Probe>,
    request: Vec<u8>,
}

impl Prober {
    /// `host`: what requests of probes are addressed to.
    pub(crate) fn new(host: SocketAddr) -> Self {
        let request =
            format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: resplice\r\nConnection: close\r\n\r\n");
        Self { probes: vec![], request: request.into_bytes() }
    }

    /// Sends one.
    pub(crate) fn start(
        &mut self,
        backend: SocketAddr,
        id: ProbeId,
        question: Question,
        now: Time,
    ) -> Option<Met> {
        self.probes.retain(|probe| now.since(probe.started) < LIFETIME);
        if self.probes.len() >= MAX_PROBES {
            return Some((backend, id, Answer::Unreachable));
        }
        match begin(backend) {
            Ok(socket) => {
                self.probes.push(Probe { backend, id, question, socket, connected: false, started: now });
                None
            }
            Err(error) => Some((backend, id, answer_of(error))),
        }
    }

    /// Descriptors to poll.
    pub(crate) fn interest(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.probes
            .iter()
            .map(|probe| (probe.socket.as_fd(), if probe.connected { PollFlags::IN } else { PollFlags::OUT }))
    }

    /// Looks at those that are ready; `ready` in the order of [`interest`](Self::interest).
    pub(crate) fn handle_ready(&mut self, ready: &[bool]) -> Vec<Met> {
        let mut met = vec![];
        let mut ready = ready.iter();
        let request = &self.request;
        self.probes.retain_mut(|probe| {
            if !ready.next().is_some_and(|ready| *ready) {
                return true;
            }
            let (answer, keep) = probe.look(request);
            met.extend(answer.map(|answer| (probe.backend, probe.id, answer)));
            keep
        });
        met
    }
}

impl Probe {
    /// The news, and whether there may be more.
    fn look(&mut self, request: &[u8]) -> (Option<Answer>, bool) {
        if self.connected {
            return match recv(&self.socket, &mut [0_u8; 512], RecvFlags::empty()) {
                Err(Errno::WOULDBLOCK | Errno::INTR) => (None, true),
                Ok((0, _)) | Err(_) => (Some(Answer::Closed), false),
                Ok(_) => (Some(Answer::Answered), false),
            };
        }
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => return (Some(answer_of(error)), false),
        }
        self.connected = true;
        if self.question == Question::Host {
            return (Some(Answer::Accepted), false);
        }
        match send(&self.socket, request, SendFlags::NOSIGNAL) {
            Ok(_) => (Some(Answer::Accepted), true),
            Err(_) => (Some(Answer::Closed), false),
        }
    }
}

fn begin(backend: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if backend.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    // Many short connections must not leave ports in TIME_WAIT.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &backend) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn answer_of(error: Errno) -> Answer {
    match error {
        Errno::CONNREFUSED => Answer::Refused,
        Errno::CONNRESET | Errno::PIPE => Answer::Closed,
        _ => Answer::Unreachable,
    }
}
