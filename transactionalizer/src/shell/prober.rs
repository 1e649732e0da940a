//! Probes: nonblocking connects to backends, and what they meet with.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use cluster::config::{Cluster, Detector};
use packet::Time;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use transactionalizer::detector::probing::{Answer, ProbeId, Question};

/// Probes under way at most; further ones are not sent.
const MAX_PROBES: usize = 256;
/// A probe is given up after this time, whoever still waits for it.
const LIFETIME: Duration = Duration::from_secs(12);

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
    status_below: u16,
}

impl Prober {
    /// Checks as this configuration wants them.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut prober = Self { probes: vec![], request: vec![], status_below: 0 };
        prober.configure(cluster);
        prober
    }

    /// Checks that begin from now on.
    pub(crate) fn configure(&mut self, cluster: &Cluster) {
        let Detector { check_path, check_host, check_status_below, .. } = &cluster.detector;
        let service = cluster.service.address.to_string();
        let host = if check_host.is_empty() { &service } else { check_host };
        // What would end a line or the target early is left out.
        let clean = |text: &str| text.chars().filter(char::is_ascii_graphic).collect::<String>();
        self.request = format!(
            "HEAD {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: resplice\r\nConnection: close\r\n\r\n",
            clean(check_path),
            clean(host)
        )
        .into_bytes();
        self.status_below = *check_status_below;
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
            return Some((backend, id, Answer::NotSent));
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
        let (request, status_below) = (&self.request, self.status_below);
        self.probes.retain_mut(|probe| {
            if !ready.next().is_some_and(|ready| *ready) {
                return true;
            }
            let (answer, keep) = probe.look(request, status_below);
            met.extend(answer.map(|answer| (probe.backend, probe.id, answer)));
            keep
        });
        met
    }
}

impl Probe {
    /// The news, and whether there may be more.
    fn look(&mut self, request: &[u8], status_below: u16) -> (Option<Answer>, bool) {
        if self.connected {
            let mut answer = [0_u8; 512];
            return match recv(&self.socket, &mut answer, RecvFlags::empty()) {
                Err(Errno::WOULDBLOCK | Errno::INTR) => (None, true),
                Ok((0, _)) | Err(_) => (Some(Answer::Closed), false),
                Ok((length, _)) => {
                    let good = status(answer.get(..length).unwrap_or_default()) < status_below;
                    (Some(if good { Answer::Answered } else { Answer::Bad }), false)
                }
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

/// What says something of the host, and what says something of this one only.
fn answer_of(error: Errno) -> Answer {
    match error {
        Errno::CONNREFUSED => Answer::Refused,
        Errno::CONNRESET | Errno::PIPE => Answer::Closed,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Answer::Unreachable,
        _ => Answer::NotSent,
    }
}

/// The status of an answer; 0, which is always good, if it has none yet or is no HTTP.
fn status(answer: &[u8]) -> u16 {
    let code = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    code.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_where_there_is_one() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n"), 503);
        assert_eq!(status(b"HTTP/1.0 200 OK\r\n"), 200);
        assert_eq!((status(b"SSH-2.0-x"), status(b"HTTP/1.1 5")), (0, 0));
    }

    #[test]
    fn trouble_of_our_own_says_nothing_of_the_backend() {
        assert_eq!(answer_of(Errno::MFILE), Answer::NotSent);
        assert_eq!(answer_of(Errno::ADDRNOTAVAIL), Answer::NotSent);
        assert_eq!(answer_of(Errno::HOSTUNREACH), Answer::Unreachable);
    }
}
