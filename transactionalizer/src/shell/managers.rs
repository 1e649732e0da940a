//! The recovery managers that listen to us.

use std::collections::BTreeSet;

use cluster::control::{Evidence, FromLog, ToLog};
use cluster::identity::Identity;
use cluster::server::{Incoming, PeerId, Server};
use packet::Time;
use transactionalizer::engine::{Engine, Failure};

/// Managers, subscribed or not.
#[derive(Debug)]
pub(crate) struct Managers {
    server: Server,
    subscribed: BTreeSet<PeerId>,
    last_number: u64,
}

impl Managers {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, subscribed: BTreeSet::new(), last_number: 0 }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// From now on we show this to those that connect.
    pub(crate) fn replace_identity(&mut self, identity: Identity) {
        self.server.replace_identity(identity);
    }

    /// Closes connections that do not come to anything.
    pub(crate) fn drop_slow(&mut self) {
        self.server.drop_slow();
    }

    /// Takes what they say.
    pub(crate) fn handle_ready(&mut self, now: Time, engine: &mut Engine) {
        for incoming in self.server.handle_ready::<ToLog>() {
            match incoming {
                Incoming::Connected(_) => {}
                Incoming::Message(peer, message) => self.handle_message(peer, &message, now, engine),
                Incoming::Disconnected(peer, error) => {
                    if self.subscribed.remove(&peer) {
                        tracing::warn!("lost a recovery manager: {error}");
                    }
                }
            }
        }
        engine.handle_managers(self.subscribed.len());
    }

    fn handle_message(&mut self, peer: PeerId, message: &ToLog, now: Time, engine: &mut Engine) {
        match message {
            ToLog::Subscribe => {
                self.subscribed.insert(peer);
                tracing::info!("a recovery manager listens, {} in all", self.subscribed.len());
                for backend in engine.down() {
                    let number = self.next_number();
                    let message = FromLog::Failed {
                        number,
                        evidence: Evidence::Heartbeat,
                        noticed_us: 0,
                        backend_down: true,
                        backend,
                        connections: vec![],
                    };
                    self.server.send(peer, &message);
                }
                // An earlier manager, or the connection to it, may have died with them.
                for failure in engine.unended() {
                    let message = self.message(failure, now);
                    self.server.send(peer, &message);
                }
            }
            ToLog::Ended { client, backend } => engine.handle_ended(*client, *backend),
            // The operator's, on this host only.
            ToLog::Reload => {}
            ToLog::Status => self.server.send(peer, &FromLog::Status(engine.status())),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The message that tells of a failure, as of now.
    pub(crate) fn message(&mut self, failure: Failure, now: Time) -> FromLog {
        FromLog::Failed {
            number: self.next_number(),
            evidence: failure.evidence,
            noticed_us: now.since(failure.since).as_micros() as u64,
            backend_down: failure.backend_down,
            backend: failure.backend,
            connections: failure.connections,
        }
    }

    /// Tells all of them.
    pub(crate) fn tell(&mut self, message: &FromLog) {
        for peer in &self.subscribed {
            self.server.send(*peer, message);
        }
    }
}
