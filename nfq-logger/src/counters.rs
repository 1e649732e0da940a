//! What has happened, by name.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Events since the engine's start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64),+
        }

        impl Counters {
            /// Name and value of each.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

counters! {
    /// Logged and let pass, or held.
    segments,
    /// Dropped: not TCP, a fragment, a wrong length.
    unparsable,
    /// Dropped: a wrong checksum.
    bad_checksum,
    /// Dropped: flags that no TCP sends.
    nonsense,
    /// Dropped: neither end is a backend of this cluster.
    not_ours,
    /// Dropped: of a fenced flow.
    fenced_dropped,
    /// Of these, clients' data, which was logged for their recovery.
    fenced_logged,
    /// Let pass unlogged: resets without data from the client's side to a fenced backend.
    fenced_resets,
    /// Flows fenced.
    fences,
    /// Fences that an earlier logger has left in the log.
    fences_restored,
    /// Fences forgotten because there were too many.
    fences_forgotten,
    /// Fenced flows opened anew.
    fences_lifted,
    /// Flows forgotten because there were too many; their next segments are taken as they come.
    flows_forgotten,
    /// Segments with sequence numbers that were logged before.
    retransmissions,
    /// Segments behind a hole.
    out_of_order,
    /// Bodies of large files that are left out of the log.
    large_bodies,
    /// Orders to leave out what does not pass here (any more).
    large_bodies_unknown,
    /// Segments whose payload was left out of the log.
    left_out_segments,
    /// Its bytes.
    left_out_bytes,
    /// FIN or RST of a backend held.
    held,
    /// Held segments that the judge let pass.
    released,
    /// Held segments that the judge suppressed.
    suppressed,
    /// Held segments of flows that were fenced meanwhile, dropped.
    held_fenced,
    /// Held segments that passed because no judgement came in time.
    judgements_late,
    /// Held segments that passed because the last judge went away.
    judges_lost,
    /// Judgements on segments that are not held (any more).
    judgements_unknown,
    /// Dropped: repetitions of a FIN or RST that is held already.
    held_duplicates,
    /// Dropped: FIN or RST, while as many were held as may be.
    held_overflow,
}
