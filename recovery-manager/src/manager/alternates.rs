//! Which backend may stand in for which.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::{BackendState, Cluster, PoolState};
use cluster::control::{ConnectionReport, Evidence};
use packet::Time;

use crate::equations::AlternateState;

use super::LoggerId;

/// Backends that are remembered at least after the configuration has stopped naming them.
const MIN_GONE: usize = 64;
/// A backend that was called down because it was silent may only have been behind a bad link: for so long it is asked before
/// a client is reset. A dead one costs that client the handshake's repetitions.
const DOUBT: Duration = Duration::from_secs(10);

/// The backends of the cluster, what is known of them and what is asked of them.
#[derive(Debug)]
pub(super) struct Alternates {
    backends: BTreeMap<SocketAddr, Backend>,
    /// Recoveries that one of them stands in for at a time, at most.
    limit: usize,
}

#[derive(Debug, Default)]
struct Backend {
    /// The others of its pools.
    others: Vec<SocketAddr>,
    weight: u32,
    /// Where it keeps the application's state.
    state: PoolState,
    down: Option<Down>,
    /// Recoveries that it stands in for now.
    recovering: usize,
    /// By how much it is behind its share of turns; the sum over all is 0.
    behind: i64,
    /// What the operator wants of it.
    wanted: BackendState,
}

/// A backend was called down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Down {
    /// The logger that last did.
    pub(super) by: LoggerId,
    /// Until then it may be that it is not: it was only silent.
    doubtful_until: Time,
}

impl Down {
    pub(super) fn new(by: LoggerId, evidence: Evidence, now: Time) -> Self {
        let silent =
            matches!(evidence, Evidence::HostSilent | Evidence::ApplicationTimeout | Evidence::Heartbeat);
        Self { by, doubtful_until: if silent { now + DOUBT } else { now } }
    }
}

/// What [`Alternates::choose`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    Take(SocketAddr),
    /// Those that may be asked stand in for as many as they may: one has to wait.
    Wait,
    /// There is none.
    Nobody,
}

/// Lower ones first: those that are up, and of these those that are not to be drained.
type Rank = (bool, BackendState);

impl Alternates {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let backend = |configured: &cluster::config::Backend| {
            let others = cluster.alternates(configured.address);
            let (weight, wanted) = (configured.weight, configured.state);
            let state = cluster.state_of(configured.address);
            (configured.address, Backend { others, weight, state, wanted, ..Backend::default() })
        };
        let limit = cluster.recovery.alternate_limit;
        Self { backends: cluster.backends.values().map(backend).collect(), limit }
    }

    /// Takes another configuration. A backend that it does not name stands in for nobody any more; the others of its pools
    /// stand in for it.
    pub(super) fn reload(&mut self, cluster: &Cluster) {
        let before = std::mem::replace(self, Self::new(cluster));
        for (address, old) in before.backends {
            // What is wanted of it comes from the proxy.
            let kept = match self.backends.remove(&address) {
                Some(Backend { others, weight, state, .. }) => Backend { others, weight, state, ..old },
                None => Backend { wanted: BackendState::Maintenance, ..old },
            };
            self.backends.insert(address, kept);
        }
        self.forget_gone(cluster);
    }

    /// Of those that no configuration names any more, as many as there are others are remembered: the latest failures of
    /// their connections can still be recovered.
    fn forget_gone(&mut self, cluster: &Cluster) {
        let configured: Vec<SocketAddr> = cluster.backends.values().map(|backend| backend.address).collect();
        let mut room = configured.len().max(MIN_GONE);
        self.backends.retain(|address, backend| {
            let stays = configured.contains(address) || backend.recovering > 0 || room > 0;
            room = room.saturating_sub(usize::from(!configured.contains(address)));
            stays
        });
    }

    /// What the operator wants of the backends.
    pub(super) fn want(&mut self, wanted: &[(SocketAddr, BackendState)]) {
        for (address, state) in wanted {
            if let Some(backend) = self.backends.get_mut(address) {
                backend.wanted = *state;
            }
        }
    }

    /// What an alternate of this connection's backend has of its state.
    pub(super) fn state_for(&self, report: &ConnectionReport) -> AlternateState {
        let backend = self.backends.get(&report.flow.backend);
        AlternateState::of(backend.map_or(PoolState::Shared, |backend| backend.state), report.t_l)
    }

    /// The backend that is not `excluded` and has, for its weight, the fewest connections to stand in for; turn by turn, by weight, among
    /// equals. Drained ones only if no other is up, then those that may not be down after all, those in maintenance never.
    pub(super) fn choose(&mut self, failed: SocketAddr, excluded: &[SocketAddr], now: Time) -> Choice {
        let Some(Backend { others, .. }) = self.backends.get(&failed) else { return Choice::Nobody };
        let mut usable: Vec<(Rank, SocketAddr)> = others
            .iter()
            .filter(|other| !excluded.contains(other) && **other != failed)
            .filter_map(|other| Some((self.backends.get(other)?.rank(now)?, *other)))
            .collect();
        let Some(best) = usable.iter().map(|(rank, _)| *rank).min() else { return Choice::Nobody };
        usable.retain(|(rank, _)| *rank == best);
        let free = usable.into_iter().map(|(_, address)| address).filter(|it| self.has_room(*it));
        let free: Vec<SocketAddr> = free.collect();
        self.next_in_turn(&free).map_or(Choice::Wait, Choice::Take)
    }

    fn has_room(&self, backend: SocketAddr) -> bool {
        self.backends.get(&backend).is_some_and(|backend| backend.recovering < self.limit)
    }

    /// Of those with the least load, smooth weighted round robin: each gains its weight, who is furthest behind pays for all.
    fn next_in_turn(&mut self, free: &[SocketAddr]) -> Option<SocketAddr> {
        let backend = |address: &SocketAddr| self.backends.get(address);
        let least = free.iter().filter_map(backend).min_by(|one, other| one.load(other))?;
        let equal = |address: &&SocketAddr| {
            self.backends.get(address).is_some_and(|backend| backend.load(least) == Ordering::Equal)
        };
        let equals: Vec<SocketAddr> = free.iter().filter(equal).copied().collect();
        let mut total = 0;
        for address in &equals {
            let Some(backend) = self.backends.get_mut(address) else { continue };
            backend.behind += i64::from(backend.weight);
            total += i64::from(backend.weight);
        }
        let behind = |address: &&SocketAddr| self.backends.get(address).map(|backend| backend.behind);
        let chosen = *equals.iter().max_by_key(behind)?;
        self.backends.get_mut(&chosen)?.behind -= total;
        Some(chosen)
    }

    pub(super) fn begin(&mut self, alternate: SocketAddr) {
        if let Some(backend) = self.backends.get_mut(&alternate) {
            backend.recovering += 1;
        }
    }

    pub(super) fn end(&mut self, alternate: SocketAddr) {
        if let Some(backend) = self.backends.get_mut(&alternate) {
            backend.recovering = backend.recovering.saturating_sub(1);
        }
    }

    /// True if this changes whether it is up; a backend that is not configured never changes.
    pub(super) fn set(&mut self, backend: SocketAddr, down: Option<Down>) -> bool {
        let Some(backend) = self.backends.get_mut(&backend) else { return false };
        let changed = backend.down.is_some() != down.is_some();
        backend.down = down;
        changed
    }

    pub(super) fn down(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.backends.iter().filter(|(_, backend)| backend.down.is_some()).map(|(address, _)| *address)
    }

    pub(super) fn down_by(&self, backend: SocketAddr) -> Option<LoggerId> {
        self.backends.get(&backend)?.down.map(|down| down.by)
    }

    /// Every backend and whether it is up.
    pub(super) fn all(&self) -> Vec<(SocketAddr, bool)> {
        self.backends.iter().map(|(address, backend)| (*address, backend.down.is_none())).collect()
    }
}

impl Backend {
    /// `None`: it may not stand in for others.
    fn rank(&self, now: Time) -> Option<Rank> {
        let usable = self.wanted != BackendState::Maintenance
            && self.down.is_none_or(|down| now < down.doubtful_until);
        usable.then_some((self.down.is_some(), self.wanted))
    }

    /// Compares recoveries in proportion to weights.
    fn load(&self, other: &Self) -> Ordering {
        let cross = |one: &Self, other: &Self| one.recovering as u64 * u64::from(other.weight);
        cross(self, other).cmp(&cross(other, self))
    }
}
