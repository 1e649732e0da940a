//! The paper's equations 1–3 (§4.3).

use cluster::config::PoolState;
use packet::Seq;

/// What the alternate has of the application's state. Nothing tells it about single transactions, so it has that of all
/// or of none of a connection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlternateState {
    /// T_S: last transaction whose state the application there has applied; at most T_L and at most T_A.
    pub t_s: u32,
    /// T_A: last transaction whose state has arrived there.
    pub t_a: u32,
}

impl AlternateState {
    /// The state of an alternate that needs none, or has the same as the failed backend: T_A = T_S = T_L.
    pub fn level_with(t_l: u32) -> Self {
        Self { t_s: t_l, t_a: t_l }
    }

    /// As a pool's backends keep it.
    pub fn of(pool: PoolState, t_l: u32) -> Self {
        match pool {
            PoolState::Shared => Self::level_with(t_l),
            PoolState::Separate => Self { t_s: 0, t_a: 0 },
        }
    }
}

/// Equation 1: the client has not acknowledged all that the log has of the responses, so logged bytes
/// must be re-sent from Ack_CL on.
///
/// The paper's Ack_TL is the number of T_L's last byte, hence its `+ 1`; here `ack_tl` is the sequence
/// number *after* that byte, as it would be acknowledged.
#[allow(clippy::similar_names)] // The paper's names.
pub fn must_resend(ack_cl: Seq, ack_tl: Seq, p: u64) -> bool {
    ack_cl.before(logged_until(ack_tl, p))
}

/// The sequence number after the last logged response byte: Ack_TL + p. `p` counts 64 bits, sequence numbers wrap.
pub fn logged_until(ack_tl: Seq, p: u64) -> Seq {
    ack_tl + p as u32
}

/// Equation 2: T_SP, the first transaction on the re-spliced connection. 2³² after the last ordinal, never 0.
pub fn t_sp(t_l: u32) -> u64 {
    u64::from(t_l) + 1
}

/// Equation 3: T_R, the first transaction that runs on the alternate.
pub fn t_r(t_l: u32, t_a: u32) -> u64 {
    u64::from(t_l.min(t_a)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_resent_to_a_client_that_acknowledged_all() {
        assert!(!must_resend(Seq(1500), Seq(1000), 500));
    }

    #[test]
    fn one_missing_byte_of_t_l_plus_1_is_resent() {
        assert!(must_resend(Seq(1499), Seq(1000), 500));
    }

    #[test]
    fn missing_bytes_of_t_l_itself_are_resent() {
        assert!(must_resend(Seq(999), Seq(1000), 0));
    }

    #[test]
    fn resending_survives_the_sequence_wrap() {
        assert!(must_resend(Seq(u32::MAX), Seq(u32::MAX - 10), 20));
        assert!(!must_resend(Seq(9), Seq(u32::MAX - 10), 20));
    }

    #[test]
    fn responses_beyond_4_gib_count_modulo_the_sequence_space() {
        let p = (1 << 32) + 7;
        assert!(must_resend(Seq(1006), Seq(1000), p) && !must_resend(Seq(1007), Seq(1000), p));
    }

    #[test]
    fn the_splice_point_follows_t_l() {
        assert_eq!((t_sp(0), t_sp(7)), (1, 8));
    }

    #[test]
    fn the_last_ordinal_does_not_wrap() {
        assert_eq!((t_sp(u32::MAX), t_r(u32::MAX, u32::MAX)), (1 << 32, 1 << 32));
    }

    #[test]
    fn with_zero_lag_replay_starts_at_t_l_plus_1() {
        assert_eq!(t_r(7, 7), 8);
    }

    #[test]
    fn a_lagging_alternate_replays_from_t_a_plus_1() {
        assert_eq!(t_r(7, 4), 5);
        assert_eq!(t_r(7, 0), 1);
    }

    #[test]
    fn an_alternate_ahead_of_the_logger_starts_at_t_l_plus_1() {
        assert_eq!(t_r(7, 9), 8);
    }
}
