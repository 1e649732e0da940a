//! The loop around poll(2): queue, control socket, timers. Log before forward: verdicts leave after their records.

pub(crate) mod dump;
mod reload;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::control::{LoggerStatus, ToLogger};
use cluster::lock::DaemonLock;
use cluster::server::{Incoming, PeerId, Server};
use daemon::{Configuration, now};
use netfilter::queue::{Queue, QueueConfig, QueuedMeta, RECEIVE_BYTES, Verdict, queue_counters};
use nfq_logger::{Arrival, Decision, Engine, Limits, fence_record};
use nft_rules::LOGGER_QUEUE;
use packet::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use segment_log::{Flags, RecordMeta, Slots, Writer};

use reload::Installing;

/// Packets that the kernel keeps for this daemon at most; held ones count.
const QUEUE_PACKETS: u32 = 16_384;
/// Receive buffer, bytes: the default holds about 92 full packets (design §9).
const QUEUE_BUFFER: usize = 64 << 20;
/// Packets between two flushes of records and verdicts.
const BATCH: usize = 32;
/// Batches before control messages get their turn.
const BATCHES: usize = 8;
/// Rounds of control messages before packets get their turn.
const CONTROL_ROUNDS: usize = 8;

pub(crate) struct Shell {
    engine: Engine,
    queue: Queue,
    writer: Writer,
    server: Server,
    judges: BTreeMap<PeerId, u64>,
    next_judge: u64,
    /// Of the batch in work: the packets, and the ids of those to be let pass.
    packets: Vec<(usize, QueuedMeta)>,
    accepted: Vec<u32>,
    configuration: Configuration,
    installing: Option<Installing>,
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    stop: bool,
    queue: bool,
    control: bool,
}

impl Shell {
    pub(crate) fn start(
        configuration: Configuration,
        lock: &DaemonLock,
        log: &Path,
        ring_bytes: u64,
    ) -> Result<Self> {
        let cluster = configuration.cluster();
        let mut writer = Writer::open(log, ring_bytes)?;
        let backends = cluster.backends.values().map(|backend| backend.address);
        let mut engine = Engine::new(backends, writer.epoch(), Limits::default());
        writer.take_fences().for_each(|(flags, packet)| engine.restore(flags, packet));
        let config =
            QueueConfig { number: LOGGER_QUEUE, max_packets: QUEUE_PACKETS, receive_buffer: QUEUE_BUFFER };
        let queue = Queue::bind(&config).context("binding the logger's queue")?;
        let server = Server::unix(lock)?;
        tracing::info!(log = %log.display(), ring_bytes, epoch = writer.epoch(), "ready");
        Ok(Self {
            engine,
            queue,
            writer,
            server,
            judges: BTreeMap::new(),
            next_judge: 0,
            packets: Vec::new(),
            accepted: Vec::new(),
            configuration,
            installing: None,
        })
    }

    /// Until `stop` becomes readable. Traffic then waits for the next daemon: unlogged nothing passes.
    pub(crate) fn run(mut self, stop: &OwnedFd) -> Result<()> {
        loop {
            let ready = self.wait(stop)?;
            if ready.stop {
                tracing::info!("stopping; forwarding stops until the logger runs again");
                return Ok(());
            }
            if ready.control {
                self.handle_reload();
                self.serve()?;
            }
            if ready.queue {
                self.receive()?;
            }
            self.expire();
            self.release()?;
        }
    }

    fn expire(&mut self) {
        if self.engine.poll_timeout().is_none() {
            return;
        }
        let late = self.engine.handle_timeout(now());
        if late > 0 {
            tracing::warn!(late, "FIN or RST passed without a judgement; is the transactionalizer alive?");
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, stop: &OwnedFd) -> Result<Ready> {
        // A little later than due: waking early would only mean waking twice.
        let timeout = self.engine.poll_timeout().map(|time| time.since(now()) + Duration::from_micros(100));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.configuration.as_fd(), PollFlags::IN),
        ];
        fds.extend(self.installing.iter().map(|it| PollFd::from_borrowed_fd(it.as_fd(), PollFlags::IN)));
        let interest = self.server.interest();
        fds.extend(interest.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let (stop, queue) = (ready.next() == Some(true), ready.next() == Some(true));
        Ok(Ready { stop, queue, control: ready.any(|ready| ready) })
    }

    fn receive(&mut self) -> Result<()> {
        for _ in 0..BATCHES {
            let more = self.receive_batch()?;
            if !self.packets.is_empty() {
                // Records are committed already. The packets go on first: a reader that is woken may take this processor.
                self.queue.flush().context("sending verdicts")?;
                self.writer.flush();
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// The kernel's copies land in the ring itself. False: nothing more waits.
    fn receive_batch(&mut self) -> Result<bool> {
        let mut packets = std::mem::take(&mut self.packets);
        packets.clear();
        let Slots { memory, stride, length } = self.writer.reserve_slots(BATCH, RECEIVE_BYTES)?;
        let slots = memory.len().div_ceil(stride);
        let received = self.queue.recv_slots(memory, (stride, length), &mut packets);
        let received = received.context("receiving from the queue")?;
        let time = now();
        for (slot, meta) in &packets {
            self.handle_packet(*slot, meta, time)?;
        }
        self.packets = packets;
        self.accept()?;
        Ok(received == slots)
    }

    fn handle_packet(&mut self, slot: usize, meta: &QueuedMeta, time: Time) -> Result<()> {
        let arrival = Arrival {
            id: meta.id,
            gso: meta.gso,
            verify: meta.checksum_ready && !meta.checksum_verified,
            packet: self.writer.slot(slot).get(meta.payload.clone()).unwrap_or_default(),
        };
        let (flags, hold, left_out) = match self.engine.handle_packet(time, arrival) {
            Decision::Accept(flags) | Decision::Swallow(flags) => (flags, 0, None),
            Decision::AcceptLeavingOut { flags, headers, left_out } => (flags, 0, Some((headers, left_out))),
            Decision::Hold(flags, hold) => (flags, hold, None),
            Decision::Drop => return Ok(self.queue.verdict(meta.id, Verdict::Drop)?),
            Decision::PassUnlogged => return Ok(self.queue.verdict(meta.id, Verdict::Accept)?),
        };
        let record = RecordMeta { time_ns: time.as_nanos(), flags, hold };
        let packet = meta.payload.clone();
        let committed = match left_out {
            Some((headers, left_out)) => {
                self.writer.commit_headers(record, slot, packet.start..packet.start + headers, left_out)
            }
            None => self.writer.commit_slot(record, slot, packet),
        };
        committed.context("logging a segment")?;
        if flags.contains(Flags::SWALLOWED) {
            self.queue.verdict(meta.id, Verdict::Drop)?;
        } else if hold == 0 {
            self.accepted.push(meta.id);
        }
        Ok(())
    }

    /// Lets pass what was logged: by one message if nothing else waits in the kernel's queue that was received. What came
    /// later has later numbers.
    fn accept(&mut self) -> Result<()> {
        let all = self.engine.holds_nothing() && self.queue.counters().unknown == 0;
        match self.accepted.last() {
            Some(last) if all && self.accepted.len() > 1 => self.queue.accept_through(*last)?,
            _ => self.accepted.iter().try_for_each(|id| self.queue.verdict(*id, Verdict::Accept))?,
        }
        self.accepted.clear();
        Ok(())
    }

    /// Again and again while something comes: an answer that could not be sent shows only in the next round.
    fn serve(&mut self) -> Result<()> {
        for _ in 0..CONTROL_ROUNDS {
            let incoming = self.server.handle_ready::<ToLogger>();
            if incoming.is_empty() {
                break;
            }
            for event in incoming {
                self.handle_incoming(event)?;
            }
        }
        Ok(())
    }

    fn handle_incoming(&mut self, incoming: Incoming<ToLogger>) -> Result<()> {
        match incoming {
            Incoming::Connected(peer) => {
                self.next_judge += 1;
                self.judges.insert(peer, self.next_judge);
            }
            Incoming::Disconnected(peer, _) => {
                if let Some(judge) = self.judges.remove(&peer) {
                    self.engine.handle_disconnect(judge);
                }
            }
            Incoming::Message(peer, message) => self.handle_message(peer, &message)?,
        }
        Ok(())
    }

    fn handle_message(&mut self, peer: PeerId, message: &ToLogger) -> Result<()> {
        let number = self.judges.get(&peer).copied().unwrap_or_default();
        if let ToLogger::Fence(flow) = message {
            let record = RecordMeta { time_ns: now().as_nanos(), flags: Flags::FENCED, hold: 0 };
            self.writer.append(record, &fence_record(*flow)).context("logging a fence")?;
        }
        self.engine.handle_control(number, message);
        self.release()?;
        if *message == ToLogger::Status {
            let status = self.status();
            self.server.send(peer, &status);
        }
        if *message == ToLogger::Fences {
            let status = LoggerStatus { fenced: self.engine.fenced_flows(), ..LoggerStatus::default() };
            self.server.send(peer, &status);
        }
        if *message == ToLogger::Reload {
            self.reload(Some(peer));
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        while let Some(released) = self.engine.poll_release() {
            let verdict = if released.pass { Verdict::Accept } else { Verdict::Drop };
            self.queue.verdict(released.id, verdict)?;
        }
        // Sends nothing where nothing is pending.
        self.queue.flush().context("sending verdicts")
    }

    fn status(&self) -> LoggerStatus {
        let mut counters: BTreeMap<String, u64> =
            self.engine.counters().entries().map(|(name, count)| (name.to_owned(), count)).collect();
        counters.extend(self.engine.gauges().map(|(name, count)| (name.to_owned(), count)));
        let queue = self.queue.counters();
        counters.insert("queue_overruns".to_owned(), queue.overruns);
        counters.insert("queue_truncated".to_owned(), queue.truncated);
        counters.insert("queue_refused_verdicts".to_owned(), queue.refused_verdicts);
        counters.insert("last_record".to_owned(), self.writer.last_number());
        counters.extend(self.ring_gauges().into_iter().map(|(name, value)| (name.to_owned(), value)));
        for reader in self.writer.readers() {
            counters.insert(format!("reader_{}_lag_bytes", reader.process), reader.lag_bytes);
        }
        if let Ok(Some(kernel)) = queue_counters(LOGGER_QUEUE) {
            counters.insert("queue_waiting".to_owned(), kernel.waiting);
            counters.insert("queue_full_dropped".to_owned(), kernel.queue_dropped);
            counters.insert("queue_buffer_dropped".to_owned(), kernel.user_dropped);
        }
        LoggerStatus { counters, ..LoggerStatus::default() }
    }

    fn ring_gauges(&self) -> [(&'static str, u64); 4] {
        let usage = self.writer.usage();
        let age = usage.oldest_time_ns.map_or(0, |oldest| now().as_nanos().saturating_sub(oldest));
        [
            ("ring_bytes", usage.ring_bytes),
            ("ring_used_bytes", usage.used_bytes),
            ("ring_oldest_age_ms", age / 1_000_000),
            ("logged_bytes", usage.payload_bytes),
        ]
    }
}
