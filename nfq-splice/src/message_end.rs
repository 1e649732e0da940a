//! Where an alternate's response ends by its own framing: one that is over before p bytes have come is not the one that the client
//! has seen, and nothing more would come to show it.

use http1::{Event, ResponseFramer};

/// Longest head, bytes: that of the log's parser was shorter.
const MAX_HEAD: usize = 1 << 20;

/// Follows one response.
pub(crate) struct MessageEnd {
    /// `None`: it cannot be read, or has no end but its connection's.
    framer: Option<ResponseFramer>,
}

impl MessageEnd {
    /// Of the response to a request that may be answered by a body.
    pub(crate) fn new() -> Self {
        let mut framer = ResponseFramer::new(MAX_HEAD);
        let expected = framer.expect("GET");
        Self { framer: expected.is_ok().then_some(framer) }
    }

    /// Takes the next bytes. `Some`: the response ends after so many of them.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let framer = self.framer.as_mut()?;
        let mut used = 0;
        loop {
            match framer.feed(bytes.get(used..).unwrap_or_default()) {
                Ok(step) if step.event == Event::NeedMore => return None,
                Ok(step) if step.event == Event::MessageEnd => return Some(used),
                Ok(step) => used += step.consumed,
                Err(_) => {
                    self.framer = None;
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_response_is_cut() {
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".as_slice();
        let long =
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd".as_slice();
        for response in [chunked, long] {
            let stream = [response, b"HTTP/1.1 200 OK\r\n".as_slice()].concat();
            for cut in 0..response.len() {
                let (one, other) = stream.split_at(cut);
                let mut end = MessageEnd::new();
                assert_eq!(end.find(one), None, "{cut}");
                assert_eq!(end.find(other), Some(response.len() - cut), "{cut}");
            }
        }
    }

    #[test]
    fn what_has_no_end_or_cannot_be_read_has_none() {
        for response in [
            &b"HTTP/1.1 200 OK\r\n\r\nabc"[..],
            b"no response at all\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let mut end = MessageEnd::new();
            assert_eq!((end.find(response), end.find(b"0\r\n\r\n")), (None, None));
        }
    }
}
