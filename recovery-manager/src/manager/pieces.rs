//! Pieces of large requests on their way from a logger to the proxy. The manager remembers nothing of them but how many it awaits:
//! one that is lost with a connection, or with a manager, the proxy asks for again.

use std::collections::BTreeMap;

use cluster::control::{Client, LoggedPiece, LoggedRequest, Rest, ToLog, ToProxy};

use super::{LoggerId, Manager};

/// Pieces that are awaited at a time: what a connection may have to hold of them is far less than its bound
/// ([`cluster::connection::MAX_OUTGOING`]).
const AT_ONCE: usize = 64;
/// Clients whose pieces wait for their turn; beyond it, the proxy asks again.
const WAITING: usize = 16_384;

/// By client: each has one at a time.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    awaited: BTreeMap<Client, LoggerId>,
    waiting: BTreeMap<Client, (LoggerId, LoggedRequest)>,
}

impl Pieces {
    /// So many are asked for and have not come.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// This logger's will not come.
    pub(super) fn forget(&mut self, logger: LoggerId) {
        self.awaited.retain(|_, of| *of != logger);
        self.waiting.retain(|_, (of, _)| *of != logger);
    }

    fn next(&mut self) -> Option<(LoggerId, LoggedRequest)> {
        if self.awaited.len() >= AT_ONCE {
            return None;
        }
        let (client, asked) = self.waiting.pop_first()?;
        self.awaited.insert(client, asked.0);
        Some(asked)
    }
}

impl Manager {
    /// The proxy needs more of a request.
    pub(super) fn ask_piece(&mut self, rest: &Rest) {
        let client = rest.logged.flow.client;
        let place = self.loggers.iter().position(|logger| logger.name == rest.logger && logger.connected);
        let Some(logger) = place.map(LoggerId) else { return self.count("log_messages_dropped") };
        if self.pieces.waiting.len() < WAITING {
            self.pieces.waiting.insert(client, (logger, rest.logged));
        }
        self.pieces.awaited.remove(&client);
        self.ask_next_pieces();
    }

    fn ask_next_pieces(&mut self) {
        while let Some((logger, logged)) = self.pieces.next() {
            self.count("pieces_asked");
            self.ask_log(logger, ToLog::Read(logged));
        }
    }

    /// A logger has answered.
    pub(super) fn pass_piece(&mut self, logger: LoggerId, piece: LoggedPiece) {
        let client = piece.logged.flow.client;
        if self.pieces.awaited.get(&client) == Some(&logger) {
            self.pieces.awaited.remove(&client);
        }
        if piece.bytes.is_err() {
            self.count("pieces_lost");
        }
        self.ask_proxy(ToProxy::Piece(piece));
        self.ask_next_pieces();
    }
}
