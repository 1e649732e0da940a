//! Packets: header views, sequence arithmetic, options, checksums, building, rewriting. Pure: no clock, no sockets.
//!
//! * [`TcpSegment`] is a checked view of a whole IPv4 or IPv6 packet that carries TCP.
//! * [`icmp::IcmpError`] is one of an ICMP error about such a segment.
//! * [`SegmentBuilder`] makes such packets, [`Translation`] rewrites them in place.
//! * [`Seq`] is a sequence number, [`Time`] a moment; [`Reassembly`] puts each byte once into a stream.

mod build;
pub mod checksum;
pub mod icmp;
mod options;
mod reassembly;
mod rewrite;
mod segment;
mod seq;
mod split;
mod stamp;
mod time;

pub use build::SegmentBuilder;
pub use options::{Options, SynOptions, TcpOption};
pub use reassembly::{Pushed, Reassembly};
pub use rewrite::{Translation, fill_checksum};
pub use segment::{Flags, PacketError, TcpSegment};
pub use seq::Seq;
pub use split::split;
pub use stamp::add_timestamps;
pub use time::Time;

/// A packet with TCP, or with an ICMP error about it, whose checksums are right; see [`TcpSegment::checksums_valid`].
pub fn checksums_valid(packet: &[u8]) -> bool {
    match TcpSegment::parse(packet) {
        Ok(segment) => segment.checksums_valid(),
        Err(_) => icmp::IcmpError::parse(packet).is_ok_and(|error| error.checksums_valid()),
    }
}
