//! Length-prefixed records: a length in network order, then so many bytes. Each record of the client is a request, each of the
//! server the response to the next one.

use cluster::config;

use super::turns::Answering;
use super::{Asked, MAX_OUTSTANDING, Protocol, Refused, RequestEvent, ResponseEvent, Step};

/// One direction.
#[derive(Debug, Default)]
struct Stream {
    /// Bytes of the length that have come, and what they say so far.
    prefix: (u8, u64),
    /// Bytes of the record that have not come; none while its length is not known.
    left: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Records {
    length_bytes: u8,
    counts_itself: bool,
    max: u64,
    client: Stream,
    server: Stream,
    outstanding: usize,
    answering: Answering,
}

impl Records {
    pub(super) fn new(config: &config::Records) -> Self {
        Self {
            length_bytes: config.length_bytes,
            counts_itself: config.counts_itself,
            max: config.max_bytes,
            client: Stream::default(),
            server: Stream::default(),
            outstanding: 0,
            answering: Answering::default(),
        }
    }

    /// Takes bytes of the length; gives how many, and the record's once the length is known.
    fn take_length(&self, stream: &mut Stream, bytes: &[u8]) -> Result<(usize, Option<u64>), Refused> {
        let missing = usize::from(self.length_bytes - stream.prefix.0);
        let part = bytes.get(..missing.min(bytes.len())).unwrap_or_default();
        for byte in part {
            stream.prefix = (stream.prefix.0 + 1, stream.prefix.1 << 8 | u64::from(*byte));
        }
        if stream.prefix.0 < self.length_bytes {
            return Ok((part.len(), None));
        }
        let length = std::mem::take(&mut stream.prefix).1;
        let own = if self.counts_itself { u64::from(self.length_bytes) } else { 0 };
        let length = length.checked_sub(own).ok_or("record shorter than its own length")?;
        if length > self.max {
            return Err("record longer than service.records.max_bytes");
        }
        stream.left = Some(length);
        Ok((part.len(), Some(length)))
    }
}

impl Stream {
    /// Takes bytes of the record.
    fn take(&mut self, bytes: &[u8], left: u64) -> usize {
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.left = Some(left - taken as u64);
        taken
    }
}

impl Protocol for Records {
    fn feed_request(&mut self, bytes: &[u8]) -> Result<Step<RequestEvent>, Refused> {
        match self.client.left {
            Some(0) => {
                self.client.left = None;
                return Ok(Step::new(0, RequestEvent::End));
            }
            _ if bytes.is_empty() => return Ok(Step::new(0, RequestEvent::NeedMore)),
            Some(left) => return Ok(Step::new(self.client.take(bytes, left), RequestEvent::Part)),
            None => {}
        }
        let mut stream = std::mem::take(&mut self.client);
        let (taken, length) = self.take_length(&mut stream, bytes)?;
        self.client = stream;
        let Some(length) = length else { return Ok(Step::new(taken, RequestEvent::Part)) };
        if self.outstanding >= MAX_OUTSTANDING {
            return Err("too many requests without a response");
        }
        self.outstanding += 1;
        let asked =
            Asked::Command { verb: "RECORD".to_owned(), line: format!("RECORD {length}"), last: false };
        Ok(Step::new(taken, RequestEvent::Asked(asked)))
    }

    fn feed_response(&mut self, bytes: &[u8]) -> Result<Step<ResponseEvent>, Refused> {
        if let Some(step) = self.answering.before(bytes, self.outstanding > 0) {
            self.outstanding -= usize::from(matches!(step.event, ResponseEvent::End));
            return Ok(step);
        }
        let now = self.answering;
        if now == Answering::Between {
            return Err("response without a request");
        }
        let mut stream = std::mem::take(&mut self.server);
        let taken = match stream.left {
            Some(left) => stream.take(bytes, left),
            None => self.take_length(&mut stream, bytes)?.0,
        };
        if stream.left.take_if(|left| *left == 0).is_some() {
            self.answering = Answering::Complete;
        }
        self.server = stream;
        Ok(now.part(taken))
    }

    fn is_blank(&self, _: u8) -> bool {
        false
    }
}
