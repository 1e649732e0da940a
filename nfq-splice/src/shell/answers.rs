//! What the fast path's program answers clients, renewed while this daemon lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::config::{Cluster, ProtocolName};
use netfilter::fast_path::{Answers, FastPath};
use nfq_splice::{Promise, SETUP_WINDOW, Secret};
use packet::Time;

/// The program answers so long without being told again: clients of a daemon that died get a connection that the next one continues,
/// if it comes soon.
const VALID: Duration = Duration::from_secs(5);
const RENEWED: Duration = Duration::from_secs(1);

/// Of the control thread.
pub(super) struct Answering {
    fast: Arc<FastPath>,
    answers: Answers,
    /// What each queue's engine wants promised.
    promises: Vec<Promise>,
    next: Time,
}

impl Answering {
    /// `None`: there is no fast path.
    pub(super) fn new(fast: Option<&Arc<FastPath>>, cluster: &Cluster, secret: &Secret) -> Option<Self> {
        let SocketAddr::V4(service) = cluster.service.address else { return None };
        let fast = fast?;
        let answers = Answers {
            service,
            key: secret.key(),
            lead: secret.lead(),
            mss: cluster.splice.mss,
            window_scale: cluster.splice.window_scale,
            window: SETUP_WINDOW as u16,
            // Of other protocols the server may be the one to speak first.
            takes_acks: cluster.service.protocol == ProtocolName::Http,
            until: Duration::ZERO,
            owned_until: Duration::ZERO,
        };
        Some(Self { fast: Arc::clone(fast), answers, promises: Vec::new(), next: Time::default() })
    }

    /// When [`Self::renew`] is due.
    pub(super) fn deadline(&self) -> Time {
        self.next
    }

    /// One engine has another wish; what is promised from now on: what all can keep, with the latest scale.
    pub(super) fn change(&mut self, queue: usize, promise: Promise, now: Time) -> Promise {
        if self.promises.len() <= queue {
            self.promises.resize(queue + 1, promise);
        }
        if let Some(place) = self.promises.get_mut(queue) {
            *place = promise;
        }
        let mss = self.promises.iter().map(|promise| promise.mss).min();
        let promise = Promise { mss: mss.unwrap_or(promise.mss), ..promise };
        self.answers = Answers { mss: promise.mss, window_scale: promise.window_scale, ..self.answers };
        self.renew(now);
        promise
    }

    /// This daemon is there; and clients are answered, once engines have said what they want promised.
    pub(super) fn renew(&mut self, now: Time) {
        self.next = now + RENEWED;
        let until = Duration::from_nanos(now.as_nanos()) + VALID;
        self.answers.owned_until = until;
        self.write(if self.promises.is_empty() { Duration::ZERO } else { until });
    }

    /// SYNs come to the queues from now on.
    pub(super) fn stop(&mut self) {
        self.answers.owned_until = Duration::ZERO;
        self.write(Duration::ZERO);
    }

    /// For operators.
    pub(super) fn counters(&self) -> [(String, u64); 3] {
        let answered = self.fast.answered().unwrap_or_default();
        [
            ("fast_path_syns_answered".to_owned(), answered.syns),
            ("fast_path_acks_taken".to_owned(), answered.acks),
            ("fast_path_handed_over".to_owned(), answered.handed_over),
        ]
    }

    fn write(&mut self, until: Duration) {
        self.answers.until = until;
        if let Err(error) = self.fast.answer(&self.answers) {
            tracing::debug!(%error, "the fast path does not answer clients");
        }
    }
}
