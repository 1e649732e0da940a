//! Backends fail, and come back.

use packet::TcpSegment;

use super::*;
use crate::addresses::backend_number;
use crate::scenario::Kind;

/// What is wrong with a backend.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    pub(super) silent: bool,
    pub(super) killed: bool,
    /// Now or once.
    pub(super) was_killed: bool,
    pub(super) frozen: bool,
    /// It has failed at least once.
    pub(super) failed: bool,
    /// Most response bytes that were logged of one connection.
    logged: usize,
}

impl World {
    /// A backend's segment is in the log: failures may wait for that.
    pub(super) fn note_response(&mut self, bytes: &[u8]) {
        let Ok(segment) = TcpSegment::parse(bytes) else { return };
        let Some(number) = backend_number(segment.source()) else { return };
        let host = &self.hosts[number + 1];
        let Some(initial) = host.initial(segment.source(), segment.destination()) else { return };
        let end = segment.seq() + segment.payload().len() as u32;
        let logged = end.since(initial + 1).max(0) as usize;
        let state = &mut self.backends[number];
        state.logged = state.logged.max(logged);
        let logged = state.logged;
        for index in 0..self.scenario.failures.len() {
            let failure = self.scenario.failures[index];
            let due =
                matches!(failure.when, When::Logged(bytes) if failure.backend == number && logged >= bytes);
            if due && !self.triggered[index] {
                self.fail(index);
            }
        }
    }

    pub(super) fn fail(&mut self, index: usize) {
        if self.ended || std::mem::replace(&mut self.triggered[index], true) {
            return;
        }
        let failure = self.scenario.failures[index];
        let number = failure.backend;
        self.note(|| format!("FAILURE of backend{number}: {:?}", failure.kind));
        *self.tally.failures.entry(format!("{:?}", failure.kind)).or_default() += 1;
        let state = &mut self.backends[number];
        state.failed = true;
        match failure.kind {
            Kind::Silent => state.silent = true,
            Kind::Frozen => state.frozen = true,
            Kind::Fin | Kind::Reset => {
                (state.killed, state.was_killed) = (true, true);
                self.servers[number].die(&mut self.hosts[number + 1], failure.kind == Kind::Reset);
                self.host_due[number + 1] = Some(self.now);
            }
        }
        if let Some(delay) = failure.back {
            self.after(delay, Event::Return(index));
        }
    }

    /// What it was silent about, it says now.
    pub(super) fn come_back(&mut self, index: usize) {
        let failure = self.scenario.failures[index];
        let number = failure.backend;
        self.note(|| format!("backend{number} is back"));
        let state = &mut self.backends[number];
        match failure.kind {
            Kind::Silent => state.silent = false,
            Kind::Frozen => state.frozen = false,
            Kind::Fin | Kind::Reset => {
                state.killed = false;
                self.servers[number].restart();
            }
        }
        self.host_due[number + 1] = Some(self.now);
        self.app_due[number + 1] = Some(self.now);
    }
}

impl World {
    /// The clients are gone: nothing fails any more, and no application stands still for hours.
    pub(super) fn thaw(&mut self) {
        self.ended = true;
        for number in 0..BACKENDS {
            self.backends[number].frozen = false;
            self.app_due[number + 1] = Some(self.now);
        }
    }
}
