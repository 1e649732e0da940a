//! HTTP/1.0 and 1.1 (RFC 9112), by the proxy's own parser.

use http1::{Event, RequestFramer, ResponseFramer, ResponseFraming};

use super::{Answer, Asked, Protocol, Refused, RequestEvent, ResponseEvent, Step};

#[derive(Debug)]
pub(super) struct Http {
    requests: RequestFramer,
    responses: ResponseFramer,
    switched: bool,
}

impl Http {
    pub(super) fn new() -> Self {
        Self {
            requests: RequestFramer::new(http1::DEFAULT_MAX_HEAD),
            responses: ResponseFramer::new(http1::DEFAULT_MAX_HEAD),
            switched: false,
        }
    }
}

impl Protocol for Http {
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused> {
        let step = self.requests.feed(bytes).map_err(|refusal| refusal.reason)?;
        let event = match step.event {
            Event::Head(head) => {
                self.responses.expect(head.method()).map_err(|refusal| refusal.reason)?;
                RequestEvent::Asked(Asked::Http(head))
            }
            Event::HeadPart | Event::Body => RequestEvent::Part,
            Event::MessageEnd => RequestEvent::End,
            Event::NeedMore => RequestEvent::NeedMore,
        };
        Ok(Step::new(step.consumed, event))
    }

    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused> {
        if std::mem::take(&mut self.switched) {
            return Ok(Step::new(0, ResponseEvent::Switched));
        }
        let step = self.responses.feed(bytes).map_err(|refusal| refusal.reason)?;
        let event = match step.event {
            Event::Head(head) => {
                self.switched = head.framing == ResponseFraming::Opaque;
                ResponseEvent::Answer(Answer {
                    status: head.status,
                    interim: head.interim(),
                    until_close: head.framing == ResponseFraming::UntilClose,
                    closing: !head.interim() && !head.keep_alive,
                    head: Some(head),
                })
            }
            Event::HeadPart => ResponseEvent::Head,
            Event::Body => ResponseEvent::Body,
            Event::MessageEnd => ResponseEvent::End,
            Event::NeedMore => ResponseEvent::NeedMore,
        };
        Ok(Step::new(step.consumed, event))
    }

    fn skip_body(&mut self, bytes: u64) -> bool {
        self.responses.skip(bytes)
    }
}
