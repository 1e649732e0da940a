//! Which recovery manager counts: the one of the latest epoch.

use cluster::control::FromProxy;
use cluster::server::PeerId;
use daemon::clock_us;

use super::Shell;

impl Shell {
    /// Its orders are taken from now on, and those of earlier managers are not.
    pub(super) fn subscribe(&mut self, peer: PeerId, epoch: u64) {
        match self.epoch.admit(epoch, clock_us()) {
            Ok(later) => {
                if later {
                    for earlier in std::mem::take(&mut self.subscribers) {
                        self.server.send(earlier, &FromProxy::Fenced { epoch });
                    }
                }
                self.subscribers.push(peer);
                self.server.send(peer, &FromProxy::Wanted(self.routing.wanted()));
            }
            Err(latest) => {
                tracing::warn!("refused a recovery manager of epoch {epoch}: {latest} counts");
                self.refuse(peer);
            }
        }
    }

    /// Whoever gives orders must have been let in.
    pub(super) fn refuse(&mut self, peer: PeerId) {
        self.fenced += 1;
        self.server.send(peer, &FromProxy::Fenced { epoch: self.epoch.latest() });
    }
}
