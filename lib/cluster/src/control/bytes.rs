//! How many bytes are written and read at once: one by one, a megabyte of a report takes milliseconds at each of its four ends, in which its
//! client waits. What is on the wire is the same.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// For `serde(with)`.
pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// For `serde(with)`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(Bytes)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::frame::{self, FrameError};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AtOnce(#[serde(with = "super")] Vec<u8>, u16);

    #[test]
    fn the_wire_has_what_it_would_have_one_by_one() {
        for length in [0, 1, 127, 128, 70_000] {
            let bytes: Vec<u8> = (0..length).map(|place: u32| place as u8).collect();
            let frame = frame::encode(&AtOnce(bytes.clone(), 7)).unwrap();
            assert_eq!(frame, frame::encode(&(bytes.clone(), 7_u16)).unwrap());
            assert_eq!(frame::read(&mut frame.as_slice()).unwrap(), Some(AtOnce(bytes, 7)));
        }
    }

    #[test]
    fn a_length_that_is_too_great_is_no_message() {
        let mut frame = frame::encode(&AtOnce(vec![1; 100], 7)).unwrap();
        frame[4] = 120;
        assert!(matches!(frame::read::<AtOnce>(&mut frame.as_slice()), Err(FrameError::Malformed(_))));
    }
}
