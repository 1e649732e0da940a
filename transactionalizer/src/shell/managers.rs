//! The recovery managers that listen to us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use cluster::control::{Evidence, FromLog, LogStatus, ToLog};
use cluster::identity::Identity;
use cluster::runtime::Runtime;
use cluster::server::{Incoming, PeerId, Server};
use daemon::{Epoch, clock_us};
use packet::Time;
use transactionalizer::engine::{Engine, Failure};
use transactionalizer::spans::LogBytes;

/// Managers, subscribed or not.
#[derive(Debug)]
pub(crate) struct Managers {
    server: Server,
    subscribed: BTreeSet<PeerId>,
    last_number: u64,
    /// Of each node's managers.
    epochs: BTreeMap<String, Epoch>,
    runtime: Runtime,
    /// Messages of managers that do not count.
    fenced: u64,
}

impl Managers {
    pub(crate) fn new(server: Server, runtime: Runtime) -> Self {
        Self {
            server,
            subscribed: BTreeSet::new(),
            last_number: 0,
            epochs: BTreeMap::new(),
            runtime,
            fenced: 0,
        }
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
    pub(crate) fn handle_ready(&mut self, now: Time, engine: &mut Engine, log: &dyn LogBytes) {
        for incoming in self.server.handle_ready::<ToLog>() {
            match incoming {
                Incoming::Connected(_) => {}
                Incoming::Message(peer, message) => self.handle_message(peer, &message, now, engine, log),
                Incoming::Disconnected(peer, error) => {
                    if self.subscribed.remove(&peer) {
                        tracing::warn!("lost a recovery manager: {error}");
                    }
                }
            }
        }
        engine.handle_managers(self.subscribed.len());
    }

    fn handle_message(
        &mut self,
        peer: PeerId,
        message: &ToLog,
        now: Time,
        engine: &mut Engine,
        log: &dyn LogBytes,
    ) {
        match message {
            ToLog::Subscribe { epoch } => self.subscribe(peer, *epoch, now, engine),
            ToLog::Ended { .. } | ToLog::Wanted(_) | ToLog::Read(_) if !self.subscribed.contains(&peer) => {
                self.fenced += 1;
            }
            ToLog::Wanted(wanted) => engine.handle_wanted(wanted, now),
            ToLog::Ended { client, backend } => engine.handle_ended(*client, *backend),
            ToLog::Read(logged) => {
                let piece = engine.handle_read(*logged, now, log);
                self.server.send(peer, &FromLog::Piece(piece));
            }
            // The operator's, on this host only.
            ToLog::Reload => {}
            ToLog::Status => self.server.send(peer, &FromLog::Status(self.status(engine))),
        }
    }

    fn subscribe(&mut self, peer: PeerId, epoch: u64, now: Time, engine: &Engine) {
        match self.admit(peer, epoch) {
            Ok(()) => {
                self.subscribed.insert(peer);
                tracing::info!("a recovery manager listens, {} in all", self.subscribed.len());
                for backend in engine.down() {
                    let message = self.down(backend);
                    self.server.send(peer, &message);
                }
                // An earlier manager, or the connection to it, may have died with them.
                for failure in engine.unended() {
                    let message = self.message(failure, now);
                    self.server.send(peer, &message);
                }
                for swallowed in engine.unended_swallowed() {
                    self.server.send(peer, &FromLog::Swallowed(swallowed.clone()));
                }
            }
            Err(latest) => {
                self.fenced += 1;
                tracing::warn!("refused a recovery manager of epoch {epoch}: {latest} counts");
                self.server.send(peer, &FromLog::Fenced { epoch: latest });
            }
        }
    }

    /// A later manager of the same node takes the place of the earlier ones.
    fn admit(&mut self, peer: PeerId, epoch: u64) -> Result<(), u64> {
        let node = self.server.node(peer).unwrap_or_default().to_owned();
        let latest = match self.epochs.get_mut(&node) {
            Some(latest) => latest,
            None => match Epoch::load(self.runtime.epoch(&format!("transactionalizer.{node}"))) {
                Ok(latest) => self.epochs.entry(node.clone()).or_insert(latest),
                Err(error) => {
                    tracing::error!("no recovery manager of {node} can be let in: {error:#}");
                    return Err(u64::MAX);
                }
            },
        };
        if latest.admit(epoch, clock_us())? {
            let Self { server, subscribed, .. } = self;
            let same = |other: &PeerId| server.node(*other) == Some(node.as_str());
            let earlier: Vec<PeerId> = subscribed.iter().filter(|other| same(other)).copied().collect();
            for other in earlier {
                subscribed.remove(&other);
                server.send(other, &FromLog::Fenced { epoch });
            }
        }
        Ok(())
    }

    /// The engine's, and what we know of managers.
    pub(crate) fn status(&self, engine: &Engine) -> LogStatus {
        let mut status = engine.status();
        status.counters.insert("managers_fenced".to_owned(), self.fenced);
        status.counters.insert("control_connections_refused".to_owned(), self.server.refused());
        status
    }

    fn down(&mut self, backend: SocketAddr) -> FromLog {
        FromLog::Failed {
            number: self.next_number(),
            evidence: Evidence::Heartbeat,
            noticed_us: 0,
            backend_down: true,
            backend,
            connections: vec![],
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
