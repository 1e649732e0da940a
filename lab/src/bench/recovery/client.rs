//! One client with one connection: does what its [`Transfer`] says and compares every byte.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::record::Fate;
use super::transfer::{Exchange, Transfer};
use crate::http::{Behaviour, Connection, End, Response, Wait, hex};
use crate::lab::Lab;

/// Longest time without a byte; what comes later is a hang.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(90);
/// Bytes written at once by a client that is held back.
const PIECE: usize = 16 << 10;

/// What became of a transfer.
#[derive(Debug)]
pub(super) struct Performed {
    pub(super) client: Option<SocketAddr>,
    pub(super) fate: Fate,
    /// Bytes of bodies, both ways.
    pub(super) bytes: u64,
    /// When the client waited for bytes, and how long; of each exchange, as far as it came.
    pub(super) waits: Vec<Vec<Wait>>,
    /// Updates that were answered.
    pub(super) acknowledged: Vec<String>,
    /// An update that was sent, and not answered.
    pub(super) unanswered: Option<String>,
    pub(super) took: Duration,
}

/// Who wants to know of a transfer while it runs.
pub(super) trait Observer {
    /// It has its connection.
    fn connected(&mut self, client: SocketAddr);
    /// So many bytes of bodies were sent and received.
    fn progressed(&mut self, bytes: u64);
}

/// How far a transfer came, and with whom.
struct Run<'a> {
    connection: Connection,
    transfer: &'a Transfer,
    documents: &'a dyn Fn(&str) -> Vec<u8>,
    observer: &'a mut dyn Observer,
    bytes: u64,
    waits: Vec<Vec<Wait>>,
    acknowledged: Vec<String>,
    unanswered: Option<String>,
}

/// Performs it from beginning to end, or to the first thing that is wrong.
pub(super) fn perform(
    lab: &Lab,
    transfer: &Transfer,
    documents: &dyn Fn(&str) -> Vec<u8>,
    observer: &mut dyn Observer,
) -> Performed {
    let started = Instant::now();
    let behaviour = Behaviour {
        receive_buffer: transfer.receive_buffer,
        rate: transfer.rate,
        patience: PATIENCE,
        limit: LIMIT,
        ..Behaviour::default()
    };
    let opened = lab.open(behaviour).and_then(|connection| Ok((connection.local()?, connection)));
    let (client, connection) = match opened {
        Ok(opened) => opened,
        Err(error) => return Performed::without_connection(format!("{error:#}"), started.elapsed()),
    };
    observer.connected(client);
    let mut run = Run {
        connection,
        transfer,
        documents,
        observer,
        bytes: 0,
        waits: Vec::new(),
        acknowledged: Vec::new(),
        unanswered: None,
    };
    let fate = run.all().unwrap_or_else(|error| Fate::Wrong(format!("{error:#}")));
    Performed {
        client: Some(client),
        fate,
        bytes: run.bytes,
        waits: run.waits,
        acknowledged: run.acknowledged,
        unanswered: run.unanswered,
        took: started.elapsed(),
    }
}

impl Performed {
    fn without_connection(why: String, took: Duration) -> Self {
        let (fate, none) = (Fate::Refused(why), Vec::new);
        Self { client: None, fate, bytes: 0, waits: Vec::new(), acknowledged: none(), unanswered: None, took }
    }
}

impl Run<'_> {
    fn all(&mut self) -> Result<Fate> {
        let transfer = self.transfer;
        if transfer.pipelined() {
            let heads: String = transfer.exchanges.iter().map(|exchange| exchange.head.as_str()).collect();
            if let Some(fate) = self.write(heads.as_bytes())? {
                return Ok(fate);
            }
        }
        for exchange in &transfer.exchanges {
            let sent = if transfer.pipelined() { None } else { self.send(exchange)? };
            if let Some(fate) = sent {
                return Ok(fate);
            }
            if let Some(fate) = self.receive(exchange)? {
                return Ok(fate);
            }
        }
        Ok(Fate::Right)
    }

    /// `Some` if that was the end.
    fn send(&mut self, exchange: &Exchange) -> Result<Option<Fate>> {
        if let Some(fate) = self.write(exchange.head.as_bytes())? {
            return Ok(Some(fate));
        }
        let (started, mut sent) = (Instant::now(), 0);
        for piece in exchange.body.chunks(PIECE) {
            if let Some(rate) = self.transfer.rate {
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
            if let Some(fate) = self.write(piece)? {
                return Ok(Some(fate));
            }
            sent += piece.len();
            self.bytes += piece.len() as u64;
            self.observer.progressed(self.bytes);
        }
        self.unanswered.clone_from(&exchange.update);
        Ok(None)
    }

    /// What could not be sent was not executed.
    fn write(&mut self, bytes: &[u8]) -> Result<Option<Fate>> {
        match self.connection.stream().write_all(bytes) {
            Ok(()) => Ok(None),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    Ok(Some(Fate::Reset { recoverable: true, after: "while sending".to_owned() }))
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    Ok(Some(Fate::Hung("while sending".to_owned())))
                }
                _ => Err(error.into()),
            },
        }
    }

    fn receive(&mut self, exchange: &Exchange) -> Result<Option<Fate>> {
        let (base, observer) = (self.bytes, &mut *self.observer);
        observer.progressed(base);
        let response = self.connection.receive(false, &mut |bytes| {
            observer.progressed(base + bytes);
            Ok(())
        });
        self.waits.push(self.connection.take_waits());
        let response = response?;
        self.bytes += response.body_bytes;
        let answer = exchange.answer(&self.transfer.session, self.documents);
        let fate = judge(exchange, &response, &answer);
        if fate.is_none()
            && let Some(name) = self.unanswered.take()
        {
            self.acknowledged.push(name);
        }
        Ok(fate)
    }
}

/// `None` if all is as it should be. What came of an answer that was cut must be right as well.
fn judge(exchange: &Exchange, response: &Response, answer: &[u8]) -> Option<Fate> {
    let begun = answer.get(..response.body_bytes as usize);
    let right = begun.is_some_and(|begun| hex(&Sha256::digest(begun)) == response.sha256);
    let after = || {
        format!("{} B of {} of the answer to {:?}", response.body_bytes, answer.len(), first_line(exchange))
    };
    if matches!(response.status, 502..=504) {
        return Some(Fate::Refused(format!("status {} after {}", response.status, after())));
    }
    if !right || !matches!(response.status, 0 | 200) {
        return Some(Fate::Wrong(format!("status {}, {}: {response:?}", response.status, after())));
    }
    match response.end {
        End::Complete if response.body_bytes == answer.len() as u64 => None,
        End::Complete => Some(Fate::Wrong(format!("too short: {}", after()))),
        End::Stalled => Some(Fate::Hung(after())),
        End::Closed | End::Reset => Some(Fate::Reset { recoverable: !exchange.once, after: after() }),
    }
}

fn first_line(exchange: &Exchange) -> &str {
    exchange.head.lines().next().unwrap_or_default()
}
