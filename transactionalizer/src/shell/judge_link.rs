//! The control connection to the logger, on which judgements and fences go.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use cluster::connection::{Connection, ConnectionError};
use cluster::control::{Flow, LoggerStatus, ToLogger};
use packet::Time;
use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;

/// Between attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// What an answer of the logger is about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Fences,
    Barrier(u64),
}

/// To the logger on this host, whenever it runs.
#[derive(Debug)]
pub(crate) struct JudgeLink {
    path: PathBuf,
    connection: Option<Connection>,
    next_attempt: Time,
    complained: bool,
    /// What the logger has not answered, in the order of its answers.
    unanswered: VecDeque<Asked>,
    /// Barriers that hold.
    passed: Vec<u64>,
    /// Flows that a logger has called fenced.
    fenced: Vec<Flow>,
}

impl JudgeLink {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: None,
            next_attempt: Time::default(),
            complained: false,
            unanswered: VecDeque::new(),
            passed: vec![],
            fenced: vec![],
        }
    }

    /// The descriptor to poll, if connected.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.connection.as_ref().map(|connection| (connection.as_fd(), connection.interest()))
    }

    /// When [`poll`](Self::poll) has something to do, if nothing arrives.
    pub(crate) fn due(&self) -> Option<Time> {
        self.connection.is_none().then_some(self.next_attempt)
    }

    /// Connects if it is time to; true if it is connected now and was not.
    pub(crate) fn poll(&mut self, now: Time) -> bool {
        if self.connection.is_some() || now < self.next_attempt {
            return false;
        }
        self.next_attempt = now + RETRY;
        let connected = Connection::unix(&self.path).and_then(|mut connection| {
            connection.send(&ToLogger::Judge)?;
            connection.send(&ToLogger::Fences)?;
            Ok(connection)
        });
        match connected {
            Ok(connection) => {
                tracing::info!("judging for the logger at {}", self.path.display());
                (self.connection, self.complained) = (Some(connection), false);
                self.unanswered.push_back(Asked::Fences);
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!("waiting for the logger at {}: {error}", self.path.display());
            }
            Err(_) => {}
        }
        self.connection.is_some()
    }

    /// Reads and writes what is possible.
    pub(crate) fn handle_ready(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let exchanged =
            connection.handle_writable().and_then(|()| connection.handle_readable::<LoggerStatus>());
        match exchanged {
            Ok(answers) => {
                for answer in answers {
                    match self.unanswered.pop_front() {
                        Some(Asked::Barrier(barrier)) => self.passed.push(barrier),
                        Some(Asked::Fences) => self.fenced.extend(answer.fenced),
                        None => {}
                    }
                }
            }
            Err(error) => self.disconnect(&error),
        }
    }

    /// What it was asked has to be asked of the next one, which may not have the fences.
    fn disconnect(&mut self, error: &ConnectionError) {
        tracing::warn!("lost the logger at {}: {error}", self.path.display());
        self.connection = None;
        self.unanswered.clear();
        self.passed.clear();
    }

    /// Flows that the logger had fenced when the connection to it was made.
    pub(crate) fn poll_fenced(&mut self) -> Vec<Flow> {
        std::mem::take(&mut self.fenced)
    }

    pub(crate) fn send(&mut self, message: &ToLogger) {
        let Some(connection) = &mut self.connection else { return };
        if let Err(error) = connection.send(message) {
            self.disconnect(&error);
        }
    }

    /// Asks the logger, if it is there, to say when everything sent so far is in force.
    pub(crate) fn send_barrier(&mut self, barrier: u64) {
        if self.connection.is_some() {
            self.unanswered.push_back(Asked::Barrier(barrier));
            self.send(&ToLogger::Status);
        }
    }

    /// Barriers that hold since the last call.
    pub(crate) fn poll_passed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.passed)
    }
}
