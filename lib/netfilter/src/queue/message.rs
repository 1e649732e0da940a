//! What the kernel sends to a queue's socket.

use super::QueuedMeta;
use crate::netlink::{self, Attributes};

const MESSAGE_PACKET: u16 = 3 << 8;
const PACKET_HEADER: u16 = 1;
const MARK: u16 = 3;
const PAYLOAD: u16 = 10;
const CAPTURED_LENGTH: u16 = 13;
const SKB_INFO: u16 = 14;
const CHECKSUM_NOT_READY: u32 = 1;
const GSO: u32 = 2;
const CHECKSUM_NOT_VERIFIED: u32 = 4;

/// A datagram, understood.
pub(super) enum Received {
    Packet(Parsed),
    /// The kernel refused a verdict.
    Refused,
    Unknown,
}

pub(super) struct Parsed {
    pub(super) meta: QueuedMeta,
    /// The payload is the whole packet.
    pub(super) whole: bool,
}

pub(super) fn parse(datagram: &[u8]) -> Received {
    let Some(message) = netlink::messages(datagram).next() else { return Received::Unknown };
    match message.kind {
        MESSAGE_PACKET => packet(message.attributes()).map_or(Received::Unknown, Received::Packet),
        netlink::ERROR if message.error() != Some(0) => Received::Refused,
        _ => Received::Unknown,
    }
}

fn packet(attributes: Attributes<'_>) -> Option<Parsed> {
    let mut identity = None;
    let mut payload = None;
    let mut mark = 0;
    let mut info = 0;
    let mut whole = true;
    for attribute in attributes {
        match attribute.kind {
            PACKET_HEADER => identity = Some((attribute.be32()?, *attribute.value().get(6)?)),
            MARK => mark = attribute.be32()?,
            SKB_INFO => info = attribute.be32()?,
            CAPTURED_LENGTH => whole = false,
            PAYLOAD => payload = Some(attribute.range.clone()),
            _ => {}
        }
    }
    let (id, hook) = identity?;
    let meta = QueuedMeta {
        id,
        hook,
        mark,
        gso: info & GSO != 0,
        checksum_ready: info & CHECKSUM_NOT_READY == 0,
        checksum_verified: info & CHECKSUM_NOT_VERIFIED == 0,
        payload: payload.unwrap_or(0..0),
    };
    Some(Parsed { meta, whole })
}

/// The packet id of a message whose end is missing: the packet header is its first attribute.
pub(super) fn truncated_id(beginning: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(netlink::read(beginning, 4)?);
    let attribute = u16::from_ne_bytes(netlink::read(beginning, 22)?);
    let id = u32::from_be_bytes(netlink::read(beginning, 24)?);
    (kind == MESSAGE_PACKET && attribute == PACKET_HEADER).then_some(id)
}
