//! Executing the engine's actions: conntrack entries, set elements, raw packets.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use cluster::config::Cluster;
use cluster::control::{Client, FromProxy};
use netfilter::conntrack::{Conntrack, SpliceEntry, TcpState};
use netfilter::raw::RawSender;
use netfilter::sets::Sets;
use netfilter::{Error, Family};
use nfq_splice::{Action, Engine, EntryState, KernelSplice, Parked};
use nft_rules::{PARKED_MARK, PROXY_TABLE, QUEUED_SET, RAW_MARK, SPLICED_MARK};
use packet::Time;

/// Elements of a set that are deleted in one transaction.
const ELEMENTS: usize = 256;

/// What the kernel answered to an action.
pub(super) enum Answer {
    /// It would not take a splice.
    Refused(Client),
    /// A packet was longer than the route's MTU.
    TooLong(Vec<u8>),
    /// The state of an entry.
    State(Client, EntryState, Vec<u8>),
}

impl Answer {
    pub(super) fn give(self, engine: &mut Engine, now: Time) {
        match self {
            Self::Refused(client) => engine.handle_splice_failed(now, client),
            Self::TooLong(packet) => engine.handle_too_long(now, &packet),
            Self::State(client, state, syn) => engine.handle_entry_state(now, client, state, &syn),
        }
    }
}

pub(super) struct Kernel {
    conntrack: Conntrack,
    suspended: Sets,
    raw: RawSender,
    service: SocketAddr,
    timeout_s: u32,
    outgoing: Vec<Vec<u8>>,
    answers: Vec<Answer>,
}

impl Kernel {
    pub(super) fn open(cluster: &Cluster) -> Result<Self> {
        let service = cluster.service.address;
        let family = if service.is_ipv4() { Family::Ip } else { Family::Ip6 };
        Ok(Self {
            conntrack: Conntrack::open().context("opening ctnetlink")?,
            suspended: Sets::open(family, PROXY_TABLE, QUEUED_SET)?,
            raw: RawSender::open(RAW_MARK).context("opening the raw socket")?,
            service,
            timeout_s: u32::try_from(cluster.splice.idle_timeout_s).unwrap_or(u32::MAX),
            outgoing: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Nobody translates what an earlier daemon was about to splice: its connections end with a reset. Gives their clients.
    pub(super) fn resume_lost(&mut self, parked: &[Parked]) -> Result<Vec<Client>> {
        let kept: BTreeSet<Client> = parked.iter().map(|parked| parked.splice.client).collect();
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
        Ok(ours.map(|status| Parked::new(splice_of(&status.entry), status.entry.client_offset)).collect())
    }

    /// All splices in the kernel.
    pub(super) fn entries(&mut self) -> Result<Vec<KernelSplice>> {
        let dump = self.conntrack.dump(SPLICED_MARK).context("reading conntrack")?;
        let ours = dump.into_iter().filter(|status| status.entry.service == self.service);
        Ok(ours
            .filter(|status| state(status.state) == EntryState::Open)
            .map(|status| splice_of(&status.entry))
            .collect())
    }

    pub(super) fn has_entry(&mut self, client: Client) -> Result<bool> {
        Ok(self.conntrack.get(client, self.service)?.is_some_and(|status| status.entry.mark == SPLICED_MARK))
    }

    /// Executes one action; a message for the managers is handed back.
    pub(super) fn execute(&mut self, action: Action) -> Result<Option<FromProxy>> {
        match action {
            Action::Send(packet) => {
                self.outgoing.push(packet);
                return Ok(None);
            }
            Action::Tell(message) => return Ok(Some(message)),
            _ => self.flush(),
        }
        match action {
            Action::Suspend(client) => self.suspended.add(&[client]).context("queueing a flow")?,
            Action::Resume(client) => self.suspended.delete(&[client]).context("un-queueing a flow")?,
            Action::Splice(splice) => self.splice(&splice),
            Action::Park(parked) => self.park(&parked),
            Action::Unsplice(client) => {
                self.conntrack.delete(client, self.service).context("deleting a splice")?;
            }
            Action::Inspect { client, syn } => {
                let found = self.conntrack.get(client, self.service).context("looking for a splice")?;
                let state = found.map_or(EntryState::Missing, |status| state(status.state));
                self.answers.push(Answer::State(client, state, syn));
            }
            Action::Send(_) | Action::Tell(_) => {}
        }
        Ok(None)
    }

    /// Renewed before half of its time has passed.
    fn park(&mut self, parked: &Parked) {
        let entry = SpliceEntry {
            client_offset: parked.rest(),
            mark: PARKED_MARK,
            timeout_s: self.timeout_s.saturating_mul(2),
            ..self.entry_of(&parked.splice)
        };
        if let Err(error) = self.replace(&entry) {
            tracing::debug!(client = %entry.client, %error, "not kept for the next daemon");
        }
    }

    fn replace(&mut self, entry: &SpliceEntry) -> Result<(), Error> {
        match self.conntrack.create(entry) {
            Err(Error::Exists) => {
                let _ = self.conntrack.delete(entry.client, entry.service);
                self.conntrack.create(entry)
            }
            created => created,
        }
    }

    fn splice(&mut self, splice: &KernelSplice) {
        let entry = self.entry_of(splice);
        if let Err(error) = self.replace(&entry) {
            tracing::warn!(client = %splice.client, %error, "the kernel refused a splice; going on in userspace");
            self.answers.push(Answer::Refused(splice.client));
        }
    }

    /// Sends what has been collected.
    pub(super) fn flush(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let sent = self.raw.send_batch(&self.outgoing);
        if sent.sent < self.outgoing.len() {
            tracing::debug!(
                too_long = sent.too_long.len(),
                no_room = sent.no_room,
                failed = sent.failed,
                "packets not sent"
            );
        }
        for index in sent.too_long {
            if let Some(packet) = self.outgoing.get_mut(index) {
                self.answers.push(Answer::TooLong(std::mem::take(packet)));
            }
        }
        self.outgoing.clear();
    }

    pub(super) fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    fn entry_of(&self, splice: &KernelSplice) -> SpliceEntry {
        SpliceEntry {
            client: splice.client,
            service: self.service,
            backend: splice.backend,
            server_offset: splice.delta,
            client_offset: 0,
            // The kernel subtracts it from the backend's TSval.
            timestamp_offset: splice.timestamps.unwrap_or(0).wrapping_neg(),
            has_timestamps: splice.timestamps.is_some(),
            mark: SPLICED_MARK,
            timeout_s: self.timeout_s,
            window_scales: splice.window_scales,
            sack_permitted: splice.sack_permitted,
        }
    }
}

fn splice_of(entry: &SpliceEntry) -> KernelSplice {
    KernelSplice {
        client: entry.client,
        backend: entry.backend,
        delta: entry.server_offset,
        timestamps: entry.has_timestamps.then(|| entry.timestamp_offset.wrapping_neg()),
        window_scales: entry.window_scales,
        sack_permitted: entry.sack_permitted,
    }
}

fn state(state: TcpState) -> EntryState {
    match state {
        TcpState::TimeWait | TcpState::Close => EntryState::Closed,
        _ => EntryState::Open,
    }
}
