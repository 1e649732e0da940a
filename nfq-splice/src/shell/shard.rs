//! One thread: its queue, its engine, its sockets. The loop around poll(2).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::control::{Client, FromProxy, ProxyStatus, ToProxy};
use daemon::{now, time_of_day};
use netfilter::fast_path::Ring;
use netfilter::queue::{BATCH, Queue, QueueConfig, QueuedPacket, Verdicts, queue_counters};
use nfq_splice::{Batch, Ended, Engine, Promise, Secret, Settings};
use nft_rules::PROXY_QUEUE;
use packet::{Seq, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::sched_yield;

use super::fast::Passing;
use super::kernel::Kernel;
use super::mailbox::{Mailbox, Post};
use super::packets::Packets;
use super::restored::Restored;

/// Packets that the kernel keeps for one queue at most.
const QUEUE_PACKETS: u32 = 8192;
/// Receive buffer of one queue, bytes: the default holds about 92 full packets (design §9).
const QUEUE_BUFFER: usize = 64 << 20;
/// Batches taken from the queue before the mailbox gets its turn.
const BATCHES: usize = 8;
/// Wake-ups that follow each other so closely mean load.
const DENSE: Duration = Duration::from_micros(500);
/// Clients that wait for a re-splice: each acknowledgement of what is taken in for them brings the next bytes, at once. For more than
/// so many, batches bring more than haste.
const HASTE: usize = 8;

/// What the control thread asks of a shard.
pub(super) enum ToShard {
    /// A message that concerns one of its clients, or all shards.
    Control(ToProxy),
    /// Conntrack entries of these clients have ended between these times.
    Destroyed((Time, Time), Vec<Client>),
    /// Events were lost: these clients have entries.
    Present(Arc<BTreeSet<Client>>),
    /// Another configuration: its part.
    Reload(Box<Settings>),
    /// Asks for its part of the status, of that round.
    Status(u64),
    /// What the fast path's program tells clients from now on.
    Promised(Promise),
    /// Asks it to end.
    Stop,
}

/// What a shard tells the control thread.
pub(super) enum FromShard {
    /// For the recovery managers.
    Tell(FromProxy),
    /// The answer to [`ToShard::Status`].
    Status(u64, ProxyStatus),
    /// The answer to [`ToShard::Reload`]: backends that the configuration does not name any more but connections need.
    Former(Vec<SocketAddr>),
    /// What the engine of this queue, counted from 0, would tell clients from now on.
    Promise(usize, Promise),
    /// Its thread has ended.
    Ended(Result<()>),
}

/// A part of the proxy's clients: those whose packets come to its queue.
pub(super) struct Shard {
    number: u16,
    engine: Engine,
    kernel: Kernel,
    batch: Batch,
    queue: Queue,
    /// What the fast path's program hands over.
    ring: Option<Ring>,
    mailbox: Mailbox<ToShard>,
    control: Post<FromShard>,
    packets: Packets,
    passing: Passing,
    /// When packets last came.
    last: Time,
    /// What the engine would tell clients, as the control thread knows it.
    promise: Option<Promise>,
    batches: u64,
    /// Messages that the control thread had no room for.
    untold: u64,
}

/// What there is to do.
struct Ready {
    queued: bool,
    handed_over: bool,
    mail: bool,
}

impl Shard {
    /// Binds queue `number`. `settings` are this shard's part, `restored` what it has to take over.
    pub(super) fn start(
        (kernel, passing, ring): (Kernel, Passing, Option<Ring>),
        number: u16,
        (settings, secret): (Settings, Secret),
        restored: &Restored,
        (mailbox, control): (Mailbox<ToShard>, Post<FromShard>),
    ) -> Result<Self> {
        let mut engine = Engine::new(settings, secret);
        if kernel.is_fast() {
            engine.handle_fast_path();
        }
        restored.give(&mut engine, kernel.service());
        let config = QueueConfig { number, max_packets: QUEUE_PACKETS, receive_buffer: QUEUE_BUFFER };
        let mut queue = Queue::bind(&config).context("binding the proxy's queue")?;
        queue.prepare();
        Ok(Self {
            number,
            engine,
            kernel,
            batch: Batch::default(),
            queue,
            ring,
            mailbox,
            control,
            packets: Packets::open(),
            passing,
            last: Time::default(),
            promise: None,
            batches: 0,
            untold: 0,
        })
    }

    /// Until told to stop.
    pub(super) fn run(mut self) -> Result<()> {
        // What was restored has a new place before anything is waited for: a daemon after this one would find nothing of what was young.
        self.act()?;
        loop {
            self.tell_promise();
            let ready = self.wait()?;
            if ready.queued || ready.handed_over {
                self.let_others_first();
                self.receive(ready.queued)?;
            }
            if ready.mail && self.serve()? {
                return Ok(());
            }
            self.engine.handle_time_of_day(now(), time_of_day());
            self.engine.handle_timeout(now());
            self.act()?;
        }
    }

    fn tell_promise(&mut self) {
        if !self.passing.is_fast() {
            return;
        }
        let promise = self.engine.promise();
        if self.promise != Some(promise) {
            let queue = usize::from(self.number - PROXY_QUEUE);
            // Otherwise it is tried again.
            if self.control.offer(FromShard::Promise(queue, promise)) {
                self.promise = Some(promise);
            }
        }
    }

    fn wait(&mut self) -> Result<Ready> {
        let timeout = self.engine.poll_timeout().map(|time| time.since(now()) + Duration::from_micros(100));
        let rests = self.ring.as_mut().is_none_or(Ring::rest);
        let timeout = if rests { timeout } else { Some(Duration::ZERO) };
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        // Without a ring, one is asked for a second time.
        let ring = self.ring.as_ref().map_or(self.mailbox.as_fd(), Ring::as_fd);
        let mut fds = [self.queue.as_fd(), self.mailbox.as_fd(), ring]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let [queued, mail, handed_over] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { queued, handed_over: handed_over && self.ring.is_some(), mail })
    }

    /// Under load, whatever else can run on this processor goes first: what it sends meanwhile comes with the same batch, and a
    /// wake-up costs more than a packet. With an idle processor this returns at once. Not while few clients wait for a re-splice.
    fn let_others_first(&mut self) {
        let now = now();
        let haste = (1..=HASTE).contains(&self.engine.recovering());
        if !haste && now.since(self.last) < DENSE {
            sched_yield();
        }
        self.last = now;
    }

    fn receive(&mut self, queued: bool) -> Result<()> {
        for _ in 0..BATCHES {
            let handed_over = self.take_over();
            let received = if queued { self.receive_queued()? } else { 0 };
            self.act()?;
            self.batches += 1;
            if received < BATCH && handed_over < BATCH {
                break;
            }
        }
        Ok(())
    }

    /// What was handed over, a batch at most; its number.
    fn take_over(&mut self) -> usize {
        let Self { engine, ring: Some(ring), packets, passing, .. } = self else { return 0 };
        let time = now();
        ring.receive(BATCH, |payload| {
            let aside = passing.before_packet(engine, payload, time);
            packets.take(engine, payload, time);
            if let Some(client) = aside {
                engine.handle_set_aside(time, client);
            }
        })
    }

    fn receive_queued(&mut self) -> Result<usize> {
        let Self { engine, queue, packets, passing, .. } = self;
        let time = now();
        let mut handler = |packet: QueuedPacket<'_>, verdicts: &mut Verdicts| {
            let aside = passing.before_packet(engine, packet.payload, time);
            if let Err(error) = packets.handle(engine, packet, time, verdicts) {
                tracing::warn!(%error, "verdict not given");
            }
            if let Some(client) = aside {
                engine.handle_set_aside(time, client);
            }
        };
        let count = queue.recv_batch(&mut handler).context("receiving from the queue")?;
        queue.flush().context("sending verdicts")?;
        Ok(count)
    }

    /// True if it is time to stop.
    fn serve(&mut self) -> Result<bool> {
        let messages: Vec<ToShard> = self.mailbox.take().collect();
        for message in messages {
            // What else comes asks the kernel, which must know all by then.
            if !matches!(message, ToShard::Control(_)) {
                self.act()?;
            }
            match message {
                ToShard::Control(message) => self.handle_message(message),
                ToShard::Destroyed(between, clients) => self.handle_destroyed(between, &clients)?,
                ToShard::Present(present) => self.compare_entries(&present)?,
                ToShard::Reload(settings) => {
                    self.engine.handle_reload(*settings);
                    let former = self.engine.routing().former().collect();
                    self.tell(FromShard::Former(former));
                }
                ToShard::Status(round) => {
                    let status = self.status();
                    self.tell(FromShard::Status(round, status));
                }
                ToShard::Promised(promise) => self.engine.handle_promised(now(), promise),
                ToShard::Stop => return Ok(true),
            }
        }
        self.act()?;
        Ok(false)
    }

    fn handle_message(&mut self, message: ToProxy) {
        match message {
            ToProxy::Recover(orders) => {
                for order in orders {
                    self.passing.before_order(&mut self.engine, order.flow.client, now());
                    self.engine.handle_order(now(), order);
                }
            }
            ToProxy::Reset { flow, end, .. } => {
                self.passing.before_order(&mut self.engine, flow.client, now());
                self.engine.handle_reset(now(), flow, end.map(Seq));
            }
            ToProxy::Answer { order, status, reason } => {
                self.passing.before_order(&mut self.engine, order.flow.client, now());
                self.engine.handle_answer_order(now(), *order, status, &reason);
            }
            ToProxy::Piece(piece) => self.engine.handle_piece(now(), piece),
            ToProxy::Swallowed { alternate, swallowed } => {
                self.engine.handle_swallowed(now(), alternate, &swallowed);
            }
            ToProxy::Backend { backend, up } => self.engine.handle_backend_state(backend, up),
            ToProxy::Want { backend, state } => {
                self.engine.handle_backend_order(&backend, state);
            }
            ToProxy::Subscribe { .. } | ToProxy::Status | ToProxy::Reload => {}
        }
    }

    /// The kernel is only asked for an entry that may have been replaced meanwhile.
    fn handle_destroyed(&mut self, between: (Time, Time), clients: &[Client]) -> Result<()> {
        for client in clients {
            let ended = match self.engine.judge_ended(*client, between) {
                Ended::Yes => true,
                // Of a connection in whose place another one begins, or that had ended before this daemon began, the fast path
                // still knows.
                Ended::No if !self.engine.is_spliced(*client) => {
                    self.kernel.leave_alone_no_longer(*client)?;
                    false
                }
                Ended::No => false,
                Ended::Perhaps => !self.kernel.has_entry(*client)?,
            };
            if ended {
                self.kernel.slow_down(*client)?;
                self.engine.handle_entry_destroyed(now(), *client);
            }
        }
        Ok(())
    }

    fn compare_entries(&mut self, present: &BTreeSet<Client>) -> Result<()> {
        let ended: Vec<Client> =
            self.engine.kernel_clients().filter(|client| !present.contains(client)).collect();
        self.handle_destroyed((Time::default(), now()), &ended)
    }

    fn status(&self) -> ProxyStatus {
        let mut status = self.engine.status();
        status.counters.extend(self.packets.counters());
        status.counters.extend(self.kernel.counters());
        status.counters.insert("control_messages_lost".to_owned(), self.untold);
        status.counters.insert("queue_packets".to_owned(), self.queue.counters().received);
        status.counters.insert("queue_batches".to_owned(), self.batches);
        if let Ok(Some(counters)) = queue_counters(self.number) {
            status.counters.insert("queue_waiting".to_owned(), counters.waiting);
            status.counters.insert("queue_full_dropped".to_owned(), counters.queue_dropped);
            status.counters.insert("queue_buffer_dropped".to_owned(), counters.user_dropped);
        }
        status
    }

    fn tell(&mut self, message: FromShard) {
        if !self.control.offer(message) {
            self.untold += 1;
        }
    }

    /// Does what the engine wants, until it wants nothing more.
    fn act(&mut self) -> Result<()> {
        loop {
            while let Some(action) = self.engine.poll_action() {
                if let Err(action) = self.batch.push(action) {
                    self.execute()?;
                    // At most packets are left, fewer than there is room for.
                    let _ = self.batch.push(action);
                }
            }
            if self.batch.is_empty() {
                return Ok(());
            }
            self.execute()?;
        }
    }

    /// Executes the batch; the engine hears what the kernel answered.
    fn execute(&mut self) -> Result<()> {
        let answers = self.kernel.execute(&mut self.batch)?;
        for message in std::mem::take(&mut self.batch.tell) {
            self.tell(FromShard::Tell(message));
        }
        self.batch.clear();
        for answer in answers {
            answer.give(&mut self.engine, self.kernel.service(), now());
        }
        Ok(())
    }
}
