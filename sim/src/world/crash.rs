//! Daemons die at any step, and are started anew with what their shells keep.

use cluster::control::{ConnectionStatus, FromProxy, Outcome};
use nfq_splice::Action;

use super::*;
use crate::kernel::Entry;
use crate::scenario::Crash;

impl World {
    /// The daemon makes one more step. `true`: it has died at it.
    pub(super) fn dies(&mut self, daemon: Daemon) -> bool {
        let steps = self.daemon_steps.entry(daemon).or_default();
        *steps += 1;
        let step = *steps;
        let at_this =
            |crash: &&Crash| crash.daemon == daemon && matches!(crash.at, CrashAt::Step(at) if at == step);
        let Some(crash) = self.scenario.crashes.iter().find(at_this).copied() else { return false };
        self.crash(crash);
        true
    }

    /// Everything in its memory is lost, also what it was about to do; its sockets close.
    pub(super) fn crash(&mut self, crash: Crash) {
        let Crash { daemon, down, .. } = crash;
        let is_down = match daemon {
            Daemon::Proxy => &mut self.proxy.down,
            Daemon::Logger => &mut self.logger.down,
            Daemon::Transactionalizer => &mut self.reader.down,
            Daemon::Manager => &mut self.manager.down,
        };
        if std::mem::replace(is_down, true) {
            return;
        }
        let step = self.daemon_steps.get(&daemon).copied().unwrap_or_default();
        self.note(|| format!("CRASH of the {daemon:?} at its step {step}"));
        *self.tally.crashes.entry(format!("{daemon:?}")).or_default() += 1;
        match daemon {
            Daemon::Proxy => self.proxy_dies(),
            Daemon::Logger => self.logger.die(),
            Daemon::Transactionalizer => self.reader.die(),
            Daemon::Manager => {}
        }
        self.close_ends(daemon);
        self.after(down, Event::Start(daemon));
    }

    pub(super) fn start(&mut self, daemon: Daemon) {
        self.note(|| format!("the {daemon:?} is back"));
        match daemon {
            Daemon::Proxy => {
                self.proxy.life += 1;
                self.proxy_starts();
            }
            Daemon::Logger => {
                self.logger.life += 1;
                self.logger.restart(&self.scenario);
            }
            Daemon::Transactionalizer => {
                self.reader.life += 1;
                self.reader.restart(&self.scenario, self.now, self.logger.log.oldest());
                self.after(Duration::ZERO, Event::Read(self.reader.life));
            }
            Daemon::Manager => {
                self.manager.life += 1;
                self.manager.restart(&self.scenario, self.now);
                let life = self.manager.life;
                self.after(Duration::ZERO, Event::Connect(Channel::Orders, life));
                self.after(Duration::ZERO, Event::Connect(Channel::Reports, life));
            }
        }
    }

    /// Clients that the proxy cannot keep over its own death.
    fn proxy_dies(&mut self) {
        for connection in self.proxy.engine.status().connections {
            let kernel = &self.proxy.kernel;
            let parked = kernel.parked.contains_key(&connection.client);
            // Once nothing was owed any more it was kept, until both sides had all.
            let settled = self.proxy.settled.contains(&connection.client);
            let kept =
                parked || settled || kernel.entries.get(&connection.client).is_some_and(Entry::is_open);
            let ours = connection.client.ip() == client_host();
            if ours && !kept && !self.will_repeat(&connection) {
                self.excuse(connection.client, &format!("the proxy died while it was {}", connection.state));
                // A late copy of its first segment continues it nevertheless.
                if self.checks.has_acknowledged(connection.client) {
                    self.checks.forget_clock(connection.client);
                }
            }
        }
        while let Some(action) = self.proxy.engine.poll_action() {
            self.judge_untold(&action);
        }
    }

    /// A set-up goes on if the first segment that comes then begins with the client's first byte; also one that was about to be spliced.
    fn will_repeat(&self, connection: &ConnectionStatus) -> bool {
        let one_segment = |client: &Client| {
            client_address(client.port) == connection.client && client.habits.begins_with_one_segment()
        };
        let begins = matches!(&*connection.state, "syn-received" | "collecting" | "connecting");
        let spliced = matches!(&*connection.state, "spliced-kernel" | "spliced-userspace")
            && !self.recovered.contains(&connection.client);
        (begins || spliced)
            && !self.checks.has_acknowledged(connection.client)
            && self.clients.iter().any(one_segment)
            && self.scenario.links[0].is_clean()
    }

    /// A mismatch that the daemon had found, and died before it said so: its client is lost.
    pub(super) fn judge_untold(&mut self, action: &Action) {
        if let Action::Tell(FromProxy::Ended { id, outcome: outcome @ Outcome::Mismatch { .. } }) = action {
            self.judge_outcome(*id, outcome);
        }
    }
}
