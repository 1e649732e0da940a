//! Judging a FIN or RST from a backend that the logger holds (design §5.1).

use cluster::control::Evidence;

/// What the backend sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Fin,
    /// RST.
    Reset,
    /// RST before bytes that the client lacks: the backend's kernel does not know the connection any more, and repeats nothing.
    Forgotten,
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
    /// The client has not acknowledged all that was logged, and has not reset.
    pub unacknowledged: bool,
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
    /// Behind it the backend repeats nothing of what the client lacks: judge again when the client has acknowledged that. Meanwhile the
    /// backend's state may tell that it has failed.
    AwaitClient,
}

/// Judges a held segment.
pub fn judge(end: End, situation: &Situation) -> Judgement {
    let evidence = match end {
        End::Fin => Evidence::PrematureFin,
        End::Reset | End::Forgotten => Evidence::PrematureReset,
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
        (End::Forgotten, _)
        | (
            _,
            Situation { response: InProgress::Framed | InProgress::UntilClose, .. }
            | Situation { request_pending: true, .. },
        ) => Judgement::Failure(evidence),
        (End::Reset, Situation { unacknowledged: true, .. }) => Judgement::AwaitClient,
        (_, Situation { closing: true, .. } | Situation { ended_before: true, .. }) => Judgement::Release,
        _ => Judgement::AskBackend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{AskBackend, AwaitClient, Failure, Release, Wait};

    const IDLE: Situation = Situation {
        opaque: false,
        gap_before_fin: false,
        request_pending: false,
        response: InProgress::Nothing,
        closing: false,
        ended_before: false,
        unacknowledged: false,
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
    fn a_forgotten_connection_whose_client_lacks_bytes_has_failed_however_it_stands() {
        let ended = Situation { closing: true, ended_before: true, ..IDLE };
        assert_eq!([ended, IDLE].map(|situation| judge(End::Forgotten, &situation)), [RESET, RESET]);
        assert_eq!(judge(End::Forgotten, &Situation { opaque: true, ..ended }), Release);
    }

    #[test]
    fn a_reset_waits_until_the_client_has_what_was_sent_before() {
        for situation in [Situation { closing: true, ..IDLE }, Situation { ended_before: true, ..IDLE }, IDLE]
        {
            let lacking = Situation { unacknowledged: true, ..situation };
            assert_eq!(judge(End::Reset, &lacking), AwaitClient);
            assert_eq!(judge(End::Fin, &lacking), judge(End::Fin, &situation));
        }
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
