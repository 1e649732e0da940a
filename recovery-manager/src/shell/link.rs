//! A connection that is made again whenever it breaks.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use packet::Time;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, ipproto, socket_with};

use super::peer::Peer;

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// An unanswered SYN is repeated after a second; rather begin anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that breaks sooner than this is no success: the next attempts come ever later.
const STEADY: Duration = Duration::from_secs(1);
/// A logger whose host died without a word is noticed after this time.
const SILENCE: Duration = Duration::from_secs(5);

/// Where it goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
enum State {
    Waiting(Time),
    Connecting(OwnedFd, Time),
    Up(Peer, Time),
}

/// What changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Connected,
}

#[derive(Debug)]
pub(crate) struct Link {
    /// For messages: who is there.
    name: String,
    target: Target,
    state: State,
    retry: Duration,
    most_unsent: usize,
    /// The present trouble has been logged.
    told: bool,
}

impl Link {
    pub(crate) fn new(name: String, target: Target, most_unsent: usize) -> Self {
        let state = State::Waiting(Time::from_nanos(0));
        Self { name, target, state, retry: FIRST_RETRY, most_unsent, told: false }
    }

    pub(crate) fn peer(&mut self) -> Option<&mut Peer> {
        if let State::Up(peer, _) = &mut self.state { Some(peer) } else { None }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Waiting(_) => None,
            State::Connecting(fd, _) => Some((fd.as_fd(), PollFlags::OUT)),
            State::Up(peer, _) if peer.is_waiting() => Some((peer.fd(), PollFlags::IN | PollFlags::OUT)),
            State::Up(peer, _) => Some((peer.fd(), PollFlags::IN)),
        }
    }

    /// When [`Link::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Waiting(at) | State::Connecting(_, at) => Some(*at),
            State::Up(..) => None,
        }
    }

    /// Connects, or gives up connecting.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> Change {
        match &self.state {
            State::Waiting(at) if *at <= now => match self.start() {
                Ok((fd, true)) => self.connected(fd, now),
                Ok((fd, false)) => {
                    self.state = State::Connecting(fd, now + CONNECT_TIMEOUT);
                    Change::None
                }
                Err(error) => self.fail(now, &error),
            },
            State::Connecting(_, at) if *at <= now => self.fail(now, &anyhow::anyhow!("no answer")),
            _ => Change::None,
        }
    }

    /// The connection attempt has been decided.
    pub(crate) fn handle_connecting(&mut self, now: Time) -> Change {
        let State::Connecting(fd, _) = &self.state else { return Change::None };
        let decided = sockopt::socket_error(fd).and_then(|decided| decided);
        match std::mem::replace(&mut self.state, State::Waiting(now)) {
            State::Connecting(fd, _) if decided.is_ok() => self.connected(fd, now),
            _ => self.fail(now, &decided.err().map_or_else(|| anyhow::anyhow!("closed"), anyhow::Error::from)),
        }
    }

    /// The connection broke.
    pub(crate) fn fail(&mut self, now: Time, error: &anyhow::Error) -> Change {
        if matches!(self.state, State::Up(_, since) if now.since(since) >= STEADY) {
            self.retry = FIRST_RETRY;
            self.told = false;
        }
        if !self.told {
            tracing::warn!(peer = %self.name, "not connected, trying on: {error:#}");
        }
        self.told = true;
        self.state = State::Waiting(now + self.retry);
        self.retry = (self.retry * 2).min(LAST_RETRY);
        Change::None
    }

    fn connected(&mut self, fd: OwnedFd, now: Time) -> Change {
        tracing::debug!(peer = %self.name, "connected");
        self.state = State::Up(Peer::new(fd, self.most_unsent), now);
        Change::Connected
    }

    /// A socket, and whether it is connected already.
    fn start(&self) -> Result<(OwnedFd, bool)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, result) = match &self.target {
            Target::Unix(path) => {
                let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let address = SocketAddrUnix::new(path).context("path of the socket is too long")?;
                let result = connect(&fd, &address);
                (fd, result)
            }
            Target::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
                set_options(&fd)?;
                let result = connect(&fd, address);
                (fd, result)
            }
        };
        match result {
            Ok(()) => Ok((fd, true)),
            Err(Errno::INPROGRESS) => Ok((fd, false)),
            Err(error) => Err(error.into()),
        }
    }
}

fn set_options(fd: &OwnedFd) -> Result<()> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(2))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    sockopt::set_tcp_user_timeout(fd, SILENCE.as_millis() as u32)?;
    Ok(())
}
