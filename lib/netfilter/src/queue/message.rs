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
pub(crate) enum Received {
    Packet(Parsed),
    /// The kernel refused a verdict.
    Refused,
    Unknown,
}

pub(crate) struct Parsed {
    pub(crate) meta: QueuedMeta,
    /// The payload is the whole packet.
    pub(crate) whole: bool,
}

pub(crate) fn parse(datagram: &[u8]) -> Received {
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
pub(crate) fn truncated_id(beginning: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(netlink::read(beginning, 4)?);
    let attribute = u16::from_ne_bytes(netlink::read(beginning, 22)?);
    let id = u32::from_be_bytes(netlink::read(beginning, 24)?);
    (kind == MESSAGE_PACKET && attribute == PACKET_HEADER).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MARK, MESSAGE_PACKET, PACKET_HEADER, PAYLOAD, Received, SKB_INFO, parse, truncated_id};
    use crate::netlink::{Builder, Head};

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut builder = Builder::default();
        let head = Head { kind: MESSAGE_PACKET, flags: 0, sequence: 0, family: 2, resource: 5 };
        builder.message(head, |message| {
            message.attribute(PACKET_HEADER, &[0, 0, 1, 2, 8, 0, 3]);
            message.be32(MARK, 77);
            message.be32(SKB_INFO, 3);
            message.attribute(PAYLOAD, payload);
        });
        builder.bytes().to_vec()
    }

    #[test]
    fn a_packet_is_understood() {
        let bytes = packet(b"payload");
        let Received::Packet(parsed) = parse(&bytes) else { panic!("not understood") };
        assert!(parsed.whole);
        assert_eq!((parsed.meta.id, parsed.meta.hook, parsed.meta.mark), (0x102, 3, 77));
        assert!(parsed.meta.gso && !parsed.meta.checksum_ready && parsed.meta.checksum_verified);
        assert_eq!(&bytes[parsed.meta.payload], b"payload");
        assert_eq!(truncated_id(&bytes[..40]), Some(0x102));
    }

    proptest! {
        #[test]
        fn damaged_packets_do_not_panic_and_stay_inside(
            payload in prop::collection::vec(any::<u8>(), 0..80),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = packet(&payload);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = truncated_id(&bytes);
            if let Received::Packet(parsed) = parse(&bytes) {
                prop_assert!(bytes.get(parsed.meta.payload).is_some());
            }
        }
    }
}
