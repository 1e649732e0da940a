//! Executing the engine's actions: conntrack entries, set elements, raw packets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::config::Cluster;
use cluster::control::Client;
use netfilter::conntrack::{Conntrack, SpliceEntry};
use netfilter::fast_path::{FastPath, Passed, Recorded};
use netfilter::raw::RawSender;
use netfilter::sets::Sets;
use netfilter::{Error, Family};
use nfq_splice::{Batch, Engine, EntryState, KernelSplice, Parked, Part};
use nft_rules::{PARKED_MARK, PROXY_TABLE, QUEUED_SET, RAW_MARK, SPLICED_MARK};
use packet::Time;

use super::entries::{entry_of, entry_to_park, parked_of, splice_of, state};
use super::fast;

/// Elements of a set that are deleted in one transaction.
const ELEMENTS: usize = 256;
/// Seconds after which the daemon sees again a segment of what the fast path translates in its place: each overtakes none.
const MOST_UNSEEN_S: u64 = 60;

/// What the kernel answered to an action.
pub(super) enum Answer {
    /// It would not take a splice.
    Refused(Client),
    /// A packet was longer than the route's MTU.
    TooLong(Vec<u8>),
    /// What went past on a connection that the fast path had, and has no more.
    Recalled(Client, [Option<Passed>; 2]),
    /// What went past on a connection that the fast path still has.
    Looked(Client, [Option<Passed>; 2]),
    /// What went past of one whose entry has not seen that a side closed.
    Closed(Client, [Option<Passed>; 2]),
    /// The fast path has nothing any more of a connection that it should have.
    Displaced(Client),
    /// What went past before its packets were queued.
    Passed(Client, [Option<Passed>; 2]),
    /// The state of an entry.
    State(Client, EntryState, Vec<u8>),
}

impl Answer {
    pub(super) fn give(self, engine: &mut Engine, service: SocketAddr, now: Time) {
        match self {
            Self::Refused(client) => engine.handle_splice_failed(now, client),
            Self::TooLong(packet) => engine.handle_too_long(now, &packet),
            Self::Recalled(client, passed) => {
                fast::tell(engine, (client, service), passed, now);
                engine.handle_recalled(now, client);
            }
            Self::Looked(client, passed) => {
                fast::tell(engine, (client, service), passed, now);
                engine.handle_looked(now, client);
            }
            Self::Displaced(client) => engine.handle_displaced(now, client),
            Self::Passed(client, passed) => fast::tell(engine, (client, service), passed, now),
            Self::Closed(client, passed) => {
                engine.handle_splice_failed(now, client);
                fast::tell(engine, (client, service), passed, now);
            }
            Self::State(client, state, syn) => engine.handle_entry_state(now, client, state, &syn),
        }
    }
}

pub(super) struct Kernel {
    conntrack: Conntrack,
    suspended: Sets,
    raw: RawSender,
    fast: Option<Arc<FastPath>>,
    service: SocketAddr,
    timeout_s: u32,
    entries: Vec<SpliceEntry>,
    /// Splices that went the fast path from their beginning.
    sped_up: u64,
}

impl Kernel {
    /// `fast`: of all threads.
    pub(super) fn open(cluster: &Cluster, fast: Option<Arc<FastPath>>) -> Result<Self> {
        let service = cluster.service.address;
        let family = if service.is_ipv4() { Family::Ip } else { Family::Ip6 };
        Ok(Self {
            conntrack: Conntrack::open().context("opening ctnetlink")?,
            suspended: Sets::open(family, PROXY_TABLE, QUEUED_SET)?,
            raw: RawSender::open(RAW_MARK).context("opening the raw socket")?,
            fast,
            service,
            timeout_s: u32::try_from(cluster.splice.idle_timeout_s).unwrap_or(u32::MAX),
            entries: Vec::new(),
            sped_up: 0,
        })
    }

    /// Nobody translates what an earlier daemon was about to splice: its connections end with a reset. Gives their clients.
    pub(super) fn resume_lost(&mut self, kept: &BTreeSet<Client>) -> Result<Vec<Client>> {
        let mut lost = self.suspended.list().context("reading the set of queued flows")?;
        lost.retain(|client| !kept.contains(client));
        for some in lost.chunks(ELEMENTS) {
            self.suspended.delete(some).context("un-queueing lost flows")?;
        }
        Ok(lost)
    }

    /// What an earlier daemon translated itself.
    pub(super) fn parked(&mut self) -> Result<Vec<Parked>> {
        let dump = self.conntrack.dump(PARKED_MARK).context("reading conntrack")?;
        let ours = dump.into_iter().filter(|status| status.entry.service == self.service);
        Ok(ours.map(|status| parked_of(&status.entry)).collect())
    }

    /// What an earlier daemon had left to the fast path alone, and what went past of it.
    pub(super) fn young(&self) -> Vec<(Parked, [Option<Passed>; 2])> {
        let kept = FastPath::kept().unwrap_or_else(|error| {
            tracing::warn!(%error, "connections that began just before the restart are lost");
            Vec::new()
        });
        let ours = kept.into_iter().filter(|kept| kept.entry.service == self.service && !kept.has_ended());
        ours.map(|kept| (Parked::new(splice_of(&kept.entry), kept.rest), kept.passed)).collect()
    }

    /// All splices in the kernel.
    pub(super) fn entries(&mut self) -> Result<Vec<KernelSplice>> {
        self.entries_that_are(EntryState::Open)
    }

    /// Those whose connections have ended.
    pub(super) fn ended(&mut self) -> Result<Vec<KernelSplice>> {
        self.entries_that_are(EntryState::Closed)
    }

    fn entries_that_are(&mut self, wanted: EntryState) -> Result<Vec<KernelSplice>> {
        let dump = self.conntrack.dump(SPLICED_MARK).context("reading conntrack")?;
        let ours = dump.into_iter().filter(|status| status.entry.service == self.service);
        let wanted = ours.filter(|status| state(status.state) == wanted);
        Ok(wanted.map(|status| splice_of(&status.entry)).collect())
    }

    /// There is a fast path.
    pub(super) fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// The virtual address.
    pub(super) fn service(&self) -> SocketAddr {
        self.service
    }

    pub(super) fn has_entry(&mut self, client: Client) -> Result<bool> {
        Ok(self.conntrack.get(client, self.service)?.is_some_and(|status| status.entry.mark == SPLICED_MARK))
    }

    /// Executes all but the messages to managers; packets stay in it where the kernel refused something. What the kernel answers
    /// comes back.
    pub(super) fn execute(&mut self, batch: &mut Batch) -> Result<Vec<Answer>> {
        let (mut answers, mut refused) = (Vec::new(), false);
        for part in Batch::ORDER {
            match part {
                Part::Inspect => self.inspect(&mut batch.inspect, &mut answers)?,
                Part::Look => self.look(&batch.look, &mut answers),
                Part::Recall => self.recall(&batch.recall, &mut answers),
                Part::Park => self.park(&batch.park),
                Part::Suspend => self.suspend(&batch.suspend, &mut answers)?,
                Part::Unsplice => self.unsplice(&batch.unsplice)?,
                Part::SendFirst => self.send(&mut batch.first, &mut answers),
                Part::Splice => refused = self.splice(&batch.splice, &mut answers),
                Part::Hasten => refused |= self.hasten(&batch.hasten, &mut answers),
                // What the kernel refused is parked before its bytes go: a daemon that died in between would let them be said again.
                Part::Send if refused => {}
                Part::Send => {
                    self.send(&mut batch.send, &mut answers);
                    batch.send.clear();
                }
                Part::SpeedUp => self.speed_up_spliced(),
                Part::Record => self.record(&batch.record),
                Part::Resume => self.resume(&batch.resume)?,
            }
        }
        Ok(answers)
    }

    fn inspect(&mut self, syns: &mut Vec<(Client, Vec<u8>)>, answers: &mut Vec<Answer>) -> Result<()> {
        for (client, syn) in syns.drain(..) {
            let found = self.conntrack.get(client, self.service).context("looking for a splice")?;
            let state = found.map_or(EntryState::Missing, |status| state(status.state));
            answers.push(Answer::State(client, state, syn));
        }
        Ok(())
    }

    /// Their packets pass from now on.
    fn resume(&mut self, clients: &[Client]) -> Result<()> {
        self.suspended.delete(clients).context("un-queueing flows")?;
        let Some(fast) = &self.fast else { return Ok(()) };
        clients.iter().try_for_each(|client| fast.let_begin(*client)).context("letting clients begin anew")
    }

    fn speed_up_spliced(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.speed_up(entry);
        }
        self.entries = entries;
    }

    /// What the kernel translates goes the fast path from now on, where it can; where not, the client's next connection does not begin
    /// there before this one is forgotten.
    fn speed_up(&mut self, entry: &SpliceEntry) {
        let Some(fast) = &self.fast else { return };
        match fast.add(entry) {
            Ok(true) => self.sped_up += 1,
            Ok(false) => self.leave_alone(entry.client),
            Err(error) => tracing::debug!(client = %entry.client, %error, "not on the fast path"),
        }
    }

    /// The fast path has nothing to do with this client until conntrack has forgotten its connection.
    pub(super) fn leave_alone(&self, client: Client) {
        if let Some(Err(error)) = self.fast.as_ref().map(|fast| fast.leave_alone(client)) {
            tracing::debug!(%client, %error, "not kept off the fast path");
        }
    }

    /// Conntrack has.
    pub(super) fn leave_alone_no_longer(&self, client: Client) -> Result<()> {
        self.fast
            .as_ref()
            .map_or(Ok(()), |fast| fast.leave_alone_no_longer(client))
            .context("letting clients begin anew")
    }

    /// Their answers to SYNs need not be queued.
    pub(super) fn know_backends(&self, backends: impl IntoIterator<Item = SocketAddr>) {
        if let Some(Err(error)) = self.fast.as_ref().map(|fast| fast.know_backends(backends)) {
            tracing::debug!(%error, "answers of backends are queued");
        }
    }

    /// For operators.
    pub(super) fn counters(&self) -> [(String, u64); 1] {
        [("fast_path_added".to_owned(), self.sped_up)]
    }

    /// The same for what an earlier daemon spliced.
    pub(super) fn speed_up_splice(&mut self, splice: &KernelSplice) {
        self.speed_up(&entry_of(splice, self.service, self.timeout_s));
    }

    /// The fast path translates most of it; its owner sees a segment of each side well before it would forget the connection.
    /// False: it does not.
    fn speed_up_parked(&mut self, parked: &Parked, to_its_end: bool) -> bool {
        let Some(fast) = &self.fast else { return false };
        let entry = entry_of(&parked.splice, self.service, self.timeout_s);
        let shown_every = Duration::from_secs(u64::from(self.timeout_s / 4).clamp(1, MOST_UNSEEN_S));
        let now = Duration::from_nanos(daemon::now().as_nanos());
        let show = (now + shown_every, shown_every);
        let recorded = Recorded { rescale: parked.rescale(), to_its_end, rest: parked.rest(), show };
        let added = fast.add_recorded(&entry, &recorded).unwrap_or_else(|error| {
            tracing::debug!(client = %entry.client, %error, "not on the fast path");
            false
        });
        self.sped_up += u64::from(added);
        added
    }

    fn record(&mut self, connections: &[Parked]) {
        for parked in connections {
            self.speed_up_parked(parked, false);
        }
    }

    /// True: some was refused.
    fn hasten(&mut self, young: &[Parked], answers: &mut Vec<Answer>) -> bool {
        let before = answers.len();
        for parked in young {
            if !self.speed_up_parked(parked, true) {
                answers.push(Answer::Recalled(parked.splice.client, [None; 2]));
            }
        }
        answers.len() > before
    }

    fn look(&self, clients: &[Client], answers: &mut Vec<Answer>) {
        for client in clients {
            let found = fast::look(self.fast.as_deref(), *client);
            answers.push(found.map_or(Answer::Displaced(*client), |passed| Answer::Looked(*client, passed)));
        }
    }

    fn recall(&self, clients: &[Client], answers: &mut Vec<Answer>) {
        for client in clients {
            answers.push(Answer::Recalled(*client, fast::take(self.fast.as_deref(), *client)));
        }
    }

    /// No segment of this client takes the fast path any more.
    pub(super) fn slow_down(&self, client: Client) -> Result<()> {
        self.fast.as_ref().map_or(Ok(()), |fast| fast.remove(client)).context("leaving the fast path")
    }

    fn unsplice(&mut self, clients: &[Client]) -> Result<()> {
        if clients.is_empty() {
            return Ok(());
        }
        if let Some(fast) = &self.fast {
            let left = clients.iter().try_for_each(|client| fast.withdraw(*client));
            left.context("leaving the fast path")?;
        }
        let flows: Vec<_> = clients.iter().map(|client| (*client, self.service)).collect();
        let results = self.conntrack.delete_all(&flows);
        results.into_iter().try_for_each(|result| result.map(drop)).context("deleting a splice")
    }

    /// The entries of what may go the fast path as well stay in `entries`. True: some other is not there, or of no use.
    fn splice(&mut self, splices: &[KernelSplice], answers: &mut Vec<Answer>) -> bool {
        let mut entries = std::mem::take(&mut self.entries);
        entries.clear();
        entries.extend(splices.iter().map(|splice| entry_of(splice, self.service, self.timeout_s)));
        let mut created = self.conntrack.create_all(&entries).into_iter();
        entries.retain(|entry| {
            let created = created.next().unwrap_or(Ok(()));
            if let Err(error) = created.or_else(|error| replace(&mut self.conntrack, entry, error)) {
                tracing::warn!(client = %entry.client, %error, "the kernel refused a splice; going on in userspace");
                answers.push(Answer::Refused(entry.client));
                return false;
            }
            // If it was young, conntrack translates between this and what follows.
            let passed = fast::take(self.fast.as_deref(), entry.client);
            let closed = passed.iter().flatten().any(|side| side.fin);
            if closed {
                answers.push(Answer::Closed(entry.client, passed));
            }
            !closed
        });
        let refused = entries.len() < splices.len();
        self.entries = entries;
        refused
    }

    /// Off the fast path first: what comes in between is queued after conntrack.
    fn suspend(&mut self, clients: &[Client], answers: &mut Vec<Answer>) -> Result<()> {
        if let Some(fast) = &self.fast {
            for client in clients {
                let passed = fast.keep_off(*client).context("leaving the fast path")?;
                if passed.iter().any(Option::is_some) {
                    answers.push(Answer::Passed(*client, passed));
                }
            }
        }
        self.suspended.add(clients).context("queueing flows")
    }

    /// Renewed before half of its time has passed.
    fn park(&mut self, parked: &[Parked]) {
        self.entries.clear();
        let timeout_s = self.timeout_s.saturating_mul(2);
        self.entries.extend(parked.iter().map(|parked| entry_to_park(parked, self.service, timeout_s)));
        for (entry, created) in self.entries.iter().zip(self.conntrack.create_all(&self.entries)) {
            if let Err(error) = created.or_else(|error| replace(&mut self.conntrack, entry, error)) {
                tracing::debug!(client = %entry.client, %error, "not kept for the next daemon");
            }
        }
    }

    fn send(&mut self, packets: &mut [Vec<u8>], answers: &mut Vec<Answer>) {
        if packets.is_empty() {
            return;
        }
        let sent = self.raw.send_batch(packets);
        if sent.sent < packets.len() {
            tracing::debug!(
                too_long = sent.too_long.len(),
                no_room = sent.no_room,
                failed = sent.failed,
                "packets not sent"
            );
        }
        for index in sent.too_long {
            if let Some(packet) = packets.get_mut(index) {
                answers.push(Answer::TooLong(std::mem::take(packet)));
            }
        }
    }
}

/// An entry of an earlier connection of this client is in the way.
fn replace(conntrack: &mut Conntrack, entry: &SpliceEntry, error: Error) -> Result<(), Error> {
    if !matches!(error, Error::Exists) {
        return Err(error);
    }
    conntrack.delete(entry.client, entry.service)?;
    conntrack.create(entry)
}
