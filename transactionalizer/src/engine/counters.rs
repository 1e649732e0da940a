//! What happened how often.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Log records read.
    pub records: u64,
    /// Records that are no TCP packet.
    pub malformed: u64,
    /// Packets to or from no backend of the configuration.
    pub foreign: u64,
    /// Connections whose handshake was logged.
    pub opened: u64,
    /// Connections first seen in the middle.
    pub opened_in_the_middle: u64,
    /// Connections not followed because the table was full.
    pub untracked: u64,
    /// Responses fully logged.
    pub transactions: u64,
    /// Bodies that the logger was told to leave out of the log.
    pub large_bodies: u64,
    /// Acknowledgements of bytes that were never logged.
    pub implausible_acks: u64,
    /// Bytes that came again with other content, in segments.
    pub conflicts: u64,
    /// Held segments seen.
    pub held: u64,
    /// Held segments released.
    pub released: u64,
    /// Held segments suppressed.
    pub suppressed: u64,
    /// RSTs that their receiver ignores (RFC 5961).
    pub ignored_resets: u64,
    /// Backends' RSTs that had overtaken what was sent before them: dropped.
    pub resets_ahead: u64,
    /// Ends that needed a second opinion.
    pub opinions: u64,
    /// Bodies delimited by close that ended while the backend lived: released, for better or worse.
    pub ambiguous: u64,
    /// Probes sent.
    pub probes: u64,
    /// Connections reported as failed.
    pub failed: u64,
    /// Of these, those that could not be recovered.
    pub unrecoverable: u64,
    /// Connections that could not be recovered because more updates would have to be replayed than are kept.
    pub replay_limit_lost: u64,
    /// Connections whose requests were more than is kept, and are replayed from the log.
    pub uploads: u64,
    /// Pieces of them that were asked for and given.
    pub upload_pieces: u64,
    /// Pieces that could not be given: the log was overwritten, or their connection is forgotten.
    pub upload_pieces_lost: u64,
    /// Segments that clients sent into a fence, and of which recoveries were told.
    pub swallowed: u64,
    /// Those of which they were not, because there were too many: the client repeats them.
    pub swallowed_limit_dropped: u64,
    /// Connections that became unrecoverable because all together kept more than `recovery.kept_bytes`.
    pub kept_bytes_limit_lost: u64,
    /// Connections that failed with no manager to tell.
    pub unreported: u64,
    /// Connections given up because their response was far too late, though the application lived.
    pub timeouts: u64,
    /// Responses later than their kind ever was: the application is asked.
    pub suspicions: u64,
    /// Of these, those that came after all.
    pub suspicions_withdrawn: u64,
    /// Failures declared that were none: the backend went on as if nothing had happened.
    pub wrong_suspicions: u64,
    /// Ends that were taken for failures because others of the same process were.
    pub worker_ends: u64,
    /// Probes sent on connections.
    pub keep_alives: u64,
    /// Probes that could not be sent.
    pub probes_not_sent: u64,
    /// Neighbours and links that the kernel said it lost.
    pub lost_neighbours: u64,
    /// Backends declared down.
    pub backend_downs: u64,
    /// Failed clients forgotten because too many were remembered.
    pub forgotten: u64,
    /// Log records overwritten before they were read.
    pub lapped_records: u64,
    /// Connections that may have lost segments thereby.
    pub lapped_connections: u64,
}

impl Counters {
    /// By name, for status messages.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let value = serde_json::to_value(self).unwrap_or_default();
        serde_json::from_value(value).unwrap_or_default()
    }
}
