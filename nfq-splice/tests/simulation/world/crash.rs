//! The daemon dies at any step: with a packet in hand, between two of its actions; and comes back after a while.

use cluster::control::{ConnectionStatus, FromProxy, Outcome};
use nfq_splice::Action;

use super::*;

impl World {
    /// The daemon makes one more step. `true`: it has died at it.
    pub(super) fn dies_now(&mut self) -> bool {
        self.daemon_steps += 1;
        let step = self.daemon_steps;
        let due =
            self.scenario.crashes.iter().find(|crash| matches!(crash.at, CrashAt::Step(at) if at == step));
        let Some(down) = due.map(|crash| crash.down).filter(|_| !self.down) else { return false };
        self.crash(down);
        true
    }

    /// Everything in its memory is lost, also what it was about to do; its sockets close.
    pub(super) fn crash(&mut self, down: Duration) {
        if self.down {
            return;
        }
        let step = self.daemon_steps;
        self.note(|| format!("CRASH of the daemon at its step {step}"));
        self.crashes += 1;
        for connection in self.engine.status().connections {
            let parked =
                self.kernel.parked.contains_key(&connection.client) || self.is_kept_fast(connection.client);
            let kept = parked || self.kernel.entries.get(&connection.client).is_some_and(Entry::is_open);
            let ours = connection.client.ip() == client_host();
            if ours && !kept && !self.will_repeat(&connection) {
                let why = format!("the daemon died while it was {}", connection.state);
                self.excuses.insert(connection.client, why);
                // A late copy of its first segment continues it nevertheless.
                if self.checks.has_acknowledged(connection.client) {
                    self.checks.forget_clock(connection.client);
                }
            }
        }
        while let Some(action) = self.engine.poll_action() {
            self.judge_untold(&action);
        }
        self.session += 1;
        self.leave_answers();
        self.engine = self.start_engine();
        self.deferred = false;
        self.down = true;
        self.schedule(self.now + down, Event::Restart);
        self.schedule(self.now + self.scenario.control_delay, Event::Disconnected);
    }

    /// A set-up goes on if the first segment that comes then begins with the client's first byte: not the answer to a repeated
    /// SYN-ACK, or to what forged segments brought about.
    fn will_repeat(&self, connection: &ConnectionStatus) -> bool {
        let one_segment = |client: &Client| {
            client_address(client.port) == connection.client && client.habits.begins_with_one_segment()
        };
        matches!(&*connection.state, "syn-received" | "collecting" | "connecting")
            && !self.checks.has_acknowledged(connection.client)
            && self.clients.iter().any(one_segment)
            && self.scenario.links[0].is_clean()
            && self.scenario.forged == 0
            && !self.scenario.secrets_lost
    }

    /// A mismatch that the daemon had found, and died before it said so: its client is lost.
    pub(super) fn judge_untold(&mut self, action: &Action) {
        if let Action::Tell(FromProxy::Ended { id, outcome: outcome @ Outcome::Mismatch { .. } }) = action {
            self.judge_outcome(*id, outcome);
        }
    }

    /// As the shell starts: the table from conntrack; of others nobody's packets are queued before it.
    pub(super) fn restart(&mut self) {
        self.note(|| "the daemon is back".to_owned());
        self.down = false;
        let parked: Vec<Parked> = self.kernel.parked.values().copied().collect();
        let mut known: BTreeSet<_> = self.kernel.parked.keys().copied().collect();
        let mut young = self.replace_fast_path();
        young.retain(|(young, _)| known.insert(young.splice.client));
        for client in std::mem::take(&mut self.kernel.queued).difference(&known) {
            self.engine.handle_lost(*client);
        }
        for parked in parked {
            self.engine.handle_parked(self.now, &parked);
        }
        for (young, passed) in young {
            let client = young.splice.client;
            self.engine.handle_young(self.now, &young);
            self.tell_passed(client, passed);
            self.engine.handle_recalled(self.now, client);
        }
        let entries: Vec<KernelSplice> =
            self.kernel.entries.values().filter(|entry| entry.is_open()).map(|entry| entry.splice).collect();
        for entry in entries {
            self.speed_up(&entry);
            self.engine.handle_restored(self.now, &entry);
        }
        if self.scenario.secrets_lost {
            self.excuse_cookies();
        }
        self.tell_promise();
        self.schedule(self.now + self.scenario.control_delay, Event::Connected(self.session));
        self.act(false);
    }
}
