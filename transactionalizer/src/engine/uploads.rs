//! Requests of failed connections that are more than what is kept: they are read from the log again while they are replayed
//! (paper §4.3). What is kept here are positions, and their memory counts against `recovery.kept_bytes`.

use std::collections::HashMap;

use cluster::control::{Client, Flow, LoggedPiece, LoggedRequest, PIECE_BYTES};
use packet::{Seq, Time};

use crate::connection::{Connection, Upload};
use crate::spans::LogBytes;

use super::Engine;

/// Failed connections of one client whose requests may still be asked for: it may fail again while they are replayed.
const PER_CLIENT: usize = 8;

#[derive(Debug)]
struct Kept {
    flow: Flow,
    client_isn: Seq,
    upload: Upload,
    expires: Time,
}

/// By client, the latest failure last.
#[derive(Debug, Default)]
pub(super) struct Uploads(HashMap<Client, Vec<Kept>>);

impl Uploads {
    /// Keeps a failed connection's positions until `expires`, at least.
    pub(super) fn keep(&mut self, flow: Flow, connection: Connection, expires: Time) {
        let (client_isn, upload) = connection.into_upload();
        let of_client = self.0.entry(flow.client).or_default();
        if of_client.len() >= PER_CLIENT {
            of_client.remove(0);
        }
        of_client.push(Kept { flow, client_isn, upload, expires });
    }

    /// Nobody will ask for this client's any more.
    pub(super) fn forget(&mut self, client: Client) {
        self.0.remove(&client);
    }

    pub(super) fn expire(&mut self, now: Time) {
        self.0.retain(|_, of_client| {
            of_client.retain(|kept| now < kept.expires);
            !of_client.is_empty()
        });
    }

    fn find(&mut self, logged: &LoggedRequest) -> Option<&mut Kept> {
        let same = |kept: &&mut Kept| kept.flow == logged.flow && kept.client_isn.0 == logged.client_isn;
        self.0.get_mut(&logged.flow.client)?.iter_mut().find(same)
    }

    /// So many connections' are kept.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl Engine {
    /// Reads a part of a failed connection's requests again. Whoever asks goes on asking, so it is kept for as long again.
    pub fn handle_read(&mut self, logged: LoggedRequest, now: Time, log: &dyn LogBytes) -> LoggedPiece {
        let until = now + self.recovery_patience();
        let bytes = self.read_upload(&logged, until, log);
        self.counters.upload_pieces += u64::from(bytes.is_ok());
        self.counters.upload_pieces_lost += u64::from(bytes.is_err());
        LoggedPiece { logged, bytes }
    }

    fn read_upload(
        &mut self,
        logged: &LoggedRequest,
        until: Time,
        log: &dyn LogBytes,
    ) -> Result<Vec<u8>, String> {
        if logged.bytes > PIECE_BYTES as u64 {
            return Err(format!(
                "asked for {} bytes of a request at once, {PIECE_BYTES} are given",
                logged.bytes
            ));
        }
        let bytes = if let Some(kept) = self.uploads.find(logged) {
            kept.expires = kept.expires.max(until);
            kept.upload.read(logged.from, logged.bytes, log)
        } else {
            let open = self.connection(logged.flow).filter(|open| open.client_isn().0 == logged.client_isn);
            let open = open.ok_or("the transactionalizer has forgotten the request's bytes")?;
            open.read_upload(logged.from, logged.bytes, log)
        };
        bytes.ok_or_else(|| {
            "request bytes were overwritten in the log: logger.ring_bytes is too small".to_owned()
        })
    }
}
