//! Requests that are more than what is kept: where they lie in the log, so that they can be replayed from it (paper §4.3).

use cluster::control::{ConnectionReport, LoggedRequest};
use packet::Seq;

use crate::kept::Share;
use crate::spans::{LogBytes, Record, Spans};

use super::Connection;

/// What was not kept of a failed connection's requests.
#[derive(Debug)]
pub struct Upload {
    spans: Spans,
    /// The spans are counted as long as they are there.
    _share: Share,
}

impl Upload {
    /// `length` bytes from stream offset `from` on; `None`: they are not in the log any more.
    pub fn read(&self, from: u64, length: u64, log: &dyn LogBytes) -> Option<Vec<u8>> {
        self.spans.read(from..from.checked_add(length)?, log)
    }
}

impl Connection {
    /// The client's data from stream offset `start` on lies in `record`. Noted is what is not kept, and what lies beyond a gap,
    /// because it may turn out not to be.
    pub(super) fn note_upload(&mut self, start: i64, length: usize, record: Record) {
        let kept_to = self.upload_start();
        let skip = (kept_to as i64 - start).max(0) as usize;
        if self.opaque.is_some() || skip >= length {
            return self.trim_upload();
        }
        let start = start.max(kept_to as i64) as u64;
        if self.upload.get_or_insert_default().insert(start, length - skip, record, skip).is_err() {
            self.lose("request bytes lie in too many segments");
        }
        self.trim_upload();
    }

    /// Forgets where bytes lie that are kept, or belong to answered requests.
    pub(super) fn trim_upload(&mut self) {
        let start = self.upload_start();
        if let Some(upload) = &mut self.upload {
            upload.trim(start);
            if upload.is_empty() {
                self.upload = None;
            }
        }
    }

    fn upload_start(&self) -> u64 {
        self.requests.spilled_from().unwrap_or(self.client.delivered())
    }

    /// Says where the end of the pending requests lies; `Err`: it cannot be replayed.
    pub(super) fn report_rest(
        &self,
        report: &mut ConnectionReport,
        log: &dyn LogBytes,
    ) -> Result<(), String> {
        let Some(from) = self.requests.spilled_from() else { return Ok(()) };
        let bytes = self.client.delivered().saturating_sub(from);
        if bytes == 0 {
            return Ok(());
        }
        let reaches = |upload: &&Spans| upload.end_from(from) >= self.client.delivered();
        let upload = self.upload.as_deref().filter(reaches).ok_or("request bytes are missing in the log")?;
        if upload.read(from..from + 1, log).is_none() {
            return Err("request bytes were overwritten in the log".to_owned());
        }
        let client_isn = self.client.isn().0;
        report.rest = Some(LoggedRequest { flow: self.flow(), client_isn, from, bytes });
        Ok(())
    }

    /// The same before the report, which an earlier transactionalizer may have made.
    pub fn read_upload(&self, from: u64, length: u64, log: &dyn LogBytes) -> Option<Vec<u8>> {
        self.upload.as_ref()?.read(from..from.checked_add(length)?, log)
    }

    /// What recovery may ask for after the report; the connection is over.
    pub fn into_upload(self) -> (Seq, Upload) {
        let Self { client, upload, mut share, .. } = self;
        let spans = upload.map(|upload| *upload).unwrap_or_default();
        share.set(spans.bytes());
        (client.isn(), Upload { spans, _share: share })
    }
}
