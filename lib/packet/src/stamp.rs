//! Timestamps for a segment whose sender has none.

use crate::options::{Options, kind};
use crate::rewrite::{put, seal};
use crate::segment::{IPV6_HEADER, Layout, PacketError};

/// What timestamps take of the option field, with padding.
const STAMP_BYTES: usize = 12;
/// All options together at most (RFC 9293 §3.1).
const MAX_OPTIONS: usize = 40;
/// Blocks of a selective acknowledgement that have room beside timestamps (RFC 2018 §3).
const MAX_BLOCKS: usize = 3;

/// `packet` with these timestamps, TSval and TSecr, before its own options, and full checksums; a packet that has timestamps stays
/// as it is. Where the options are too many for that, selective acknowledgements remain, the first blocks of them.
pub fn add_timestamps(packet: &[u8], (value, echo): (u32, u32)) -> Result<Vec<u8>, PacketError> {
    let layout = Layout::of(packet)?;
    let field = packet.get(layout.tcp + 20..layout.payload).unwrap_or_default();
    if Options::new(field).any(|option| option.kind == kind::TIMESTAMPS) {
        return Ok(packet.to_vec());
    }
    let mut options = vec![kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];
    options.extend(value.to_be_bytes());
    options.extend(echo.to_be_bytes());
    options.extend(kept(field));
    let mut made = packet.get(..layout.tcp + 20).unwrap_or_default().to_vec();
    made.extend(&options);
    made.extend(packet.get(layout.payload..layout.end).unwrap_or_default());
    put(&mut made, layout.tcp + 12, &[((20 + options.len()) as u8 / 4) << 4]);
    let end = u16::try_from(made.len()).map_err(|_| PacketError::HeaderLength)?;
    if layout.address_bytes == 4 {
        put(&mut made, 2, &end.to_be_bytes());
    } else {
        put(&mut made, 4, &end.saturating_sub(IPV6_HEADER as u16).to_be_bytes());
    }
    let layout = Layout { payload: layout.tcp + 20 + options.len(), end: made.len(), ..layout };
    seal(&mut made, &layout);
    Ok(made)
}

/// What has room of an option field, whose length is a multiple of four.
fn kept(field: &[u8]) -> Vec<u8> {
    if field.len() + STAMP_BYTES <= MAX_OPTIONS {
        return field.to_vec();
    }
    let sack = Options::new(field).find(|option| option.kind == kind::SACK && option.data.len() % 8 == 0);
    let Some(sack) = sack else { return Vec::new() };
    let blocks: Vec<u8> = sack.data.iter().copied().take(8 * MAX_BLOCKS).collect();
    let mut kept = vec![kind::NOP, kind::NOP, kind::SACK, blocks.len() as u8 + 2];
    kept.extend(blocks);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, SegmentBuilder, Seq, TcpSegment};
    use proptest::prelude::*;

    proptest! {
        /// Any option field: the segment is whole, has the timestamps, and loses nothing that has room.
        #[test]
        fn the_segment_stays_the_same_otherwise(
            field in prop::collection::vec(any::<u8>(), 0..=10), payload in prop::collection::vec(any::<u8>(), 0..2000),
            blocks in 0_usize..=4, stamps: (u32, u32), v6: bool,
        ) {
            let end = |n| if v6 { std::net::SocketAddr::from(([n; 16], 9)) } else { std::net::SocketAddr::from(([n; 4], 9)) };
            let mut options: Vec<u8> = vec![kind::NOP, kind::NOP, kind::SACK, 8 * blocks as u8 + 2];
            options.extend((0..8 * blocks as u8).map(|byte| byte.wrapping_mul(37)));
            if blocks == 0 {
                // Four bytes each, of an unknown kind.
                options = field.iter().flat_map(|byte| [254, 4, *byte, 7]).collect();
            }
            let bare = SegmentBuilder {
                seq: Seq(7), ack: Some(Seq(9)), flags: Flags::PSH, payload: &payload, ..SegmentBuilder::new(end(1), end(2))
            }.build();
            let tcp = if v6 { 40 } else { 20 };
            let mut packet = bare;
            packet.splice(tcp + 20..tcp + 20, options.iter().copied());
            packet[tcp + 12] = ((20 + options.len()) as u8 / 4) << 4;
            let (at, length) = if v6 { (4, packet.len() - 40) } else { (2, packet.len()) };
            packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            let made = add_timestamps(&packet, stamps).unwrap();
            let (before, after) = (TcpSegment::parse(&packet).unwrap(), TcpSegment::parse(&made).unwrap());
            prop_assert!(after.checksums_valid());
            prop_assert_eq!(after.timestamps(), Some(stamps));
            prop_assert_eq!((after.seq(), after.ack(), after.flags(), after.payload()), (before.seq(), before.ack(), before.flags(), before.payload()));
            let others = |segment: &TcpSegment<'_>| -> Vec<(u8, Vec<u8>)> {
                segment.options().filter(|option| option.kind != kind::TIMESTAMPS).map(|option| (option.kind, option.data.to_vec())).collect()
            };
            if options.len() <= MAX_OPTIONS - STAMP_BYTES {
                prop_assert_eq!(others(&after), others(&before));
            } else if blocks > 0 {
                prop_assert_eq!(&others(&after)[0].1[..], &others(&before)[0].1[..24]);
            }
            prop_assert_eq!(add_timestamps(&made, (1, 1)).unwrap(), made);
        }
    }
}
