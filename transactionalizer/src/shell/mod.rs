//! Owns sockets, clock and threads; decides nothing.

mod judge_link;
mod log;
mod managers;
mod neighbours;
mod pauses;
mod prober;
mod story;
mod wait;
mod waker;

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::config::Logger;
use cluster::control::{Done, FromLog, ToLog, ToLogger};
use cluster::lock::DaemonLock;
use cluster::runtime::{Runtime, segment_log};
use cluster::server::{Incoming, Server};
use netfilter::raw::RawSender;
use packet::Time;
use transactionalizer::engine::{Action, Engine};

use daemon::{Configuration, now};
use judge_link::JudgeLink;
use log::{Bytes, Read, SegmentLog};
use managers::Managers;
use neighbours::Neighbours;
use pauses::Pauses;
use prober::Prober;
use wait::{Drained, MUCH};

/// Records read before the sockets are looked at again.
const RECORDS_AT_ONCE: usize = 512;

/// The daemon.
pub(crate) struct Shell {
    engine: Engine,
    log: SegmentLog,
    bytes: Bytes,
    next_open: Time,
    link: JudgeLink,
    managers: Managers,
    status: Server,
    prober: Prober,
    /// For probes on connections.
    sender: Option<RawSender>,
    neighbours: Option<Neighbours>,
    actions: Vec<Action>,
    /// Barriers that hold, each with the number of the record up to which the log must be read before it counts.
    barriers: Vec<(u64, u64)>,
    /// When the sockets were last looked at.
    looked: Time,
    pauses: Pauses,
    configuration: Configuration,
    node: String,
    stop: OwnedFd,
}

impl Shell {
    /// Opens everything that must be there; the segment log and the logger may come later.
    pub(crate) fn new(
        configuration: Configuration,
        node: &str,
        logger: &Logger,
        runtime: &Runtime,
        lock: &DaemonLock,
        stop: OwnedFd,
    ) -> Result<Self> {
        let status = Server::unix(lock)?;
        let cluster = configuration.cluster().clone();
        let proxies = cluster.proxies.iter().map(|(name, proxy)| (name.clone(), proxy.address)).collect();
        let managers = Server::tls(logger.control, configuration.identity(node)?, proxies)
            .with_context(|| format!("[logger.{node}] control must be an address of this host"))?;
        tracing::info!("recovery managers may connect to {}", logger.control);
        Ok(Self {
            log: SegmentLog::new(segment_log(&cluster.cluster.name, node)),
            bytes: Bytes::default(),
            next_open: Time::default(),
            link: JudgeLink::new(runtime.socket("nfq-logger")),
            managers: Managers::new(managers, runtime.clone()),
            status,
            prober: Prober::new(&cluster),
            sender: open_sender(),
            neighbours: Neighbours::open(),
            engine: Engine::new(cluster, now()),
            actions: vec![],
            barriers: vec![],
            looked: now(),
            pauses: Pauses::default(),
            configuration,
            node: node.to_owned(),
            stop,
        })
    }

    /// Until told to stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            self.open_log();
            self.note_barriers();
            let drained = self.read_log();
            self.pass_barriers();
            if drained != Drained::No {
                self.engine.handle_live(now());
                // Not before: what is held before the old records are read would be judged as one of them.
                if self.link.poll(now()) {
                    self.engine.fence_again(&mut self.actions);
                }
                self.engine.handle_fences(&self.link.poll_fenced(), now());
                // Not later: an answer that came since would be taken for silence.
                self.engine.handle_timers(self.looked, &mut self.actions);
                self.act();
            }
            if self.wait(drained)? {
                tracing::info!("stopping");
                return Ok(());
            }
        }
    }

    fn open_log(&mut self) {
        if self.log.is_open() || now() < self.next_open {
            return;
        }
        self.next_open = now() + Duration::from_millis(100);
        if let Some(bytes) = self.log.open() {
            self.bytes = bytes;
        }
    }

    /// Reads a while; says whether all has been read, and whether that was much.
    fn read_log(&mut self) -> Drained {
        let mut bytes = 0;
        for _ in 0..RECORDS_AT_ONCE {
            match self.log.next() {
                Read::End if bytes >= MUCH => return Drained::Much,
                Read::End => return Drained::Little,
                Read::Record(logged) => {
                    bytes += logged.packet.len();
                    self.engine.handle_record(&logged, &self.bytes, &mut self.actions);
                }
                Read::Fence => {}
                Read::Lapped(records) => self.engine.handle_lapped(records, &mut self.actions),
                Read::Lost(reason) => {
                    tracing::warn!("{reason}");
                    self.log.close();
                    self.bytes = Bytes::default();
                    self.engine.handle_replaced(&mut self.actions);
                }
            }
            if !self.actions.is_empty() {
                self.act();
            }
        }
        Drained::No
    }

    /// What passed before a fence held is in the log by now.
    fn note_barriers(&mut self) {
        if self.link.interest().is_none() {
            // The next logger is asked again.
            self.barriers.clear();
        }
        let passed = self.link.poll_passed();
        if !passed.is_empty() {
            let newest = self.log.newest();
            self.barriers.extend(passed.into_iter().map(|barrier| (barrier, newest)));
        }
    }

    /// Reports what waited for a fence, once the log has been read up to it.
    fn pass_barriers(&mut self) {
        let read = if self.log.is_open() { self.log.last() } else { u64::MAX };
        let due: Vec<u64> =
            self.barriers.iter().filter(|(_, newest)| *newest <= read).map(|(barrier, _)| *barrier).collect();
        self.barriers.retain(|(_, newest)| *newest > read);
        for barrier in due {
            self.engine.handle_fenced(barrier, now(), &self.bytes, &mut self.actions);
        }
        self.act();
    }

    fn act(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act_one(action);
            }
        }
    }

    fn act_one(&mut self, action: Action) {
        match action {
            Action::Release(hold) => self.link.send(&ToLogger::Release { hold }),
            Action::Suppress(hold) => self.link.send(&ToLogger::Suppress { hold }),
            Action::Fence(flow) => self.link.send(&ToLogger::Fence(flow)),
            Action::LeaveOut(body) => self.link.send(&ToLogger::LeaveOut(body)),
            Action::Barrier(barrier) => self.link.send_barrier(barrier),
            Action::Failed(failure) => {
                let message = self.managers.message(failure, now());
                self.managers.tell(&message);
                story::tell(&message);
            }
            Action::Swallowed(swallowed) => self.managers.tell(&FromLog::Swallowed(swallowed)),
            Action::BackendUp(backend) => {
                tracing::info!("backend {backend} answers again");
                self.managers.tell(&FromLog::BackendUp { backend });
            }
            Action::KeepAlive(packet) => {
                // One that is lost is one that is not answered; the others decide.
                if let Some(sender) = &mut self.sender {
                    let _ = sender.send(&packet);
                }
            }
            Action::Probe(backend, id, question) => {
                if let Some((backend, id, answer)) = self.prober.start(backend, id, question, now()) {
                    self.engine.handle_probe(backend, id, answer, now(), &mut self.actions);
                }
            }
            Action::Unreported(flow, evidence) => story::tell_unreported(&flow, evidence),
            Action::Note(text) => tracing::warn!("{text}"),
        }
    }

    fn handle_status(&mut self) {
        for incoming in self.status.handle_ready::<ToLog>() {
            match incoming {
                Incoming::Message(peer, ToLog::Status) => {
                    let mut status = self.managers.status(&self.engine);
                    status.counters.insert("lag_records_now".to_owned(), self.log.lag());
                    let longest = self.pauses.longest().as_micros() as u64;
                    status.counters.insert("longest_pause_us".to_owned(), longest);
                    self.status.send(peer, &FromLog::Status(status));
                }
                Incoming::Message(peer, ToLog::Reload) => {
                    let done = self.reload();
                    self.status.send(peer, &FromLog::Done(done));
                }
                _ => {}
            }
        }
    }

    fn reload(&mut self) -> Done {
        let Self { configuration, engine, managers, node, prober, .. } = self;
        let identity = configuration.identity(node);
        configuration.reload(|_, new| {
            managers.replace_identity(identity?);
            prober.configure(new);
            engine.handle_reload(new.clone(), now());
            Ok(())
        })
    }
}

/// Without it a host whose queue of new connections is full looks like a dead one.
fn open_sender() -> Option<RawSender> {
    let sender = RawSender::open(0);
    sender.inspect_err(|error| tracing::warn!("no probes on connections (CAP_NET_RAW?): {error}")).ok()
}
