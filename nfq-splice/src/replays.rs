//! Updates that an alternate runs again before the transaction in progress (paper §4.3, `[T_R, T_L]`): one after the other, each
//! answer consumed whole and checked before the next request is sent. The client sees nothing of them.

use std::collections::VecDeque;

use cluster::control::{Replayed, Stretch};
use http1::{DEFAULT_MAX_HEAD, Event, ResponseFramer, ResponseFraming, ResponseHead};
use xxhash_rust::xxh3::Xxh3;

/// What is lacking of the replay.
pub(crate) struct Replays {
    /// The one that is being answered first.
    expected: VecDeque<Replayed>,
    framer: ResponseFramer,
    /// Of the answer in progress.
    body: Xxh3,
    body_bytes: u64,
    /// Bytes of the alternate's stream.
    taken: u64,
    /// Bytes of requests that may have been sent.
    allowed: usize,
}

impl Replays {
    /// `requests`: theirs, and others behind them.
    pub(crate) fn new(expected: &[Replayed], requests: &[u8]) -> Self {
        let mut replays = Self {
            expected: expected.iter().cloned().collect(),
            framer: ResponseFramer::new(DEFAULT_MAX_HEAD),
            body: Xxh3::default(),
            body_bytes: 0,
            taken: 0,
            allowed: 0,
        };
        replays.allow_next(requests);
        replays
    }

    /// All have been answered as they were before.
    pub(crate) fn is_done(&self) -> bool {
        self.expected.is_empty()
    }

    /// Bytes taken in so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Of the requests so many bytes may be sent by now.
    pub(crate) fn allowed(&self) -> usize {
        if self.is_done() { usize::MAX } else { self.allowed }
    }

    /// Takes the next bytes of the alternate's stream, and gives how many of them belong to the replay; `Err`: the alternate does
    /// not answer as the client was answered.
    pub(crate) fn push(&mut self, bytes: &[u8], requests: &[u8]) -> Result<usize, String> {
        let mut used = 0;
        while !self.is_done() {
            let step = self
                .framer
                .feed(bytes.get(used..).unwrap_or_default())
                .map_err(|refusal| self.differs(&format!("cannot be read: {}", refusal.reason)))?;
            let part = bytes.get(used..used + step.consumed).unwrap_or_default();
            used += step.consumed;
            self.taken += step.consumed as u64;
            match step.event {
                Event::NeedMore => break,
                Event::HeadPart => {}
                Event::Head(head) => self.check_head(&head)?,
                Event::Body => {
                    self.body.update(part);
                    self.body_bytes += part.len() as u64;
                }
                Event::MessageEnd => {
                    self.check_body()?;
                    self.expected.pop_front();
                    self.allow_next(requests);
                }
            }
        }
        Ok(used)
    }

    /// The next request may be sent.
    fn allow_next(&mut self, requests: &[u8]) {
        (self.body, self.body_bytes) = (Xxh3::default(), 0);
        let Some(next) = self.expected.front() else { return };
        let start = self.allowed;
        self.allowed = start.saturating_add(next.request_bytes);
        let line = requests.get(start..).unwrap_or_default();
        let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        // Never refused: one is outstanding at most.
        let _ = self.framer.expect(std::str::from_utf8(method).unwrap_or_default());
    }

    fn check_head(&mut self, head: &ResponseHead) -> Result<(), String> {
        let Some(expected) = self.expected.front() else { return Ok(()) };
        if head.interim() {
            return Ok(());
        }
        let (before, now) = (expected.status, head.status);
        let same = if expected.same.is_some() { before == now } else { before / 100 == now / 100 };
        if !same {
            return Err(self.differs(&format!("was answered {before} before, and {now} now")));
        }
        let ends = matches!(head.framing, ResponseFraming::UntilClose | ResponseFraming::Opaque);
        if ends || !head.keep_alive {
            return Err(self.differs("is answered with the connection's end"));
        }
        Ok(())
    }

    fn check_body(&self) -> Result<(), String> {
        let Some(logged) = self.expected.front().and_then(|expected| expected.same) else { return Ok(()) };
        let now = Stretch { bytes: self.body_bytes, hash: self.body.digest128() };
        if now == logged {
            return Ok(());
        }
        let lengths = format!("{} bytes before, {} now", logged.bytes, now.bytes);
        Err(self.differs(&format!("is deterministic, and answered with another body ({lengths})")))
    }

    fn differs(&self, how: &str) -> String {
        let name = self.expected.front().map_or("", |expected| expected.name.as_str());
        format!("replayed {name} {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    const REQUESTS: &[u8] = b"POST /a x1POST /b xHEAD /c GET /pending";
    const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";

    fn replayed(name: &str, request_bytes: usize, status: u16, same: Option<&[u8]>) -> Replayed {
        let same = same.map(|body| Stretch { bytes: body.len() as u64, hash: xxh3_128(body) });
        Replayed { name: name.to_owned(), request_bytes, status, same }
    }

    fn three() -> Vec<Replayed> {
        vec![
            replayed("a", 10, 201, Some(b"abc")),
            replayed("b", 9, 204, None),
            replayed("c", 8, 204, Some(b"")),
        ]
    }

    fn taken(expected: &[Replayed], stream: &str) -> Result<u64, String> {
        let mut replays = Replays::new(expected, REQUESTS);
        replays.push(stream.as_bytes(), REQUESTS)?;
        Ok(replays.taken())
    }

    #[test]
    fn answers_are_consumed_however_they_are_cut_and_nothing_behind_them() {
        let stream = [CREATED, CHUNKED, EMPTY].concat();
        for cut in 0..=stream.len() {
            let mut replays = Replays::new(&three(), REQUESTS);
            let (one, other) = stream.as_bytes().split_at(cut);
            assert_eq!(replays.push(one, REQUESTS), Ok(one.len()));
            assert_eq!(replays.push(&[other, b"HTTP/1.1 200 "].concat(), REQUESTS), Ok(other.len()), "{cut}");
            assert!(replays.is_done() && replays.taken() == stream.len() as u64);
        }
    }

    #[test]
    fn the_next_request_waits_for_the_answer_to_the_one_before() {
        let mut replays = Replays::new(&three(), REQUESTS);
        let mut allowed = vec![replays.allowed()];
        for answer in [CREATED, CHUNKED, EMPTY] {
            let (most, last) = answer.split_at(answer.len() - 1);
            replays.push(most.as_bytes(), REQUESTS).unwrap();
            assert_eq!(replays.allowed(), *allowed.last().unwrap());
            replays.push(last.as_bytes(), REQUESTS).unwrap();
            allowed.push(replays.allowed());
        }
        assert_eq!(allowed, [10, 19, 27, usize::MAX]);
    }

    #[test]
    fn nothing_to_replay_takes_nothing() {
        let mut replays = Replays::new(&[], REQUESTS);
        assert_eq!((replays.is_done(), replays.allowed()), (true, usize::MAX));
        assert_eq!(replays.push(b"HTTP/1.1 200 OK\r\n", REQUESTS), Ok(0));
    }

    #[test]
    fn a_deterministic_update_must_be_answered_alike() {
        let same = [replayed("request 1 (POST /a)", 10, 201, Some(b"abc"))];
        assert!(taken(&same, CREATED).is_ok());
        let why = taken(&same, &CREATED.replace("abc", "abX")).unwrap_err();
        assert!(why.starts_with("replayed request 1 (POST /a) is deterministic"), "{why}");
        let why = taken(&same, &CREATED.replace("201", "200")).unwrap_err();
        assert_eq!(why, "replayed request 1 (POST /a) was answered 201 before, and 200 now");
    }

    #[test]
    fn of_other_updates_the_class_of_the_status_must_agree() {
        let update = [replayed("u", 10, 201, None)];
        assert!(taken(&update, &CREATED.replace("201", "204").replace("3\r\n\r\nabc", "0\r\n\r\n")).is_ok());
        for status in ["409", "302", "503"] {
            assert!(taken(&update, &CREATED.replace("201", status)).is_err());
        }
    }

    #[test]
    fn an_answer_that_ends_with_the_connection_is_no_replay() {
        let update = [replayed("u", 10, 200, None)];
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert!(taken(&update, answer).unwrap_err().contains("the connection's end"));
        }
    }

    #[test]
    fn garbage_is_no_answer() {
        assert!(taken(&three(), "\0\0\0\r\n\r\n").unwrap_err().contains("cannot be read"));
    }
}
