//! What a received datagram says, without a socket.

use crate::conntrack::{Decoded, SpliceStatus, decode};
use crate::netlink;
use crate::queue::{QueuedMeta, message};

/// The queued packet that a datagram of an NFQUEUE socket carries; `None`: it carries none, or is not understood.
pub fn queued_packet(datagram: &[u8]) -> Option<QueuedMeta> {
    match message::parse(datagram) {
        message::Received::Packet(parsed) => Some(parsed.meta),
        message::Received::Refused | message::Received::Unknown => None,
    }
}

/// The TCP connections that a datagram of a ctnetlink socket describes completely.
pub fn connections(datagram: &[u8]) -> Vec<SpliceStatus> {
    netlink::messages(datagram).filter_map(|message| decode(&message)).filter_map(Decoded::status).collect()
}
