//! Judging a FIN or RST from a backend that the logger holds (design §5.1).

use cluster::control::Evidence;

/// What the backend sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Fin,
    /// RST.
    Reset,
}

/// How far the response in progress has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InProgress {
    /// Nothing is in progress.
    #[default]
    Nothing,
    /// A response whose end its framing tells.
    Framed,
    /// A response that ends with the connection.
    UntilClose,
}

/// What is known of the connection when the segment is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// The log does not tell where transactions begin, or the client has been told of the end already: nothing could
    /// be recovered.
    pub opaque: bool,
    /// Bytes before the FIN are missing from the log; the backend's kernel repeats them.
    pub gap_before_fin: bool,
    /// A whole or partial request without a complete response.
    pub request_pending: bool,
    /// The response in progress.
    pub response: InProgress,
    /// The last response said that the connection will be closed after it.
    pub closing: bool,
    /// The client has sent its FIN or RST.
    pub ended_before: bool,
}

/// What to do with the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The client may have it.
    Release,
    /// The client must not see it: the backend has failed this connection.
    Failure(Evidence),
    /// Only the backend's state can tell: serving means release.
    AskBackend,
    /// The segment overtook data; judge again when that has come.
    Wait,
}

/// Judges a held segment.
pub fn judge(end: End, situation: &Situation) -> Judgement {
    let evidence = match end {
        End::Fin => Evidence::PrematureFin,
        End::Reset => Evidence::PrematureReset,
    };
    match (end, situation) {
        (_, Situation { opaque: true, .. }) => Judgement::Release,
        (End::Fin, Situation { gap_before_fin: true, .. }) => Judgement::Wait,
        // The end may be one of the response's own, or, after the client's own FIN, of a server that drops what it is doing.
        (
            End::Fin,
            Situation { response: InProgress::UntilClose, .. }
            | Situation { ended_before: true, request_pending: true, .. },
        ) => Judgement::AskBackend,
        (
            _,
            Situation { response: InProgress::Framed | InProgress::UntilClose, .. }
            | Situation { request_pending: true, .. },
        ) => Judgement::Failure(evidence),
        (_, Situation { closing: true, .. } | Situation { ended_before: true, .. }) => Judgement::Release,
        _ => Judgement::AskBackend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{AskBackend, Failure, Release, Wait};

    const IDLE: Situation = Situation {
        opaque: false,
        gap_before_fin: false,
        request_pending: false,
        response: InProgress::Nothing,
        closing: false,
        ended_before: false,
    };
    const FIN: Judgement = Failure(Evidence::PrematureFin);
    const RESET: Judgement = Failure(Evidence::PrematureReset);

    fn both(situation: Situation) -> (Judgement, Judgement) {
        (judge(End::Fin, &situation), judge(End::Reset, &situation))
    }

    #[test]
    fn response_in_progress_is_premature() {
        let response = InProgress::Framed;
        assert_eq!(both(Situation { response, request_pending: true, ..IDLE }), (FIN, RESET));
    }

    #[test]
    fn request_without_response_is_premature() {
        assert_eq!(both(Situation { request_pending: true, ..IDLE }), (FIN, RESET));
    }

    #[test]
    fn a_fin_after_the_clients_own_is_premature_only_from_a_dead_backend() {
        assert_eq!(
            both(Situation { request_pending: true, ended_before: true, ..IDLE }),
            (AskBackend, RESET)
        );
    }

    #[test]
    fn pipelined_request_after_a_closing_response_is_premature() {
        assert_eq!(both(Situation { request_pending: true, closing: true, ..IDLE }), (FIN, RESET));
    }

    #[test]
    fn close_announced_is_released() {
        assert_eq!(both(Situation { closing: true, ..IDLE }), (Release, Release));
    }

    #[test]
    fn answer_to_the_clients_fin_is_released() {
        assert_eq!(both(Situation { ended_before: true, ..IDLE }), (Release, Release));
    }

    #[test]
    fn idle_keep_alive_needs_a_second_opinion() {
        assert_eq!(both(IDLE), (AskBackend, AskBackend));
    }

    #[test]
    fn until_close_body_needs_a_second_opinion_and_no_reset_ends_it() {
        let response = InProgress::UntilClose;
        assert_eq!(both(Situation { response, request_pending: true, ..IDLE }), (AskBackend, RESET));
    }

    #[test]
    fn fin_that_overtook_data_waits() {
        let situation = Situation { gap_before_fin: true, request_pending: true, ..IDLE };
        assert_eq!(both(situation), (Wait, RESET));
    }

    #[test]
    fn opaque_streams_are_let_alone() {
        let situation = Situation { opaque: true, request_pending: true, gap_before_fin: true, ..IDLE };
        assert_eq!(both(situation), (Release, Release));
    }
}
