//! The threads of the daemon. This one owns the control socket and the conntrack events, and hands each message to the shard
//! that owns the client; a shard for each queue does the rest.
#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns threads")]

mod answers;
mod asking;
mod entries;
mod fast;
mod kernel;
mod mailbox;
mod managers;
mod operator;
mod orders_file;
mod packets;
mod peers;
mod restored;
mod secret_file;
mod shard;
mod thread;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cluster::control::{Client, FromProxy, ProxyStatus};
use cluster::lock::DaemonLock;
use cluster::server::{PeerId, Server};
use daemon::{Configuration, Epoch, now};
use netfilter::conntrack_events::{Event, EventKind, Events};
use netfilter::timeouts::Timeouts;
use nfq_splice::routing::Routing;
use nfq_splice::{CLOSED_LINGER, HALF_CLOSED_IDLE, Promise, Settings};
use nft_rules::{PROXY_QUEUE, SPLICED_MARK, proxy_queues};
use packet::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use answers::Answering;
use asking::Asking;
use fast::Passing;
use kernel::Kernel;
use mailbox::{Mailbox, Post};
use restored::Restored;
use shard::{FromShard, Shard, ToShard};

const EVENT_BUFFER: usize = 8 << 20;
/// Events handed on before other sockets get their turn.
const EVENTS: usize = 4096;
/// Between two looks at the events: nobody waits for the end of an entry, and to wake for each one costs more than it tells.
const EVENTS_PAUSE: Duration = Duration::from_millis(10);
/// Messages that may wait in a shard's mailbox; then the control thread waits.
const SHARD_MAIL: usize = 1024;
/// Messages that may wait for the control thread; further ones are lost, because a shard never waits for it.
const CONTROL_MAIL: usize = 1 << 16;

/// The control thread.
pub(crate) struct Shell {
    kernel: Kernel,
    events: Events,
    server: Server,
    subscribers: Vec<PeerId>,
    shards: Vec<Post<ToShard>>,
    threads: Vec<JoinHandle<()>>,
    mailbox: Mailbox<FromShard>,
    asking: Asking<PeerId>,
    configuration: Configuration,
    /// What the shards know of backends, but for the connections.
    routing: Routing,
    orders_file: PathBuf,
    /// Of the recovery managers.
    epoch: Epoch,
    /// Messages of managers that do not count.
    fenced: u64,
    /// Backends that no configuration names any more, with connections when the shards were last asked.
    former: BTreeSet<SocketAddr>,
    /// Conntrack events are left to gather until then.
    next_events: Time,
    /// All events of before have been read.
    events_read: Time,
    /// Where the fast path is.
    fast_interfaces: usize,
    answering: Option<Answering>,
}

/// What is to be looked at.
#[derive(Debug, Clone, Copy)]
struct Ready {
    stop: bool,
    events: bool,
    peers: bool,
}

impl Shell {
    /// Restores the table from conntrack, binds the queues and starts a thread for each.
    pub(crate) fn start(configuration: Configuration, lock: &DaemonLock) -> Result<Self> {
        let cluster = configuration.cluster();
        let secret = secret_file::load(&lock.socket().with_file_name("nfq-splice.secret"))?;
        let fast = fast::open(cluster);
        let mut kernel = Kernel::open(cluster, fast.clone())?;
        remember_as_long_as_needed(cluster);
        let events = Events::subscribe(EVENT_BUFFER, &[EventKind::Destroyed]).context("conntrack events")?;
        let queues = proxy_queues(cluster);
        let restored = Restored::find(&mut kernel)?;
        let ended = kernel.ended()?;
        let mut answering = Answering::new(fast.as_ref(), cluster, &secret);
        // What is handed over from its first packet on waits for the threads.
        if let Some(answering) = &mut answering {
            answering.renew(now());
        }
        let fast_interfaces =
            fast.as_ref().map_or(0, |fast| fast::attach(fast, &mut kernel, &restored.entries, &ended));
        let count = restored.count();
        let restored = restored.by_queue(queues);
        let (control, mailbox) = mailbox::mailbox(CONTROL_MAIL)?;
        let mut settings = Settings::new(cluster).share(queues);
        let epoch = Epoch::load(lock.socket().with_file_name("nfq-splice.epoch"))?;
        let orders_file = lock.socket().with_file_name("nfq-splice.orders");
        orders_file::apply(&orders_file, &mut settings.routing);
        let former = operator::former(&restored, cluster);
        if !former.is_empty() {
            operator::install_rules(cluster, &former)?;
        }
        kernel.know_backends(operator::addresses(cluster).chain(former.iter().copied()));
        let (mut shards, mut threads) = (Vec::new(), Vec::new());
        for (index, restored) in (0..queues).zip(&restored) {
            let (post, own) = mailbox::mailbox(SHARD_MAIL)?;
            let engine = (settings.clone(), secret.clone());
            let number = PROXY_QUEUE + index;
            let kernel = Kernel::open(cluster, fast.clone())?;
            let ring = fast.as_ref().map(|fast| fast.ring(index)).transpose()?;
            let passing = Passing::new(fast.clone(), cluster.service.address);
            let shard =
                Shard::start((kernel, passing, ring), number, engine, restored, (own, control.clone()))?;
            threads.push(thread::spawn(shard, number, control.clone())?);
            shards.push(post);
        }
        let server = Server::unix(lock)?;
        tracing::info!(service = %cluster.service.address, queues, restored = count, fast_interfaces, "ready");
        Ok(Self {
            kernel,
            events,
            server,
            subscribers: Vec::new(),
            shards,
            threads,
            mailbox,
            asking: Asking::new(),
            configuration,
            routing: settings.routing,
            orders_file,
            epoch,
            fenced: 0,
            former,
            next_events: Time::default(),
            events_read: now(),
            fast_interfaces,
            answering,
        })
    }

    /// Until `stop` becomes readable. Connections translated by the kernel go on.
    pub(crate) fn run(mut self, stop: &OwnedFd) -> Result<()> {
        loop {
            let ready = self.wait(stop)?;
            if ready.stop {
                break;
            }
            if ready.events {
                self.watch_entries()?;
                self.next_events = now() + EVENTS_PAUSE;
            }
            if ready.peers {
                self.serve();
            }
            if self.configuration.was_hung_up() {
                let _ = self.reload();
            }
            self.hear()?;
            if self.asking.deadline().is_some_and(|deadline| now() >= deadline) {
                self.answer();
            }
            if let Some(answering) = self.answering.as_mut().filter(|answering| now() >= answering.deadline())
            {
                answering.renew(now());
            }
        }
        self.answering.iter_mut().for_each(Answering::stop);
        self.shards.iter().for_each(|shard| shard.send(ToShard::Stop));
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a queue's thread panicked"))?;
        }
        tracing::info!("stopping; connections spliced in the kernel go on");
        Ok(())
    }

    /// Sleeps until there is something to do.
    fn wait(&self, stop: &OwnedFd) -> Result<Ready> {
        let pause = self.next_events.since(now());
        let resting = !pause.is_zero();
        let events = if resting { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.as_fd(), events),
            PollFd::from_borrowed_fd(self.mailbox.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.configuration.as_fd(), PollFlags::IN),
        ];
        let own = fds.len();
        let interest = self.server.interest();
        fds.extend(interest.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let answer = self.asking.deadline().map(|deadline| deadline.since(now()));
        let renewal = self.answering.as_ref().map(|answering| answering.deadline().since(now()));
        let timeout = resting.then_some(pause).into_iter().chain(answer).chain(renewal).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let any = |range: &[bool]| range.contains(&true);
        Ok(Ready {
            stop: ready.first() == Some(&true),
            events: ready.get(1) == Some(&true),
            peers: any(ready.get(own..).unwrap_or_default()),
        })
    }

    fn watch_entries(&mut self) -> Result<()> {
        let mut destroyed = vec![Vec::new(); self.shards.len()];
        let (began, mut all, mut lost) = (now(), false, false);
        for _ in 0..EVENTS {
            match self.events.next().context("conntrack events")? {
                Some(Event::Change(change))
                    if change.mark == SPLICED_MARK && change.kind == EventKind::Destroyed =>
                {
                    if let Some(clients) = destroyed.get_mut(self.index(change.client)) {
                        clients.push(change.client);
                    }
                }
                Some(Event::Change(_)) => {}
                Some(Event::Overrun) => lost = true,
                None => {
                    all = true;
                    break;
                }
            }
        }
        let between = (self.events_read, now());
        self.events_read = if all { began } else { self.events_read };
        for (shard, clients) in self.shards.iter().zip(destroyed).filter(|(_, clients)| !clients.is_empty()) {
            shard.send(ToShard::Destroyed(between, clients));
        }
        if lost { self.compare_entries() } else { Ok(()) }
    }

    /// Events were lost: the shards see which connections still have an entry.
    fn compare_entries(&mut self) -> Result<()> {
        let present: BTreeSet<Client> =
            self.kernel.entries()?.into_iter().map(|entry| entry.client).collect();
        let present = Arc::new(present);
        self.shards.iter().for_each(|shard| shard.send(ToShard::Present(Arc::clone(&present))));
        Ok(())
    }

    /// A shard that has no room for the question is one whose part does not come.
    fn ask(&mut self, peer: PeerId) {
        if let Some(round) = self.asking.ask(peer, now()) {
            for shard in &self.shards {
                shard.offer(ToShard::Status(round));
            }
        }
    }

    /// What the shards have to tell. The first that ends ends the daemon: nobody else reads its queue.
    fn hear(&mut self) -> Result<()> {
        let messages: Vec<FromShard> = self.mailbox.take().collect();
        for message in messages {
            match message {
                FromShard::Tell(message) => self.tell(&message),
                FromShard::Status(round, part) => self.add_to_answer(round, part),
                FromShard::Former(former) => self.former.extend(former),
                FromShard::Promise(queue, promise) => self.promise(queue, promise),
                FromShard::Ended(result) => return result.and(Err(anyhow!("a queue's thread ended"))),
            }
        }
        Ok(())
    }

    /// What all clients are told, all engines must know.
    fn promise(&mut self, queue: usize, promise: Promise) {
        let Some(answering) = &mut self.answering else { return };
        let promise = answering.change(queue, promise, now());
        self.shards.iter().for_each(|shard| shard.send(ToShard::Promised(promise)));
    }

    fn add_to_answer(&mut self, round: u64, part: ProxyStatus) {
        if self.asking.take(round, part, self.shards.len()) {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let (mut status, peers) = self.asking.finish(self.shards.len());
        status.counters.insert("managers_fenced".to_owned(), self.fenced);
        status.counters.insert("fast_path_interfaces".to_owned(), self.fast_interfaces as u64);
        status.counters.extend(self.answering.iter().flat_map(Answering::counters));
        let status = FromProxy::Status(status);
        for peer in peers {
            self.server.send(peer, &status);
        }
    }
}

/// The kernel's own timeouts follow that of a splice's entry with the first packet.
fn remember_as_long_as_needed(cluster: &cluster::config::Cluster) {
    let timeouts = Timeouts {
        open: u32::try_from(cluster.splice.idle_timeout_s).unwrap_or(u32::MAX),
        half_closed: HALF_CLOSED_IDLE.as_secs() as u32,
        ended: CLOSED_LINGER.as_secs() as u32,
    };
    if let Err(error) = timeouts.apply() {
        tracing::warn!(%error, "the kernel may forget idle connections before their time, and ended ones late");
    }
}
