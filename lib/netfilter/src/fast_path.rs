//! Splices translated where packets come in, before conntrack and routing, by a BPF program: what conntrack's entry says, for
//! the plain segments of a connection under way, faster. It is a cache of entries: whatever it does not know or does not
//! take goes on to conntrack, and conntrack still sees enough to know whether the connection lives.
//!
//! The program stays when its owner dies, like the entries. It needs Linux 6.6 (TCX), `CAP_BPF`, IPv4 and timestamps.
//!
//! Call order: [`FastPath::open`], [`FastPath::add`] what an earlier owner spliced, [`FastPath::attach`]. Then `add` after an
//! entry was created, and [`FastPath::remove`] *before* an entry is deleted or its packets are to be queued.

mod assembler;
mod program;
mod syscalls;

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use crate::Error;
use crate::conntrack::SpliceEntry;
use program::{KEY, VALUE};

/// The map, and the program that reads it.
pub struct FastPath {
    map: OwnedFd,
    program: OwnedFd,
}

/// The segments of one direction that are taken, and how they are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Direction {
    /// Beside the client.
    peer: SocketAddrV4,
    /// In its place.
    new: SocketAddrV4,
    /// Added to sequence number, acknowledgement, TSval and TSecr.
    add: [u32; 4],
}

impl Direction {
    fn bytes(&self) -> [u8; VALUE] {
        let mut bytes = [0; VALUE];
        let add = self.add.map(u32::to_ne_bytes).concat();
        let parts: [(usize, &[u8]); 5] = [
            (0, &self.peer.ip().octets()),
            (4, &self.peer.port().to_be_bytes()),
            (6, &self.new.port().to_be_bytes()),
            (8, &self.new.ip().octets()),
            (12, &add),
        ];
        for (at, part) in parts {
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
        bytes
    }
}

impl FastPath {
    /// Room for `connections`; the program does nothing yet.
    pub fn open(connections: u32) -> Result<Self, Error> {
        let elements = connections.max(1).saturating_mul(2);
        let system = |what| move |error| Error::system(what, error);
        let map = syscalls::create_map(KEY, VALUE, elements).map_err(system("make a BPF map"))?;
        let code =
            cfg!(target_endian = "little").then(|| program::program(std::os::fd::AsRawFd::as_raw_fd(&map)));
        let code = code.flatten().ok_or(Error::Answer("assemble the BPF program"))?;
        let program = syscalls::load(&code).map_err(system("load the BPF program"))?;
        Ok(Self { map, program })
    }

    /// Puts the program to all Ethernet interfaces of this network namespace, in the place of an earlier owner's. Gives their number.
    pub fn attach(&self) -> Result<usize, Error> {
        each_interface(|interface| syscalls::attach(self.program.as_fd(), interface))
    }

    /// Takes an earlier owner's program away.
    pub fn detach_any() -> Result<(), Error> {
        each_interface(syscalls::detach).map(drop)
    }

    /// From now on the program translates this connection; false if it cannot.
    pub fn add(&self, entry: &SpliceEntry) -> Result<bool, Error> {
        let Some((client, to_backend, to_client)) = directions(entry) else { return Ok(false) };
        for (number, direction) in [(0, to_backend), (1, to_client)] {
            syscalls::update(self.map.as_fd(), &key(client, number), &direction.bytes())
                .map_err(|error| Error::system("add to a BPF map", error))?;
        }
        Ok(true)
    }

    /// From now on it does not.
    pub fn remove(&self, client: SocketAddr) -> Result<(), Error> {
        let SocketAddr::V4(client) = client else { return Ok(()) };
        for number in [0, 1] {
            syscalls::delete(self.map.as_fd(), &key(client, number))
                .map_err(|error| Error::system("delete from a BPF map", error))?;
        }
        Ok(())
    }
}

fn each_interface(work: impl Fn(u32) -> std::io::Result<()>) -> Result<usize, Error> {
    let system = |what| move |error| Error::system(what, error);
    let interfaces = syscalls::interfaces().map_err(system("list interfaces"))?;
    interfaces.iter().copied().try_for_each(work).map_err(system("attach a BPF program"))?;
    Ok(interfaces.len())
}

fn key(client: SocketAddrV4, direction: u16) -> [u8; KEY] {
    let [a, b, c, d] = client.ip().octets();
    let [e, f] = client.port().to_be_bytes();
    let [g, h] = direction.to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}

/// `None`: not both ends have timestamps, or addresses are IPv6.
fn directions(entry: &SpliceEntry) -> Option<(SocketAddrV4, Direction, Direction)> {
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
    };
    let to_client = Direction {
        peer: backend,
        new: service,
        add: [server_offset, client_offset.wrapping_neg(), timestamp_offset.wrapping_neg(), 0],
    };
    entry.has_timestamps.then_some((client, to_backend, to_client))
}
