//! One control connection between machines: TLS 1.3 with certificates of both sides, then a greeting of each side, then
//! messages. Without I/O: bytes of the network go in and come out.
//!
//! The greeting has the same form in all versions: `resplice`, the version of the messages (`u32`, little endian), the length
//! of a text (`u16`) and the text, in which one side says why it refuses the other. Nobody believes a message before the greeting;
//! a server greets when it has checked the certificate, so a client that was greeted is admitted.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use crate::frame::Decoder;
use crate::identity::{Identity, names};

/// Version of the messages in [`control`](crate::control). A change of any of them is a new version.
pub const VERSION: u32 = 6;

const MAGIC: &[u8; 8] = b"resplice";
const GREETING: usize = MAGIC.len() + 4 + 2;
/// Longest text of a greeting that is shown, bytes.
const TEXT: usize = 512;

/// Why the other side is not talked to.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The handshake or a record is wrong, or the other side says that ours is.
    #[error("control connection not secured: {0}")]
    Tls(#[from] rustls::Error),
    /// Its certificate is of this cluster, but of none of the nodes that may connect.
    #[error("the peer's certificate is not that of {0}")]
    Stranger(String),
    /// It sent something else than a greeting.
    #[error("the peer does not greet as a resplice daemon")]
    NotGreeted,
    /// It does not speak our version.
    #[error(
        "the peer speaks version {theirs} of the control messages, this program version {ours}: install the same release on both machines"
    )]
    Version {
        /// This program's.
        ours: u32,
        /// The peer's.
        theirs: u32,
    },
    /// It greeted with a refusal.
    #[error("refused by the peer: {0}")]
    Refused(String),
}

#[derive(Debug)]
pub(crate) struct Session {
    tls: rustls::Connection,
    version: u32,
    /// Which nodes it may be.
    expected: Vec<String>,
    /// Which of them it is.
    node: Option<String>,
    greeting: Vec<u8>,
    greeted: bool,
}

impl Session {
    /// To the node of that name.
    pub(crate) fn client(us: &Identity, node: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(node.to_owned())
            .map_err(|_| TlsError::Stranger(format!("{node}, which cannot be the name of a node")))?;
        let tls = ClientConnection::new(Arc::clone(&us.client), name)?;
        Ok(Self::new(tls.into(), us.version, vec![node.to_owned()]))
    }

    /// From one of these nodes.
    pub(crate) fn server(us: &Identity, expected: Vec<String>) -> Result<Self, TlsError> {
        let tls = ServerConnection::new(Arc::clone(&us.server))?;
        Ok(Self::new(tls.into(), us.version, expected))
    }

    fn new(tls: rustls::Connection, version: u32, expected: Vec<String>) -> Self {
        Self { tls, version, expected, node: None, greeting: Vec::new(), greeted: false }
    }

    /// Messages may pass: both sides know each other.
    pub(crate) fn is_up(&self) -> bool {
        self.greeted && self.node.is_some()
    }

    /// The node that the other side has proved to be.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Takes bytes of the network; what they carry goes into `decoder`. After an error, what [`write_to`](Self::write_to) still has
    /// tells the other side.
    pub(crate) fn receive(&mut self, mut bytes: &[u8], decoder: &mut Decoder) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            if self.tls.read_tls(&mut bytes).is_err() {
                return Err(rustls::Error::General("its buffer is full".to_owned()).into());
            }
            self.tls.process_new_packets()?;
            self.recognise()?;
            self.take(decoder)?;
        }
        Ok(())
    }

    /// The handshake is over: whose certificate was it? Then greet.
    fn recognise(&mut self) -> Result<(), TlsError> {
        if self.node.is_some() || self.tls.is_handshaking() {
            return Ok(());
        }
        let certificate = self.tls.peer_certificates().and_then(<[_]>::first);
        let known = self.expected.iter().find(|node| certificate.is_some_and(|it| names(it, node)));
        if let Some(node) = known {
            self.node = Some(node.clone());
            self.greet("");
            return Ok(());
        }
        let expected = match self.expected.as_slice() {
            [] => "any node".to_owned(),
            nodes => nodes.join(" or "),
        };
        self.greet(&format!("your certificate is not that of {expected}"));
        Err(TlsError::Stranger(expected))
    }

    fn greet(&mut self, refusal: &str) {
        let mut greeting = MAGIC.to_vec();
        greeting.extend_from_slice(&self.version.to_le_bytes());
        greeting.extend_from_slice(&(refusal.len() as u16).to_le_bytes());
        greeting.extend_from_slice(refusal.as_bytes());
        // Its buffer takes far more.
        let _ = self.tls.writer().write_all(&greeting);
    }

    fn take(&mut self, decoder: &mut Decoder) -> Result<(), TlsError> {
        let mut plain = [0; 16 << 10];
        // An orderly end shows as one of the socket.
        while let Ok(length @ 1..) = self.tls.reader().read(&mut plain) {
            let mut plain = plain.get(..length).unwrap_or_default();
            if !self.greeted {
                plain = self.take_greeting(plain)?;
            }
            decoder.push(plain);
        }
        Ok(())
    }

    /// What follows the greeting.
    fn take_greeting<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], TlsError> {
        let before = self.greeting.len();
        self.greeting.extend_from_slice(bytes.get(..bytes.len().min(GREETING + TEXT)).unwrap_or_default());
        let Some(Greeting { version, refusal, length }) = parse(&self.greeting)? else { return Ok(&[]) };
        if !refusal.is_empty() {
            return Err(TlsError::Refused(String::from_utf8_lossy(refusal).into_owned()));
        }
        if version != self.version {
            return Err(TlsError::Version { ours: self.version, theirs: version });
        }
        self.greeted = true;
        self.greeting = Vec::new();
        Ok(bytes.get(length - before..).unwrap_or_default())
    }

    /// Takes as many bytes of messages as there is room for; none before the greetings.
    pub(crate) fn send(&mut self, plain: &[u8]) -> usize {
        if self.is_up() { self.tls.writer().write(plain).unwrap_or(0) } else { 0 }
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Gives bytes for the network.
    pub(crate) fn write_to(&mut self, network: &mut impl Write) -> io::Result<usize> {
        self.tls.write_tls(network)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Greeting<'b> {
    version: u32,
    /// Empty: none.
    refusal: &'b [u8],
    /// Of all of it, bytes.
    length: usize,
}

/// A greeting, once it is whole. Another version may have a longer text: what is too long is cut.
fn parse(greeting: &[u8]) -> Result<Option<Greeting<'_>>, TlsError> {
    let magic = greeting.get(..MAGIC.len()).unwrap_or(greeting);
    if !MAGIC.starts_with(magic) {
        return Err(TlsError::NotGreeted);
    }
    let Some((version, rest)) = greeting.get(MAGIC.len()..).and_then(<[u8]>::split_first_chunk) else {
        return Ok(None);
    };
    let Some((length, text)) = rest.split_first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_le_bytes(*length));
    match text.get(..length.min(TEXT)) {
        Some(refusal) => {
            let version = u32::from_le_bytes(*version);
            Ok(Some(Greeting { version, refusal, length: GREETING + length }))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_believed_only_whole() {
        let whole =
            [b"resplice".as_slice(), &7_u32.to_le_bytes(), &2_u16.to_le_bytes(), b"no", b"rest"].concat();
        for cut in 0..GREETING + 2 {
            assert!(parse(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        assert_eq!(
            parse(&whole).unwrap(),
            Some(Greeting { version: 7, refusal: b"no", length: GREETING + 2 })
        );
    }

    #[test]
    fn anything_else_is_refused_at_its_first_wrong_byte() {
        assert!(matches!(parse(b"respliced"), Ok(None)));
        assert!(matches!(parse(b"resplicf"), Err(TlsError::NotGreeted)));
        assert!(matches!(parse(b"\0"), Err(TlsError::NotGreeted)));
    }
}
