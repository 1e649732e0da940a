//! The table of connections: the many that the kernel translates in few bytes each, the others whole, with their timers.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use cluster::control::{Client, ConnectionStatus};
use packet::{TcpSegment, Time};

use crate::common::Core;
use crate::compact::Compact;
use crate::flow::{Flow, Splice, State};
use crate::key::Key;
use crate::timers::Timers;
use crate::window::Window;

/// Windows that are remembered: more than the splices of one batch.
const WINDOWS: usize = 256;

/// One place in the table: small, for a third of them is empty.
enum Entry {
    Kernel(Box<Compact>),
    Whole(Box<Flow>),
}

/// All connections of one engine. The hash is keyed with random numbers: clients choose their ports.
pub(crate) struct Table {
    service: SocketAddr,
    entries: HashMap<Key, Entry>,
    timers: Timers<Key>,
    /// Of the latest splices, in case that the kernel refuses one.
    windows: VecDeque<(Key, Window)>,
    tally: Tally,
}

/// Connections in some states, and what they keep.
#[derive(Default)]
struct Tally {
    half_open: usize,
    recovering: usize,
}

impl Tally {
    fn add(&mut self, core: &mut Core, flow: &Flow) {
        self.half_open += usize::from(flow.is_half_open());
        self.recovering += usize::from(flow.is_recovering());
        core.setup_bytes += flow.setup_bytes();
    }

    fn remove(&mut self, core: &mut Core, flow: &Flow) {
        self.half_open -= usize::from(flow.is_half_open());
        self.recovering -= usize::from(flow.is_recovering());
        core.setup_bytes -= flow.setup_bytes();
    }
}

impl Table {
    /// No connections to `service` yet.
    pub(crate) fn new(service: SocketAddr) -> Self {
        Self {
            service,
            entries: HashMap::new(),
            timers: Timers::new(),
            windows: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Connections that are not established yet.
    pub(crate) fn half_open(&self) -> usize {
        self.tally.half_open
    }

    /// Connections between two backends.
    pub(crate) fn recovering(&self) -> usize {
        self.tally.recovering
    }

    /// Works on a client's connection where it is. `None`: there is none.
    pub(crate) fn with<T>(
        &mut self,
        core: &mut Core,
        client: Client,
        work: impl FnOnce(&mut Core, &mut Flow) -> T,
    ) -> Option<T> {
        let Self { service, entries, timers, windows, tally } = self;
        let key = Key::from(client);
        let entry = entries.get_mut(&key)?;
        if let Entry::Kernel(compact) = entry {
            *entry = Entry::Whole(Box::new(compact.expand(client, *service, core.now)));
        }
        let Entry::Whole(flow) = entry else { return None };
        tally.remove(core, flow);
        // A new connection of the same client may take the place of this one.
        let timer = flow.timer;
        // A SYN whose answer nobody acknowledged may have been a forger's, in the same millisecond as the client's own.
        let unproved = flow.is_half_open();
        let result = work(core, flow);
        flow.timer = timer;
        if matches!(flow.state, State::Gone) {
            timers.set(key, &mut flow.timer, None);
            if !unproved {
                core.stateless.spend(core.now, client, flow.began(core.now));
            }
            entries.remove(&key);
            return Some(result);
        }
        tally.add(core, flow);
        let wanted = flow.deadline();
        timers.set(key, &mut flow.timer, wanted);
        if let Some(compact) = Compact::of(flow) {
            remember(windows, key, flow);
            *entry = Entry::Kernel(Box::new(compact));
        }
        Some(result)
    }

    /// Takes a connection out, to be put back or not.
    pub(crate) fn take(&mut self, core: &mut Core, client: Client) -> Option<Flow> {
        let key = Key::from(client);
        let mut flow = match self.entries.remove(&key)? {
            Entry::Kernel(compact) => compact.expand(client, self.service, core.now),
            Entry::Whole(flow) => *flow,
        };
        self.tally.remove(core, &flow);
        self.timers.set(key, &mut flow.timer, None);
        Some(flow)
    }

    /// Puts it in, unless it is over. It must not be there.
    pub(crate) fn put(&mut self, core: &mut Core, mut flow: Flow) {
        if matches!(flow.state, State::Gone) {
            return core.stateless.spend(core.now, flow.client(), flow.began(core.now));
        }
        let key = Key::from(flow.client());
        self.tally.add(core, &flow);
        let wanted = flow.deadline();
        self.timers.set(key, &mut flow.timer, wanted);
        let entry = match Compact::of(&flow) {
            Some(compact) => {
                remember(&mut self.windows, key, &flow);
                Entry::Kernel(Box::new(compact))
            }
            None => Entry::Whole(Box::new(flow)),
        };
        self.entries.insert(key, entry);
    }

    /// What was known of the windows of a connection that was spliced just now.
    pub(crate) fn window(&self, client: Client) -> Option<Window> {
        let key = Key::from(client);
        self.windows.iter().rev().find(|(known, _)| *known == key).map(|(_, window)| *window)
    }

    /// A backend's segment on a connection that the kernel has just been asked to translate: the kernel may refuse.
    pub(crate) fn note_backend(&mut self, client: Client, segment: &TcpSegment<'_>, now: Time) {
        let key = Key::from(client);
        let Some(Entry::Kernel(compact)) = self.entries.get(&key) else { return };
        let Some((_, window)) = self.windows.iter_mut().rev().find(|(known, _)| *known == key) else {
            return;
        };
        if let State::Spliced(splice) = compact.expand(client, self.service, now).state {
            window.note_backend(segment, splice.delta, splice.server_scale);
        }
    }

    /// When [`Self::next_due`] will have something.
    pub(crate) fn first_timer(&self) -> Option<Time> {
        self.timers.first()
    }

    /// A client whose connection is due.
    pub(crate) fn next_due(&mut self, now: Time) -> Option<Client> {
        while let Some((time, key)) = self.timers.pop_due(now) {
            if let Some(Entry::Whole(flow)) = self.entries.get_mut(&key)
                && flow.timer == Some(time)
            {
                self.timers.taken(&mut flow.timer);
                if flow.deadline().is_some_and(|deadline| deadline <= now) {
                    return Some(key.into());
                }
                let wanted = flow.deadline();
                self.timers.set(key, &mut flow.timer, wanted);
            }
        }
        let entries = &self.entries;
        self.timers.clean(
            |time, key| matches!(entries.get(&key), Some(Entry::Whole(flow)) if flow.timer == Some(time)),
        );
        None
    }

    /// Clients whose connections the kernel translates.
    pub(crate) fn kernel_clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.entries.iter().filter(|(_, entry)| entry.in_kernel()).map(|(key, _)| (*key).into())
    }

    /// When a connection that the kernel translates was spliced, to a millisecond.
    pub(crate) fn kernel_seen(&self, client: Client, now: Time) -> Option<Time> {
        match self.entries.get(&client.into())? {
            Entry::Kernel(compact) => Some(compact.seen(now)),
            Entry::Whole(flow) => match &flow.state {
                State::Spliced(splice) if splice.kernel => Some(splice.idle.seen),
                _ => None,
            },
        }
    }

    /// The proxy itself translates this client's connection, as far as the fast path does not.
    pub(crate) fn is_in_userspace(&self, client: Client) -> bool {
        let Some(Entry::Whole(flow)) = self.entries.get(&client.into()) else { return false };
        matches!(&flow.state, State::Spliced(splice) if !splice.kernel)
    }

    /// The backend of each connection that has one.
    pub(crate) fn backends(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Kernel(compact) => Some(compact.backend()),
            Entry::Whole(flow) => flow.backend(),
        })
    }

    /// All connections, for `resplice status`.
    pub(crate) fn status(&self) -> impl Iterator<Item = ConnectionStatus> + '_ {
        self.entries.iter().map(|(key, entry)| match entry {
            Entry::Kernel(compact) => ConnectionStatus {
                client: (*key).into(),
                backend: Some(compact.backend()),
                state: "spliced-kernel".to_owned(),
                resplices: compact.resplices(),
            },
            Entry::Whole(flow) => ConnectionStatus {
                client: (*key).into(),
                backend: flow.backend(),
                state: flow.state_name().to_owned(),
                resplices: flow.resplices,
            },
        })
    }
}

fn remember(windows: &mut VecDeque<(Key, Window)>, key: Key, flow: &Flow) {
    if let State::Spliced(Splice { window: Some(window), .. }) = &flow.state {
        if windows.len() >= WINDOWS {
            windows.pop_front();
        }
        windows.push_back((key, *window));
    }
}

impl Entry {
    fn in_kernel(&self) -> bool {
        match self {
            Self::Kernel(_) => true,
            Self::Whole(flow) => matches!(&flow.state, State::Spliced(splice) if splice.kernel),
        }
    }
}
