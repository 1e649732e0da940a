//! What the backends have shown in their handshakes: clients are promised only what these can keep.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use packet::Time;

use crate::pass::LEAST_MSS;

/// A backend that declined ECN, or was silent when asked, is asked again after this time: it may have been configured anew.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What a backend said when it was last asked for ECN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EcnAnswer {
    yes: bool,
    at: Time,
}

/// By backend; of those that never spoke nothing is known. As many as the configuration has had.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    ecn: BTreeMap<SocketAddr, EcnAnswer>,
    mss: BTreeMap<SocketAddr, u16>,
    /// The least of these.
    least_mss: Option<u16>,
}

impl Learnt {
    /// It was asked for ECN.
    pub(crate) fn note_ecn(&mut self, now: Time, backend: SocketAddr, yes: bool) {
        self.ecn.insert(backend, EcnAnswer { yes, at: now });
    }

    /// It is known to speak ECN.
    pub(crate) fn speaks_ecn(&self, backend: SocketAddr) -> bool {
        self.ecn.get(&backend).is_some_and(|answer| answer.yes)
    }

    /// Whether to ask it on behalf of a client that is not promised anything.
    pub(crate) fn may_ask(&self, now: Time, backend: SocketAddr) -> bool {
        self.ecn.get(&backend).is_none_or(|answer| !answer.yes && now.since(answer.at) >= ASK_AGAIN)
    }

    /// It announced this MSS.
    pub(crate) fn note_mss(&mut self, backend: SocketAddr, mss: u16) {
        if self.mss.insert(backend, mss) != Some(mss) {
            self.least_mss = self.mss.values().min().copied();
        }
    }

    /// The smallest MSS among the backends.
    pub(crate) fn least_mss(&self) -> Option<u16> {
        self.least_mss.map(|mss| mss.max(LEAST_MSS))
    }

    /// Forgets backends that are not known any more.
    pub(crate) fn retain(&mut self, known: impl Fn(SocketAddr) -> bool) {
        self.ecn.retain(|backend, _| known(*backend));
        self.mss.retain(|backend, _| known(*backend));
        self.least_mss = self.mss.values().min().copied();
    }
}
