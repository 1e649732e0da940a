//! The option field of a SYN, against etherparse's reader.

use std::net::SocketAddr;

use etherparse::{TcpOptionElement, TcpOptionsIterator};
use packet::{Flags, SegmentBuilder, SynOptions, TcpSegment};

/// Most that a TCP header holds.
const FIELD: usize = 40;

pub(crate) fn run(bytes: &[u8]) {
    let field = bytes.get(..bytes.len().min(FIELD) / 4 * 4).unwrap_or_default();
    let packet = segment_with(field);
    let view = TcpSegment::parse(&packet).expect("only the options are odd");
    let mut end = 0;
    for option in view.options() {
        assert!(option.offset >= end + 2 && option.offset + option.data.len() <= field.len());
        end = option.offset + option.data.len();
    }
    let ours = view.syn_options();
    assert!(ours.window_scale.is_none_or(|scale| scale <= 14));
    if let Some(theirs) = theirs(field) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(view.timestamps().map(|(value, _)| value).or(ours.timestamp), ours.timestamp);
}

fn segment_with(field: &[u8]) -> Vec<u8> {
    let end = SocketAddr::from(([10, 0, 0, 1], 80));
    let bare = SegmentBuilder { flags: Flags::SYN, ..SegmentBuilder::new(end, end) }.build();
    let mut packet = bare;
    packet.extend_from_slice(field);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[32] = ((20 + field.len()) as u8 / 4) << 4;
    packet
}

/// As etherparse reads it, if it has no objection: it stops at what it does not know, we go on.
fn theirs(field: &[u8]) -> Option<SynOptions> {
    let mut found = SynOptions::default();
    for element in TcpOptionsIterator::from_slice(field) {
        match element.ok()? {
            TcpOptionElement::MaximumSegmentSize(size) => found.mss = Some(size),
            TcpOptionElement::WindowScale(scale) => found.window_scale = Some(scale.min(14)),
            TcpOptionElement::SelectiveAcknowledgementPermitted => found.sack_permitted = true,
            TcpOptionElement::Timestamp(value, _) => found.timestamp = Some(value),
            _ => {}
        }
    }
    Some(found)
}
