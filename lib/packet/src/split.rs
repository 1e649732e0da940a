//! Cutting a packet that is larger than a link allows (GSO) into segments that fit.

use crate::rewrite::{put, seal};
use crate::segment::{Flags, IPV6_HEADER, Layout, PacketError};

/// `packet` as one or more packets whose payloads are at most `mss` bytes: headers and options repeated, sequence
/// numbers advanced, FIN and PSH on the last, CWR on the first only, full checksums.
pub fn split(packet: &[u8], mss: usize) -> Result<Vec<Vec<u8>>, PacketError> {
    let layout = Layout::of(packet)?;
    let headers = packet.get(..layout.payload).ok_or(PacketError::Truncated)?;
    let payload = packet.get(layout.payload..layout.end).ok_or(PacketError::Truncated)?;
    let pieces: Vec<&[u8]> =
        if payload.is_empty() { vec![&[]] } else { payload.chunks(mss.max(1)).collect() };
    let last = pieces.len() - 1;
    let mut offset = 0;
    let mut packets = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.into_iter().enumerate() {
        packets.push(one(headers, piece, &layout, offset, (index == 0, index == last)));
        offset += piece.len() as u32;
    }
    Ok(packets)
}

fn one(headers: &[u8], piece: &[u8], layout: &Layout, offset: u32, (first, last): (bool, bool)) -> Vec<u8> {
    let mut packet = Vec::with_capacity(headers.len() + piece.len());
    packet.extend_from_slice(headers);
    packet.extend_from_slice(piece);
    let layout = Layout { end: packet.len(), ..*layout };
    if layout.address_bytes == 4 {
        let total = packet.len() as u16;
        put(&mut packet, 2, &total.to_be_bytes());
    } else {
        let payload = (packet.len() - IPV6_HEADER) as u16;
        put(&mut packet, 4, &payload.to_be_bytes());
    }
    crate::rewrite::add(&mut packet, layout.tcp + 4, offset);
    if let Some(flags) = packet.get_mut(layout.tcp + 13) {
        *flags &= !(if last { 0 } else { Flags::FIN.0 | Flags::PSH.0 });
        *flags &= !(if first { 0 } else { Flags::CWR.0 });
    }
    seal(&mut packet, &layout);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SegmentBuilder, Seq, TcpSegment};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(payload in prop::collection::vec(any::<u8>(), 0..9000), mss in 1_usize..3000, v6 in any::<bool>()) {
            let end = |n| if v6 { std::net::SocketAddr::from(([n; 16], 9)) } else { std::net::SocketAddr::from(([n; 4], 9)) };
            let whole = SegmentBuilder {
                seq: Seq(u32::MAX - 10), ack: Some(Seq(7)), flags: Flags::FIN.union(Flags::PSH), timestamps: Some((1, 2)),
                payload: &payload, ..SegmentBuilder::new(end(1), end(2))
            };
            let mut at = whole.seq;
            let mut bytes = Vec::new();
            let pieces = split(&whole.build(), mss).unwrap();
            for (index, piece) in pieces.iter().enumerate() {
                let view = TcpSegment::parse(piece).unwrap();
                prop_assert!(view.checksums_valid() && view.payload().len() <= mss);
                prop_assert_eq!(view.seq(), at);
                prop_assert_eq!(view.flags().fin(), index + 1 == pieces.len());
                at = at + view.payload().len() as u32;
                bytes.extend_from_slice(view.payload());
            }
            prop_assert_eq!(bytes, payload);
        }
    }
}
