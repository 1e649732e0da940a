//! What protocols of commands and answers have in common: what is to be said before the next bytes are looked at.

use super::{Answer, RequestEvent, ResponseEvent, Step};

/// Says the end of a request that `complete` announces, or that there is nothing to read. Otherwise `bytes` are to be read.
pub(super) fn before_request(complete: &mut bool, bytes: &[u8]) -> Option<Step<RequestEvent>> {
    if std::mem::take(complete) {
        return Some(Step::new(0, RequestEvent::End));
    }
    bytes.is_empty().then(|| Step::new(0, RequestEvent::NeedMore))
}

/// Where a server's stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Answering {
    /// Between two answers.
    #[default]
    Between,
    Within,
    /// An answer is complete, which is to be said.
    Complete,
    /// It speaks another protocol from here on.
    Switched,
}

impl Answering {
    /// What is to be said without any bytes: the end of an answer, or that the next one begins, which it does if there are `bytes` and
    /// they `begin` one. Otherwise they are to be read.
    pub(super) fn before(&mut self, bytes: &[u8], begin: bool) -> Option<Step<ResponseEvent>> {
        let event = match self {
            Self::Complete => {
                *self = Self::Between;
                ResponseEvent::End
            }
            Self::Switched => ResponseEvent::Switched,
            _ if bytes.is_empty() => ResponseEvent::NeedMore,
            Self::Between if begin => {
                *self = Self::Within;
                ResponseEvent::Answer(Answer::begun())
            }
            Self::Between | Self::Within => return None,
        };
        Some(Step::new(0, event))
    }

    /// What `taken` bytes read now are a part of.
    pub(super) fn part(self, taken: usize) -> Step<ResponseEvent> {
        let asked = self == Self::Within;
        Step::new(taken, if asked { ResponseEvent::Body } else { ResponseEvent::Unasked })
    }
}
