//! Control messages: any bytes, in any pieces, as any message.

use std::fmt::Debug;

use cluster::control::{
    FromLog, FromProxy, LoggerStatus, ManagerStatus, ToLog, ToLogger, ToManager, ToProxy,
};
use cluster::frame::{Decoder, encode, read};
use serde::{Serialize, de::DeserializeOwned};

use crate::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.choose(8);
    let cuts = input.cuts();
    let stream = input.rest();
    match kind {
        0 => all::<ToProxy>(stream, cuts),
        1 => all::<FromProxy>(stream, cuts),
        2 => all::<ToLog>(stream, cuts),
        3 => all::<FromLog>(stream, cuts),
        4 => all::<ToLogger>(stream, cuts),
        5 => all::<LoggerStatus>(stream, cuts),
        6 => all::<ToManager>(stream, cuts),
        _ => all::<ManagerStatus>(stream, cuts),
    }
}

fn all<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    stream: &[u8],
    cuts: impl Iterator<Item = usize>,
) {
    let mut blocking = stream;
    let whole: Vec<T> = std::iter::from_fn(|| read(&mut blocking).ok().flatten()).collect();
    assert_eq!(whole, in_pieces(stream, cuts), "cut elsewhere it is something else");
    for message in &whole {
        let again = encode(message).expect("what was received can be sent");
        assert_eq!(
            read::<T>(&mut again.as_slice()).expect("what was sent is understood").as_ref(),
            Some(message)
        );
    }
}

fn in_pieces<T: DeserializeOwned>(mut stream: &[u8], cuts: impl Iterator<Item = usize>) -> Vec<T> {
    let (mut decoder, mut found) = (Decoder::new(), Vec::new());
    for cut in cuts {
        let (piece, rest) = stream.split_at(cut.min(stream.len()));
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
        stream = rest;
        if stream.is_empty() {
            break;
        }
    }
    found
}
