//! Splices translated where packets come in, before conntrack and routing, by a BPF program: what conntrack's entry says, for
//! the plain segments of a connection under way, faster. It is a cache of entries: whatever it does not know or does not
//! take goes on to conntrack, and conntrack still sees enough to know whether the connection lives. A connection without an entry, which its
//! owner translates, can be there as well: then the program records what passes for him.
//!
//! The program stays when its owner dies, like the entries. It needs Linux 6.6 (TCX), `CAP_BPF`, IPv4 and timestamps.
//!
//! Call order: [`FastPath::open`], [`FastPath::kept`] and [`FastPath::add`] what an earlier owner spliced, [`FastPath::take_over`], [`FastPath::attach`]. Then `add` after an
//! entry was created, or [`FastPath::add_recorded`], and [`FastPath::remove`] *before* an entry is deleted or its packets are to be queued.

mod answers;
mod assembler;
mod hand_over;
mod handshake;
mod judge;
mod program;
mod ring;
mod siphash;
mod syscalls;
mod tear_down;
mod trial;
mod value;

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use crate::Error;
use crate::conntrack::SpliceEntry;
pub use answers::{Answered, Answers};
use program::KEY;
pub use ring::Ring;
pub use trial::{Frame, Tried};
use value::{BOTH, Direction, VALUE};

/// The maps, and the program that reads them.
pub struct FastPath {
    maps: Maps<OwnedFd>,
    rings: Vec<OwnedFd>,
    program: OwnedFd,
}

/// Connections by client; how new ones are answered, and how often that happened; backends; the rings of the owner's threads.
#[derive(Debug, Clone, Copy)]
struct Maps<T> {
    connections: T,
    answers: T,
    counts: T,
    backends: T,
    rings: T,
}

/// Who gets what is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// Threads of the owner, at least one. A client's is `jhash` of its address and port, scaled to this number.
    pub threads: u16,
    /// Of that hash.
    pub seed: u32,
}

/// Backends whose answers are handed over at most; those of others take the long way.
const BACKENDS: u32 = 1024;

/// What went by of one side of a connection: as its segments said it themselves, before translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// One after the last byte, or after the FIN.
    pub end: u32,
    /// That side's FIN is the last of it.
    pub fin: bool,
    /// The acknowledgement.
    pub ack: u32,
    /// The window's field beside that.
    pub window: u16,
    /// TSval and TSecr: of a server the newest, of a client those beside the acknowledgement.
    pub timestamps: (u32, u32),
}

/// Window scales, as they come and as they leave, of what a client sends and of what it gets.
pub type Rescale = [(u8, u8); 2];

/// How a connection without an entry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Window scales.
    pub rescale: Rescale,
    /// Also each side's FIN is translated and recorded; otherwise it is the owner's.
    pub to_its_end: bool,
    /// Whatever the owner wants to find in [`Kept`].
    pub rest: u32,
    /// When the owner is shown a segment of each side, and how long after that again: what `CLOCK_MONOTONIC` will say.
    pub show: (Duration, Duration),
}

/// What an earlier owner's program still keeps without an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// As it was added; `mark` and `timeout_s` are 0.
    pub entry: SpliceEntry,
    /// Of [`Recorded`].
    pub rest: u32,
    /// What went by of its client, and of its server.
    pub passed: [Option<Passed>; 2],
}

impl Kept {
    /// Both sides have sent a FIN and acknowledge that of the other.
    pub fn has_ended(&self) -> bool {
        let [Some(client), Some(server)] = self.passed else { return false };
        let SpliceEntry { server_offset, client_offset, .. } = self.entry;
        client.fin
            && server.fin
            && client.ack.wrapping_sub(server_offset) == server.end
            && server.ack.wrapping_sub(client_offset) == client.end
    }
}

/// Conntrack forgets what it does not see for longer than its shortest timeout for established connections.
const CONNTRACK_SHOWN_EVERY: Duration = Duration::from_secs(1);

impl FastPath {
    /// Room for `connections`; the program does nothing yet.
    pub fn open(connections: u32, owners: Owners) -> Result<Self, Error> {
        let system = |what| move |error| Error::system(what, error);
        let rings = (0..owners.threads.max(1)).map(|_| ring::create()).collect::<Result<Vec<_>, _>>();
        let rings = rings.map_err(system("make BPF rings"))?;
        let maps = Maps::create(connections.max(1), &rings).map_err(system("make BPF maps"))?;
        let code = cfg!(target_endian = "little").then(|| program::program(maps.raw(), owners));
        let code = code.flatten().ok_or(Error::Answer("assemble the BPF program"))?;
        let program = syscalls::load(&code).map_err(system("load the BPF program"))?;
        Ok(Self { maps, rings, program })
    }

    /// What is handed to that thread, counted from 0. To be asked for once.
    pub fn ring(&self, thread: u16) -> Result<Ring, Error> {
        let ring = self.rings.get(usize::from(thread)).ok_or(Error::Answer("find a BPF ring"))?;
        let opened = ring.try_clone().and_then(Ring::map);
        opened.map_err(|error| Error::system("map a BPF ring", error))
    }

    /// Answers of these to SYNs are handed over; of those told before no longer.
    pub fn know_backends(&self, backends: impl IntoIterator<Item = SocketAddr>) -> Result<(), Error> {
        let system = |error| Error::system("write a BPF map", error);
        let wanted = backends.into_iter().filter_map(|backend| match backend {
            SocketAddr::V4(backend) => Some(key(backend)),
            SocketAddr::V6(_) => None,
        });
        let wanted: BTreeSet<_> = wanted.take(BACKENDS as usize).collect();
        let map = self.maps.backends.as_fd();
        let there = syscalls::read_all::<KEY, { ONLY.len() }>(map).map_err(system)?;
        for gone in there.keys().filter(|backend| !wanted.contains(*backend)) {
            syscalls::delete(map, gone).map_err(system)?;
        }
        wanted.iter().try_for_each(|backend| syscalls::update(map, backend, &ONLY)).map_err(system)
    }

    /// Learns from an earlier owner's program what the two sides of connections that were added have acknowledged, which conntrack was not
    /// shown; before [`Self::attach`].
    pub fn take_over(&self) -> Result<(), Error> {
        let system = |error| Error::system("read an earlier BPF map", error);
        let Some(earlier) = syscalls::earlier_map(KEY, BOTH).map_err(system)? else { return Ok(()) };
        let values = syscalls::read_all::<KEY, BOTH>(earlier.as_fd()).map_err(system)?;
        let map = self.maps.connections.as_fd();
        for (client, value) in values {
            let mut own = [0; BOTH];
            let found = syscalls::get(map, syscalls::Get::Look, &client, &mut own).map_err(system)?;
            if let Some(value) = value::taken_over(&value, &own).filter(|_| found) {
                syscalls::update(map, &client, &value).map_err(system)?;
            }
        }
        Ok(())
    }

    /// Puts the program to all Ethernet interfaces of this network namespace, in the place of an earlier owner's. Gives their number.
    pub fn attach(&self) -> Result<usize, Error> {
        each_interface(|interface| syscalls::attach(self.program.as_fd(), interface))
    }

    /// Takes an earlier owner's program away.
    pub fn detach_any() -> Result<(), Error> {
        each_interface(syscalls::detach).map(drop)
    }

    /// From now on the program translates this connection, which has an entry; false if it cannot.
    pub fn add(&self, entry: &SpliceEntry) -> Result<bool, Error> {
        let Some((client, directions)) = directions(entry, [(0, 0); 2], (0, 0)) else { return Ok(false) };
        self.put(
            client,
            &directions.map(|direction| direction.bytes(Duration::ZERO, CONNTRACK_SHOWN_EVERY)),
        )?;
        Ok(true)
    }

    /// The same of one that has none, and that somebody else translates where the program does not: he is shown a segment of each side
    /// now and then, and what begins or ends the connection; of all else the program keeps a record. Not anew if
    /// it is there already.
    pub fn add_recorded(&self, entry: &SpliceEntry, recorded: &Recorded) -> Result<bool, Error> {
        let bit = |set, bit| if set { bit } else { 0 };
        let kind = value::RECORDED
            | bit(recorded.to_its_end, value::TO_ITS_END)
            | bit(entry.sack_permitted, value::SACK);
        let Some((client, directions)) = directions(entry, recorded.rescale, (kind, recorded.rest)) else {
            return Ok(false);
        };
        let (show_at, shown_every) = recorded.show;
        let bytes = directions.map(|direction| direction.bytes(show_at, shown_every));
        // One recorded to its end is new.
        let there = if recorded.to_its_end { None } else { self.get(syscalls::Get::Look, client)? };
        let agree =
            |there: [[u8; VALUE]; 2]| there.iter().zip(&bytes).all(|(one, other)| value::agree(one, other));
        if !there.is_some_and(agree) {
            self.put(client, &bytes)?;
        }
        Ok(true)
    }

    /// What was recorded of a connection: of its client, and of its server. `None`: it is not there. Of one recorded to its end that means
    /// that it had ended, and that the program has answered another SYN of this client since.
    pub fn look(&self, client: SocketAddr) -> Result<Option<[Option<Passed>; 2]>, Error> {
        self.read(syscalls::Get::Look, client)
    }

    /// The same, and it is removed.
    pub fn take(&self, client: SocketAddr) -> Result<[Option<Passed>; 2], Error> {
        Ok(self.read(syscalls::Get::Take, client)?.unwrap_or_default())
    }

    /// What the program of an earlier owner keeps without entries in conntrack.
    pub fn kept() -> Result<Vec<Kept>, Error> {
        let system = |error| Error::system("read an earlier BPF map", error);
        let Some(map) = syscalls::earlier_map(KEY, BOTH).map_err(system)? else { return Ok(Vec::new()) };
        let values = syscalls::read_all::<KEY, BOTH>(map.as_fd()).map_err(system)?;
        let kept = values.iter().filter_map(|(key, both)| value::kept(client_of(*key), &value::split(both)));
        Ok(kept.collect())
    }

    fn read(&self, get: syscalls::Get, client: SocketAddr) -> Result<Option<[Option<Passed>; 2]>, Error> {
        let SocketAddr::V4(client) = client else { return Ok(None) };
        let found = self.get(get, client)?;
        Ok(found.map(|directions| directions.map(|side| value::passed(&side))))
    }

    fn get(&self, get: syscalls::Get, client: SocketAddrV4) -> Result<Option<[[u8; VALUE]; 2]>, Error> {
        let mut both = [0; BOTH];
        let found = syscalls::get(self.maps.connections.as_fd(), get, &key(client), &mut both);
        let found = found.map_err(|error| Error::system("read a BPF map", error))?;
        Ok(found.then(|| value::split(&both)))
    }

    fn put(&self, client: SocketAddrV4, directions: &[[u8; VALUE]; 2]) -> Result<(), Error> {
        syscalls::update(self.maps.connections.as_fd(), &key(client), &value::join(directions))
            .map_err(|error| Error::system("add to a BPF map", error))
    }

    /// From now on the program answers SYNs to the service so, of clients that have no connection on the fast path.
    pub fn answer(&self, answers: &Answers) -> Result<(), Error> {
        let written = syscalls::update(self.maps.answers.as_fd(), &ONLY, &answers.bytes());
        written.map_err(|error| Error::system("write a BPF map", error))
    }

    /// How often it did.
    pub fn answered(&self) -> Result<Answered, Error> {
        let mut counts = [0; answers::COUNTS];
        let read = syscalls::get(self.maps.counts.as_fd(), syscalls::Get::Look, &ONLY, &mut counts);
        read.map_err(|error| Error::system("read a BPF map", error))?;
        Ok(answers::answered(&counts))
    }

    /// This client's packets are queued before conntrack: its segments go on as they are, and so do its SYNs. Gives what was
    /// recorded.
    pub fn keep_off(&self, client: SocketAddr) -> Result<[Option<Passed>; 2], Error> {
        let passed = self.take(client)?;
        let SocketAddr::V4(client) = client else { return Ok(passed) };
        self.put_in_its_place(client, value::QUEUED)?;
        Ok(passed)
    }

    /// This client has a connection that is not on the fast path, or ends: its segments go on as they are, and so do its SYNs.
    pub fn leave_alone(&self, client: SocketAddr) -> Result<(), Error> {
        let SocketAddr::V4(client) = client else { return Ok(()) };
        self.put_in_its_place(client, value::ENDING)
    }

    /// It has none any more, or one on the fast path.
    pub fn leave_alone_no_longer(&self, client: SocketAddr) -> Result<(), Error> {
        let SocketAddr::V4(address) = client else { return Ok(()) };
        let found = self.get(syscalls::Get::Look, address)?;
        let ends = found.is_some_and(|found| value::kind(&found) == value::ENDING);
        if ends { self.remove(client) } else { Ok(()) }
    }

    /// Where there is no room, at least nothing is translated.
    fn put_in_its_place(&self, client: SocketAddrV4, kind: u8) -> Result<(), Error> {
        self.put(client, &value::kept_off(kind)).or_else(|_| self.remove(client.into()))
    }

    /// They are no longer; unless it has a connection on the fast path now, its SYNs are answered.
    pub fn let_begin(&self, client: SocketAddr) -> Result<(), Error> {
        let SocketAddr::V4(address) = client else { return Ok(()) };
        let found = self.get(syscalls::Get::Look, address)?;
        if found == Some(value::kept_off(value::QUEUED)) { self.remove(client) } else { Ok(()) }
    }

    /// What was recorded of a connection that ends, or is to be fenced: its segments go on as they are from now on, and so do
    /// SYNs of this client.
    pub fn set_aside(&self, client: SocketAddr) -> Result<[Option<Passed>; 2], Error> {
        self.displace(client, value::in_its_place)
    }

    /// A connection has ended, or its entry is to be deleted. SYNs of a client whose packets are queued are not answered yet.
    pub fn withdraw(&self, client: SocketAddr) -> Result<(), Error> {
        let queued = |kind| value::in_its_place(kind).filter(|kind| *kind == value::QUEUED);
        self.displace(client, queued).map(drop)
    }

    fn displace(
        &self,
        client: SocketAddr,
        place: impl Fn(u8) -> Option<u8>,
    ) -> Result<[Option<Passed>; 2], Error> {
        let SocketAddr::V4(client) = client else { return Ok([None; 2]) };
        let Some(found) = self.get(syscalls::Get::Take, client)? else { return Ok([None; 2]) };
        if let Some(kind) = place(value::kind(&found)) {
            self.put_in_its_place(client, kind)?;
        }
        Ok(found.map(|side| value::passed(&side)))
    }

    /// From now on it does not.
    pub fn remove(&self, client: SocketAddr) -> Result<(), Error> {
        let SocketAddr::V4(client) = client else { return Ok(()) };
        let deleted = syscalls::delete(self.maps.connections.as_fd(), &key(client));
        deleted.map(drop).map_err(|error| Error::system("delete from a BPF map", error))
    }
}

/// The key of the only element of a map, and the value of elements that say nothing but that they are there.
const ONLY: [u8; 4] = [0; 4];

impl Maps<OwnedFd> {
    fn create(connections: u32, rings: &[OwnedFd]) -> std::io::Result<Self> {
        Ok(Self {
            connections: syscalls::create_map(KEY, BOTH, connections)?,
            answers: syscalls::create_cell(answers::ANSWERS)?,
            counts: syscalls::create_cell(answers::COUNTS)?,
            backends: syscalls::create_map(KEY, ONLY.len(), BACKENDS)?,
            rings: syscalls::create_list(rings)?,
        })
    }

    fn raw(&self) -> Maps<i32> {
        let Self { connections, answers, counts, backends, rings } = self;
        Maps {
            connections: connections.as_raw_fd(),
            answers: answers.as_raw_fd(),
            counts: counts.as_raw_fd(),
            backends: backends.as_raw_fd(),
            rings: rings.as_raw_fd(),
        }
    }
}

fn each_interface(work: impl Fn(u32) -> std::io::Result<()>) -> Result<usize, Error> {
    let system = |what| move |error| Error::system(what, error);
    let interfaces = syscalls::interfaces().map_err(system("list interfaces"))?;
    interfaces.iter().copied().try_for_each(work).map_err(system("attach a BPF program"))?;
    Ok(interfaces.len())
}

fn key(client: SocketAddrV4) -> [u8; KEY] {
    let [a, b, c, d] = client.ip().octets();
    let [e, f] = client.port().to_be_bytes();
    [a, b, c, d, e, f, 0, 0]
}

/// Whose key it is.
fn client_of([a, b, c, d, e, f, ..]: [u8; KEY]) -> SocketAddrV4 {
    SocketAddrV4::new([a, b, c, d].into(), u16::from_be_bytes([e, f]))
}

/// `None`: not both ends have timestamps, or addresses are IPv6.
fn directions(
    entry: &SpliceEntry,
    [to_backend, to_client]: Rescale,
    (kind, rest): (u8, u32),
) -> Option<(SocketAddrV4, [Direction; 2])> {
    let (SocketAddr::V4(client), SocketAddr::V4(service), SocketAddr::V4(backend)) =
        (entry.client, entry.service, entry.backend)
    else {
        return None;
    };
    let SpliceEntry { server_offset, client_offset, timestamp_offset, .. } = *entry;
    let to_backend = Direction {
        peer: service,
        new: backend,
        add: [client_offset, server_offset.wrapping_neg(), 0, timestamp_offset],
        scales: to_backend,
        kind,
        rest,
    };
    let to_client = Direction {
        peer: backend,
        new: service,
        add: [server_offset, client_offset.wrapping_neg(), timestamp_offset.wrapping_neg(), 0],
        scales: to_client,
        kind,
        rest,
    };
    entry.has_timestamps.then_some((client, [to_backend, to_client]))
}
