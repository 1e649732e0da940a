//! One question to one daemon, with a deadline for the whole answer.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the sockets")]

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::connection::{Connection, ConnectionError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};

/// How long a daemon may take to say how it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to do something.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// This.
    Got(T),
    /// Nobody listens: the daemon does not run here.
    NotRunning,
    /// It runs, but did not answer, for this reason.
    Failed(String),
}

impl<T> Answer<T> {
    pub(crate) fn got(&self) -> Option<&T> {
        if let Self::Got(answer) = self { Some(answer) } else { None }
    }
}

/// Sends `question` to the daemon at `socket` and waits, as long as `patience` says, for the first message that `pick` takes.
pub(crate) fn ask<Q: Serialize, M: DeserializeOwned, A>(
    socket: &Path,
    question: &Q,
    patience: Duration,
    pick: impl Fn(M) -> Option<A>,
) -> Answer<A> {
    match exchange(socket, question, patience, pick) {
        Ok(answer) => Answer::Got(answer),
        Err(ConnectionError::Failed(Errno::NOENT | Errno::CONNREFUSED)) => Answer::NotRunning,
        Err(ConnectionError::Failed(Errno::AGAIN | Errno::TIMEDOUT)) => {
            Answer::Failed(format!("no answer within {} s: it hangs or is stopped", patience.as_secs()))
        }
        Err(ConnectionError::Failed(errno)) if permission(errno) => Answer::Failed(
            "permission denied: run this as the user that runs the daemon, usually root".to_owned(),
        ),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn permission(errno: Errno) -> bool {
    std::io::Error::from(errno).kind() == ErrorKind::PermissionDenied
}

fn exchange<Q: Serialize, M: DeserializeOwned, A>(
    socket: &Path,
    question: &Q,
    patience: Duration,
    pick: impl Fn(M) -> Option<A>,
) -> Result<A, ConnectionError> {
    let deadline = Instant::now() + patience;
    let mut connection = Connection::unix(socket)?;
    connection.send(question)?;
    loop {
        let ready = wait(&connection, deadline)?;
        if ready.contains(PollFlags::OUT) {
            connection.handle_writable()?;
        }
        if let Some(answer) = connection.handle_readable()?.into_iter().find_map(&pick) {
            return Ok(answer);
        }
    }
}

fn wait(connection: &Connection, deadline: Instant) -> Result<PollFlags, ConnectionError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::TIMEDOUT.into());
    }
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(connection, connection.interest())];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(fds[0].revents()),
        Err(error) => Err(error.into()),
    }
}
