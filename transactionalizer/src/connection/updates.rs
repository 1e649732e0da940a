//! Answered updates, for an alternate that has not their effect (paper §4.3, `[T_R, T_L]`).

use std::net::SocketAddr;

use cluster::config::Recovery;
use cluster::control::{AnsweredUpdate, Updates};

use crate::request::Request;
use crate::response::Response;

use super::Connection;

/// What has been kept of a connection, and what more may be.
#[derive(Debug)]
pub(super) struct History {
    updates: Updates,
    /// The first transactions are of those again, replayed: so many of them are still to be answered.
    replaying: usize,
    /// Bytes of requests.
    bytes: usize,
    /// What [`Updates::bytes`] would say: it is asked with each segment.
    kept: usize,
    most_bytes: usize,
    most: usize,
    /// It is not complete, for this reason.
    lost: Option<&'static str>,
}

impl History {
    fn push(&mut self, update: AnsweredUpdate) {
        self.bytes += update.bytes.len();
        self.kept += update.bytes();
        self.updates.answered.push(update);
        if self.updates.answered.len() > self.most {
            self.lose("more updates were answered than recovery.replay_transactions");
        } else if self.bytes > self.most_bytes {
            self.lose("more bytes of answered updates than recovery.replay_bytes");
        }
    }

    fn lose(&mut self, reason: &'static str) {
        self.lost.get_or_insert(reason);
        self.updates.answered = Vec::new();
        (self.bytes, self.kept) = (0, 0);
    }
}

impl Connection {
    /// From its beginning on, answered updates are kept; `before`: those of the connection that this one continues, all of which
    /// are replayed on it first.
    pub fn keep_updates(&mut self, before: Option<Updates>, limits: &Recovery) {
        let updates = before.unwrap_or_default();
        self.updates = Some(Box::new(History {
            replaying: updates.answered.len(),
            bytes: updates.answered.iter().map(|update| update.bytes.len()).sum(),
            kept: updates.bytes(),
            most_bytes: limits.replay_bytes,
            most: limits.replay_transactions,
            lost: None,
            updates,
        }));
    }

    /// A transaction has ended.
    pub(super) fn note_update(&mut self, request: &Request, response: &Response) {
        let Some(history) = self.updates.as_deref_mut() else { return };
        if history.replaying > 0 {
            history.replaying -= 1;
        } else if history.lost.is_none() && !request.tags.read_only {
            if !request.is_kept() {
                return history.lose("an answered update was larger than recovery.request_bytes");
            }
            history.push(AnsweredUpdate {
                ordinal: request.ordinal,
                summary: request.summary.clone(),
                tags: request.tags,
                bytes: request.bytes().to_vec(),
                status: response.status,
                body: response.hashed_whole(),
            });
        }
    }

    /// Why the updates cannot be replayed.
    pub fn updates_lost(&self) -> Option<&'static str> {
        self.updates.as_ref()?.lost
    }

    /// For a report; they have run at this backend, too.
    pub(super) fn report_updates(&self) -> Option<Updates> {
        let mut updates = self.updates.as_ref()?.updates.clone();
        let backend: SocketAddr = self.backend_address.into();
        if !updates.ran_at.contains(&backend) {
            updates.ran_at.push(backend);
        }
        Some(updates)
    }

    pub(super) fn updates_kept(&self) -> usize {
        self.updates.as_ref().map_or(0, |history| size_of::<History>() + history.kept)
    }
}
