//! What the kernel says of the entries by which it translates.

use std::time::Duration;

use cluster::control::Client;
use packet::{TcpSegment, Time, Translation};

use crate::action::{Action, Ended, EntryState, KernelSplice, Stage};
use crate::engine::Engine;
use crate::flow::{Flow, Splice, State};
use crate::leg::ClientLeg;

/// A SYN may wait in its queue so long: what the kernel knew when it came is then no longer true of a younger splice.
const FRESH_DELAY: Duration = Duration::from_secs(2);

/// When a connection was spliced is known so exactly.
const SPLICED_ERROR: Duration = Duration::from_millis(1);

/// An entry is in the kernel, and any earlier one of the same client gone, so long after it was asked for: with room to spare.
const SPLICED_BEFORE: Duration = Duration::from_secs(1);

impl Engine {
    /// The kernel knows no connection of this client, and that is no news of before the splice: it has ended.
    pub(crate) fn drop_ended(&mut self, client: Client) {
        let spliced = self.table.kernel_seen(client, self.core.now);
        if spliced.is_some_and(|seen| self.core.now.since(seen) >= FRESH_DELAY) {
            self.core.counters.count("port_reused");
            self.take(client);
        }
    }

    /// The kernel's answer to [`Action::Inspect`]: a SYN came on a connection that the kernel translates.
    pub fn handle_entry_state(&mut self, now: Time, client: Client, state: EntryState, syn: &[u8]) {
        self.core.now = now;
        let Ok(segment) = TcpSegment::parse(syn) else { return };
        if self.table.kernel_seen(client, now).is_none() {
            self.handle_packet(now, &mut syn.to_vec(), Stage::Tracked);
            return;
        }
        let Some(flow) = self.take(client) else { return };
        if state == EntryState::Open {
            self.core.challenge_by_backend(&flow, &segment);
            return self.put(flow);
        }
        self.core.counters.count("port_reused");
        self.core.act(Action::Unsplice(client));
        self.handle_syn(&segment);
    }

    /// The kernel would not take a splice: the connection goes on in userspace.
    pub fn handle_splice_failed(&mut self, now: Time, client: Client) {
        self.core.now = now;
        self.core.counters.count("kernel_splice_refused");
        // With its packets queued, as they may be still.
        self.core.actions.retain(|wanted| !matches!(wanted, Action::Resume(resumed) if *resumed == client));
        let window = self.table.window(client);
        if let Some(mut flow) = self.take(client) {
            if let State::Spliced(splice) = &mut flow.state {
                splice.kernel = false;
                splice.window = splice.window.or(window);
                splice.idle = self.core.busy();
                // Before its bytes go: a daemon that died in between would let them be said again.
                self.core.first(|core| core.translate_here(&mut flow));
            }
            self.put(flow);
        }
    }

    /// The kernel's entry of `client` is gone: the connection ended or timed out.
    pub fn handle_entry_destroyed(&mut self, now: Time, client: Client) {
        self.core.now = now;
        if let Some(flow) = self.take(client) {
            let ended = matches!(&flow.state, State::Spliced(splice) if splice.kernel);
            if ended {
                self.core.counters.count("connections_ended");
                self.core.stateless.spend(now, client, flow.began(now));
            } else {
                self.put(flow);
            }
        }
    }

    /// A packet that the fast path's program has handed over, as if it had been queued and dropped. A reset on a connection that the
    /// kernel translates ends it: its number is what the other side has acknowledged (RFC 5961 §3.2), and conntrack was not shown that.
    pub fn handle_handed_over(&mut self, now: Time, packet: &mut [u8]) {
        self.core.now = now;
        let Some((client, translation)) = self.reset_on_kernel_path(packet) else {
            self.handle_packet(now, packet, Stage::Tracked);
            return;
        };
        if let Some(flow) = self.take(client) {
            self.core.act(Action::Unsplice(client));
            self.core.pass(&flow, packet, &translation, Stage::Tracked);
            self.core.counters.count("connections_ended");
            self.core.stateless.spend(now, client, flow.began(now));
        }
    }

    /// Whose connection is reset, and how the reset is translated.
    fn reset_on_kernel_path(&mut self, packet: &[u8]) -> Option<(Client, Translation)> {
        let segment = TcpSegment::parse(packet).ok().filter(|segment| segment.flags().rst())?;
        let (client, from_client) = self.core.side_of(&segment);
        let translation = self.table.with(&mut self.core, client, |_, flow| match &flow.state {
            State::Spliced(splice) if splice.kernel && from_client => Some(splice.to_backend(&flow.leg)),
            State::Spliced(splice) if splice.kernel && segment.source() == splice.backend => {
                Some(splice.to_client(&flow.leg))
            }
            _ => None,
        });
        Some((client, translation.flatten()?))
    }

    /// An entry that was there when the daemon started.
    pub fn handle_restored(&mut self, now: Time, entry: &KernelSplice) {
        self.core.now = now;
        let splice = Splice::of(entry, self.core.busy());
        let options = packet::SynOptions {
            mss: None,
            window_scale: entry.window_scales.map(|(client, _)| client),
            sack_permitted: entry.sack_permitted,
            timestamp: entry.timestamps.map(|_| 0),
        };
        let leg =
            ClientLeg { announced_scale: splice.server_scale, ..self.core.client_leg(entry.client, options) };
        self.core.counters.count("connections_restored");
        if entry.window_scales.is_some() {
            self.core.learn_scale(splice.server_scale);
        }
        self.core.settings.routing.remember(entry.backend);
        self.put(Flow::spliced(leg, splice));
    }

    /// A client whose packets an earlier daemon translated itself, and that nobody has restored: it is refused.
    pub fn handle_lost(&mut self, client: Client) {
        self.core.counters.count("connections_lost");
        self.core.stateless.lose(client);
    }

    /// This client and a backend talk to each other, as far as is known.
    pub fn is_spliced(&self, client: Client) -> bool {
        self.table.is_in_userspace(client) || self.table.kernel_seen(client, self.core.now).is_some()
    }

    /// Clients whose connections the kernel translates.
    pub fn kernel_clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.table.kernel_clients()
    }

    /// Whether an entry of this client that ended between `begin` and `end` was that of its present connection.
    pub fn judge_ended(&self, client: Client, (begin, end): (Time, Time)) -> Ended {
        match self.table.kernel_seen(client, self.core.now) {
            Some(spliced) if spliced + SPLICED_BEFORE <= begin => Ended::Yes,
            Some(spliced) if spliced <= end + SPLICED_ERROR => Ended::Perhaps,
            Some(_) | None => Ended::No,
        }
    }
}
