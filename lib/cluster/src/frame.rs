//! Messages on a byte stream: a `u32` length (little endian), then that many bytes of postcard.
//!
//! [`read`] and [`write`] serve blocking streams, [`Decoder`] and [`encode`] nonblocking ones. What arrives is not
//! trusted: a length is bounded before it is believed, and memory grows only with bytes that have arrived.

use std::io::{Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Longest message, in bytes, without its length field.
pub const MAX_FRAME: usize = 64 << 20;

const HEADER: usize = 4;

/// Why a message could not be sent or understood. The connection cannot be used any further.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("control connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than [`MAX_FRAME`].
    #[error(
        "control message of {0} bytes is longer than {MAX_FRAME}: the peer is not a resplice daemon, or too much was put into one message"
    )]
    TooLarge(usize),
    /// Not an encoding of the expected message.
    #[error("control message not understood ({0}): are both programs of the same version?")]
    Malformed(postcard::Error),
    /// The message is followed by bytes that do not belong to it.
    #[error("control message has {0} bytes too many: are both programs of the same version?")]
    Trailing(usize),
    /// The stream ended inside a message.
    #[error("control connection closed in the middle of a message")]
    Truncated,
}

/// One message, ready to be written.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; HEADER]).map_err(FrameError::Malformed)?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge(length));
    }
    frame.splice(..HEADER, (length as u32).to_le_bytes());
    Ok(frame)
}

/// Writes one message to a blocking stream.
pub fn write<T: Serialize + ?Sized>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    stream.flush()?;
    Ok(())
}

/// Reads one message from a blocking stream; `None` if it ended before the message began.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let header = read_up_to(stream, HEADER)?;
    if header.is_empty() {
        return Ok(None);
    }
    let length = announced(&header)?.ok_or(FrameError::Truncated)?;
    let body = read_up_to(stream, length)?;
    if body.len() < length {
        return Err(FrameError::Truncated);
    }
    decode(&body).map(Some)
}

/// Grows with what arrives, not with what was announced.
fn read_up_to(stream: &mut impl Read, length: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    stream.by_ref().take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The length field at the beginning of `bytes`, once it is whole.
fn announced(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    match u32::from_le_bytes(*header) as usize {
        length if length > MAX_FRAME => Err(FrameError::TooLarge(length)),
        length => Ok(Some(length)),
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body).map_err(FrameError::Malformed)? {
        (message, []) => Ok(message),
        (_, rest) => Err(FrameError::Trailing(rest.len())),
    }
}

/// Takes bytes as they arrive and gives whole messages.
///
/// Call [`next`](Self::next) until it gives `None` after each [`push`](Self::push): then at most one message is kept.
/// After an error the position in the stream is lost; every further call gives an error again.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more has arrived.
    // Not an iterator: the message's type is chosen per call.
    #[allow(clippy::should_implement_trait)]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = self.buffer.get(self.start..).unwrap_or_default();
        let Some(length) = announced(pending)? else { return Ok(None) };
        let Some(body) = pending.get(HEADER..HEADER + length) else { return Ok(None) };
        let message = decode(body)?;
        self.start += HEADER + length;
        Ok(Some(message))
    }

    /// Bytes received that do not make a whole message yet; not 0 at the end of a stream means that it was cut off.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Message = (u64, String, Vec<Vec<u8>>, Option<bool>);

    fn message() -> impl Strategy<Value = Message> {
        let blobs = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5);
        (any::<u64>(), ".{0,20}", blobs, any::<Option<bool>>())
    }

    fn all(decoder: &mut Decoder) -> Result<Vec<Message>, FrameError> {
        std::iter::from_fn(|| decoder.next().transpose()).collect()
    }

    proptest! {
        #[test]
        fn messages_survive_any_fragmentation(
            messages in prop::collection::vec(message(), 0..8),
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(piece);
                seen.extend(all(&mut decoder).unwrap());
                rest = tail;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn blocking_and_nonblocking_agree(messages in prop::collection::vec(message(), 0..8)) {
            let mut stream = Vec::new();
            for m in &messages { write(&mut stream, m).unwrap(); }
            let mut source = stream.as_slice();
            let seen: Vec<Message> = std::iter::from_fn(|| read(&mut source).unwrap()).collect();
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read::<Message>(&mut bytes.as_slice());
            let _ = read::<crate::control::FromLog>(&mut bytes.as_slice());
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            let _ = all(&mut decoder);
        }

        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut frame = (body.len() as u32).to_le_bytes().to_vec();
            frame.extend_from_slice(&body);
            let _ = read::<crate::control::ToProxy>(&mut frame.as_slice());
            let _ = read::<crate::control::FromLog>(&mut frame.as_slice());
            let _ = read::<crate::control::ManagerStatus>(&mut frame.as_slice());
        }
    }

    #[test]
    fn an_oversize_length_is_refused_at_once_and_again() {
        let mut decoder = Decoder::new();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next::<Message>(), Err(FrameError::TooLarge(_))));
        decoder.push(&encode(&1u8).unwrap());
        assert!(matches!(decoder.next::<Message>(), Err(FrameError::TooLarge(_))));
        assert!(matches!(read::<u8>(&mut [255u8; 9].as_slice()), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        let mut decoder = Decoder::new();
        decoder.push(&(MAX_FRAME as u32).to_le_bytes());
        assert!(decoder.next::<Message>().unwrap().is_none());
        assert!(decoder.buffer.capacity() < 1024);
    }

    #[test]
    fn the_end_of_the_stream_is_clean_only_between_messages() {
        let frame = encode(&7u64).unwrap();
        assert!(read::<u64>(&mut [].as_slice()).unwrap().is_none());
        for cut in 1..frame.len() {
            assert!(matches!(read::<u64>(&mut &frame[..cut]), Err(FrameError::Truncated)), "{cut}");
        }
    }

    #[test]
    fn leftover_bytes_in_a_frame_are_an_error() {
        let frame = [2, 0, 0, 0, 1, 1];
        assert!(matches!(read::<u8>(&mut frame.as_slice()), Err(FrameError::Trailing(1))));
    }

    #[test]
    fn too_much_in_one_message_is_refused_by_the_sender() {
        let huge = "x".repeat(MAX_FRAME);
        assert!(matches!(encode(huge.as_str()), Err(FrameError::TooLarge(_))));
    }
}
