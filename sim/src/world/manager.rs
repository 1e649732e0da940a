//! The recovery manager's daemon: its engine between its connections.

use cluster::control::{FromLog, FromProxy, LoggedPiece, ToProxy};
use recovery_manager::{Action, Limits, LoggerId, Manager, Now};

use super::*;

pub(super) struct ManagerDaemon {
    pub(super) engine: Manager,
    pub(super) down: bool,
    pub(super) life: u64,
}

impl ManagerDaemon {
    pub(super) fn new(scenario: &Scenario, now: Time) -> Self {
        let engine = Manager::new(&scenario.cluster, Limits::default(), first_order(now));
        Self { engine, down: false, life: 0 }
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.engine.poll_timeout().filter(|_| !self.down)
    }

    /// All that it knew is lost.
    pub(super) fn restart(&mut self, scenario: &Scenario, now: Time) {
        self.engine = Manager::new(&scenario.cluster, Limits::default(), first_order(now));
        self.down = false;
    }
}

/// As the shell does: the time of day in microseconds, which never comes back.
fn first_order(now: Time) -> u64 {
    now.as_nanos() / 1000
}

impl World {
    fn manager_now(&self) -> Now {
        Now { monotonic: self.now, unix_ms: self.now.as_millis() }
    }

    pub(super) fn manager_timeout(&mut self) {
        self.manager.engine.handle_timeout(self.now);
        self.manage();
    }

    pub(super) fn manager_hears_log(&mut self, message: FromLog) {
        if self.dies(Daemon::Manager) {
            return;
        }
        if let FromLog::Piece(LoggedPiece { logged, bytes: Err(reason) }) = &message {
            self.excuse_reset(logged.flow.client, reason);
        }
        self.manager.engine.handle_log(self.manager_now(), LoggerId(0), message);
        self.manage();
    }

    pub(super) fn manager_hears_proxy(&mut self, message: FromProxy) {
        if self.dies(Daemon::Manager) {
            return;
        }
        self.manager.engine.handle_proxy(self.manager_now(), message);
        self.manage();
    }

    /// Carries out what the manager asks for.
    pub(super) fn manage(&mut self) {
        while let Some(action) = self.manager.engine.poll_action(self.now) {
            if let Action::Tell(story) = &action {
                self.note(|| format!("manager: {story}"));
                continue;
            }
            if self.dies(Daemon::Manager) {
                return;
            }
            match action {
                Action::ToProxy(message) => {
                    if let ToProxy::Reset { flow, reason, .. } = &message {
                        self.excuse_reset(flow.client, reason);
                    }
                    self.send(Channel::Orders, End::Server, &Message::ToProxy(message));
                }
                Action::ToLog(_, message) => {
                    self.send(Channel::Reports, End::Server, &Message::ToLog(message));
                }
                Action::Tell(_) => {}
            }
        }
    }
}
