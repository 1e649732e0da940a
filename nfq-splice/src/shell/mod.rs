//! The loop around poll(2): queue, conntrack events, control socket, timers.

mod kernel;
mod secret_file;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::config::Cluster;
use cluster::control::{FromProxy, Outcome, ProxyStatus, ToProxy};
use cluster::lock::DaemonLock;
use cluster::server::{Incoming, PeerId, Server};
use daemon::now;
use netfilter::conntrack_events::{Event, EventKind, Events};
use netfilter::queue::{Queue, QueueConfig, QueuedPacket, Verdict as QueueVerdict, Verdicts, queue_counters};
use nfq_splice::{Engine, Settings, Stage, Verdict};
use nft_rules::{BEFORE_CONNTRACK_MARK, PROXY_QUEUE, SPLICED_MARK};
use packet::{Seq, TcpSegment, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use kernel::Kernel;

/// Packets that the kernel keeps for this daemon at most.
const QUEUE_PACKETS: u32 = 8192;
/// Receive buffers, bytes: the default holds about 92 full packets (design §9).
const QUEUE_BUFFER: usize = 64 << 20;
const EVENT_BUFFER: usize = 8 << 20;
/// Batches taken from the queue before other sockets get their turn.
const BATCHES: usize = 8;

/// All that the engine must not own.
pub(crate) struct Shell {
    engine: Engine,
    kernel: Kernel,
    queue: Queue,
    events: Events,
    server: Server,
    subscribers: Vec<PeerId>,
    bad_checksums: u64,
}

impl Shell {
    /// Restores the table from conntrack, then binds the queue.
    pub(crate) fn start(cluster: &Cluster, lock: &DaemonLock) -> Result<Self> {
        let secret = secret_file::load(&lock.socket().with_file_name("nfq-splice.secret"))?;
        let mut engine = Engine::new(Settings::new(cluster), secret);
        let mut kernel = Kernel::open(cluster)?;
        let events = Events::subscribe(EVENT_BUFFER).context("conntrack events")?;
        for entry in kernel.entries()? {
            engine.handle_restored(now(), &entry);
        }
        for client in kernel.resume_all()? {
            engine.handle_lost(client);
        }
        let config =
            QueueConfig { number: PROXY_QUEUE, max_packets: QUEUE_PACKETS, receive_buffer: QUEUE_BUFFER };
        let queue = Queue::bind(&config).context("binding the proxy's queue")?;
        let server = Server::unix(lock)?;
        let restored = engine.status().total;
        tracing::info!(service = %cluster.service.address, restored, "ready");
        Ok(Self { engine, kernel, queue, events, server, subscribers: Vec::new(), bad_checksums: 0 })
    }

    /// Until `stop` becomes readable. Connections translated by the kernel go on.
    pub(crate) fn run(mut self, stop: &OwnedFd) -> Result<()> {
        loop {
            if self.wait(stop)? {
                tracing::info!("stopping; connections spliced in the kernel go on");
                return Ok(());
            }
            self.receive()?;
            self.watch_entries()?;
            self.serve()?;
            self.engine.handle_timeout(now());
            self.act()?;
        }
    }

    /// True if it is time to stop.
    fn wait(&self, stop: &OwnedFd) -> Result<bool> {
        let timeout = self.engine.poll_timeout().map(|time| time.since(now()) + Duration::from_micros(100));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
        ];
        let interest = self.server.interest();
        fds.extend(interest.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty()))
    }

    fn receive(&mut self) -> Result<()> {
        for _ in 0..BATCHES {
            let Self { engine, queue, bad_checksums, .. } = self;
            let time = now();
            let mut handler = |packet: QueuedPacket<'_>, verdicts: &mut Verdicts| {
                let id = packet.id;
                let verdict = handle(engine, packet, time, bad_checksums);
                if let Err(error) = verdicts.push(id, verdict) {
                    tracing::warn!(%error, "verdict not given");
                }
            };
            let count = queue.recv_batch(&mut handler).context("receiving from the queue")?;
            queue.flush().context("sending verdicts")?;
            self.act()?;
            if count == 0 {
                break;
            }
        }
        Ok(())
    }

    fn watch_entries(&mut self) -> Result<()> {
        while let Some(event) = self.events.next().context("conntrack events")? {
            match event {
                Event::Change(change)
                    if change.mark == SPLICED_MARK && change.kind == EventKind::Destroyed =>
                {
                    // The entry may have been replaced meanwhile.
                    if !self.kernel.has_entry(change.client)? {
                        self.engine.handle_entry_destroyed(now(), change.client);
                    }
                }
                Event::Change(_) => {}
                Event::Overrun => self.compare_entries()?,
            }
        }
        Ok(())
    }

    /// Events were lost: see which connections still have an entry.
    fn compare_entries(&mut self) -> Result<()> {
        let present: std::collections::BTreeSet<_> =
            self.kernel.entries()?.into_iter().map(|entry| entry.client).collect();
        let ended: Vec<_> = self.engine.kernel_clients().filter(|client| !present.contains(client)).collect();
        for client in ended {
            self.engine.handle_entry_destroyed(now(), client);
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        for incoming in self.server.handle_ready::<ToProxy>() {
            match incoming {
                Incoming::Connected(_) => {}
                Incoming::Disconnected(peer, _) => self.subscribers.retain(|known| *known != peer),
                Incoming::Message(peer, message) => self.handle_message(peer, message),
            }
            self.act()?;
        }
        Ok(())
    }

    fn handle_message(&mut self, peer: PeerId, message: ToProxy) {
        match message {
            ToProxy::Subscribe => self.subscribers.push(peer),
            ToProxy::Recover(order) => self.engine.handle_order(now(), *order),
            ToProxy::Reset { flow, ack_cl, reason } => {
                tracing::warn!(client = %flow.client, backend = %flow.backend, reason, "client reset");
                self.engine.handle_reset(now(), flow, ack_cl.map(Seq));
            }
            ToProxy::Backend { backend, up } => {
                tracing::info!(%backend, up, "backend state changed");
                self.engine.handle_backend_state(backend, up);
            }
            ToProxy::Status => {
                let status = self.status();
                self.server.send(peer, &FromProxy::Status(status));
            }
        }
    }

    fn status(&self) -> ProxyStatus {
        let mut status = self.engine.status();
        status.counters.insert("bad_checksum_dropped".to_owned(), self.bad_checksums);
        if let Ok(Some(counters)) = queue_counters(PROXY_QUEUE) {
            status.counters.insert("queue_waiting".to_owned(), counters.waiting);
            status.counters.insert("queue_full_dropped".to_owned(), counters.queue_dropped);
            status.counters.insert("queue_buffer_dropped".to_owned(), counters.user_dropped);
        }
        status
    }

    fn act(&mut self) -> Result<()> {
        loop {
            while let Some(action) = self.engine.poll_action() {
                if let Some(told) = self.kernel.execute(action)? {
                    self.tell(&told);
                }
            }
            self.kernel.flush();
            let answers = self.kernel.take_answers();
            if answers.is_empty() {
                return Ok(());
            }
            for answer in answers {
                answer.give(&mut self.engine, now());
            }
        }
    }

    fn tell(&mut self, message: &FromProxy) {
        if let FromProxy::Ended { id, outcome } = message {
            match outcome {
                Outcome::Respliced { resent, taken_in, .. } => {
                    tracing::info!(order = id, resent, taken_in, "re-spliced");
                }
                other => tracing::warn!(order = id, outcome = ?other, "recovery not done"),
            }
        }
        for peer in &self.subscribers {
            self.server.send(*peer, message);
        }
    }
}

fn handle<'a>(engine: &mut Engine, packet: QueuedPacket<'a>, time: Time, bad: &mut u64) -> QueueVerdict<'a> {
    let QueuedPacket { mark, gso, checksum_ready, checksum_verified, payload, .. } = packet;
    let unverified = checksum_ready && !checksum_verified && !gso;
    if unverified && !TcpSegment::parse(payload).is_ok_and(|segment| segment.checksums_valid()) {
        *bad += 1;
        return QueueVerdict::Drop;
    }
    let stage = if mark == BEFORE_CONNTRACK_MARK { Stage::Raw } else { Stage::Tracked };
    match engine.handle_packet(time, payload, stage) {
        Verdict::Drop => QueueVerdict::Drop,
        Verdict::Rewritten => QueueVerdict::AcceptWith(payload),
    }
}
