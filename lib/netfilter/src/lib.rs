//! The syscalls of netfilter, without C libraries: everything that decides nothing.
//!
//! * [`queue`]: NFQUEUE, received with `recvmmsg`, answered with many verdicts in one `sendto`.
//! * [`conntrack`]: splices as conntrack entries; [`conntrack_events`]: their end.
//! * [`sets`]: elements of an nft set of client addresses; [`target`]: the queue rule where `queue` is not native.
//! * [`raw`]: whole packets of our own, marked; [`inject`]: large ones, put back through a TUN device.
//! * [`timeouts`]: for how long conntrack remembers.
//! * [`received`]: what a received datagram says.
//!
//! Netlink answers from within the sending syscall, so every request here ends with its answer read.

pub mod conntrack;
pub mod conntrack_events;
mod error;
pub mod fast_path;
pub mod inject;
pub mod namespace;
mod netlink;
mod nftables;
pub mod queue;
pub mod raw;
pub mod received;
pub mod sets;
mod socket;
pub mod target;
pub mod timeouts;

pub use error::Error;
pub use nftables::Family;
