//! A connection that is made again whenever it breaks.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use cluster::connection::{Connection, ConnectionError};
use cluster::identity::Identity;
use packet::Time;
use rustix::event::PollFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// For the connection and the proof who is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that breaks sooner than this is no success: the next attempts come ever later.
const STEADY: Duration = Duration::from_secs(1);

/// Where it goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// This node, at its address; we are the last.
    Node(String, SocketAddr, Identity),
    Unix(PathBuf),
}

#[derive(Debug)]
enum State {
    /// Not connected; the next attempt is due then.
    Waiting(Time),
    /// Not decided yet; given up then.
    Connecting(Connection, Time),
    /// Since then.
    Up(Connection, Time),
}

/// What came of handling it.
#[derive(Debug)]
pub(crate) enum Change<T> {
    None,
    Connected,
    Messages(Vec<T>),
    Disconnected,
}

#[derive(Debug)]
pub(crate) struct Link {
    /// For messages: who is there.
    name: String,
    target: Target,
    state: State,
    retry: Duration,
    /// The present trouble has been logged.
    told: bool,
}

impl Link {
    pub(crate) fn new(name: String, target: Target) -> Self {
        Self { name, target, state: State::Waiting(Time::from_nanos(0)), retry: FIRST_RETRY, told: false }
    }

    /// Shows another certificate with the next connection.
    pub(crate) fn replace_identity(&mut self, identity: &Identity) {
        if let Target::Node(_, _, us) = &mut self.target {
            us.clone_from(identity);
        }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Waiting(_) => None,
            State::Connecting(connection, _) | State::Up(connection, _) => {
                Some((connection.as_fd(), connection.interest()))
            }
        }
    }

    /// When [`Link::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Waiting(at) | State::Connecting(_, at) => Some(*at),
            State::Up(..) => None,
        }
    }

    /// Connects, or gives up connecting; true if it is connected now.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> bool {
        match &self.state {
            State::Waiting(at) if *at <= now => self.start(now),
            State::Connecting(_, at) if *at <= now => {
                self.fail(now, "no answer");
                false
            }
            _ => false,
        }
    }

    fn start(&mut self, now: Time) -> bool {
        match &self.target {
            Target::Unix(path) => match Connection::unix(path) {
                Ok(connection) => self.state = State::Up(connection, now),
                Err(error) => self.fail(now, &error.to_string()),
            },
            Target::Node(node, address, us) => match Connection::tls(*address, us, node) {
                Ok(connection) => self.state = State::Connecting(connection, now + CONNECT_TIMEOUT),
                Err(error) => self.fail(now, &error.to_string()),
            },
        }
        matches!(self.state, State::Up(..))
    }

    /// The descriptor is ready.
    pub(crate) fn handle_ready<T: DeserializeOwned>(&mut self, now: Time) -> Change<T> {
        let result = match std::mem::replace(&mut self.state, State::Waiting(now)) {
            State::Waiting(at) => {
                self.state = State::Waiting(at);
                return Change::None;
            }
            // Nothing is said before we have subscribed.
            State::Connecting(mut connection, until) => exchange::<T>(&mut connection).map(|_| {
                let connected = connection.is_up();
                self.state =
                    if connected { State::Up(connection, now) } else { State::Connecting(connection, until) };
                if connected { Change::Connected } else { Change::None }
            }),
            State::Up(mut connection, since) => {
                let messages = exchange(&mut connection).map(Change::Messages);
                self.state = State::Up(connection, since);
                messages
            }
        };
        result.unwrap_or_else(|error| {
            self.fail(now, &error.to_string());
            Change::Disconnected
        })
    }

    /// Sends, if it is connected; false if it broke.
    pub(crate) fn send(&mut self, message: &impl Serialize, now: Time) -> bool {
        let State::Up(connection, _) = &mut self.state else { return true };
        let sent = connection.send(message);
        if let Err(error) = &sent {
            self.fail(now, &error.to_string());
        }
        sent.is_ok()
    }

    fn fail(&mut self, now: Time, error: &str) {
        if matches!(self.state, State::Up(_, since) if now.since(since) >= STEADY) {
            self.retry = FIRST_RETRY;
            self.told = false;
        }
        if !self.told {
            tracing::warn!("no connection to {}, trying on: {error}", self.name);
        }
        self.told = true;
        self.state = State::Waiting(now + self.retry);
        self.retry = (self.retry * 2).min(LAST_RETRY);
    }
}

fn exchange<T: DeserializeOwned>(connection: &mut Connection) -> Result<Vec<T>, ConnectionError> {
    connection.handle_writable()?;
    connection.handle_readable()
}
