//! Packet views, rewriting and splitting, against etherparse.

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use packet::{Flags, TcpSegment, Translation, split};

use crate::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (translation, mss) = (translation(&mut input), usize::from(input.short()));
    let original = input.rest();
    let mut rewritten = original.to_vec();
    let applied = translation.apply(&mut rewritten);
    let Ok(view) = TcpSegment::parse(original) else {
        assert!(applied.is_err(), "rewritten, but not a segment");
        assert_eq!(rewritten, original, "refused, but changed");
        return;
    };
    views_agree(&view);
    if applied.is_ok() {
        rewriting_is_exact(&view, &rewritten, &translation);
    }
    pieces_are_the_whole(&view, mss);
}

fn translation(input: &mut Input<'_>) -> Translation {
    let address = |input: &mut Input<'_>, v6| -> SocketAddr {
        let (low, port) = (input.byte(), input.short());
        if v6 { ([low; 16], port).into() } else { ([low; 4], port).into() }
    };
    let choices = input.byte();
    Translation {
        source: address(input, choices & 1 != 0),
        destination: address(input, choices & 1 != 0),
        seq: input.word(),
        ack: input.word(),
        sack: input.word(),
        ts_value: input.word(),
        ts_echo: input.word(),
        rescale: (choices & 2 != 0).then(|| (input.byte(), input.byte())),
    }
}

/// What we accept as a segment, etherparse reads in the same way.
fn views_agree(view: &TcpSegment<'_>) {
    assert!(view.payload().len() < view.packet().len());
    let _ = (view.syn_options(), view.timestamps(), view.checksums_valid(), view.sequence_length());
    let Ok(theirs) = SlicedPacket::from_ip(view.packet()) else { return };
    let Some(TransportSlice::Tcp(tcp)) = &theirs.transport else { return };
    assert_eq!((view.seq().0, view.ack().0), (tcp.sequence_number(), tcp.acknowledgment_number()));
    assert_eq!((view.window(), view.payload()), (tcp.window_size(), tcp.payload()));
    assert_eq!(
        (view.source().port(), view.destination().port()),
        (tcp.source_port(), tcp.destination_port())
    );
    assert_eq!(view.flags().syn(), tcp.syn());
    if let Some(NetSlice::Ipv4(ip)) = &theirs.net {
        assert_eq!(view.source().ip(), ip.header().source_addr());
        assert_eq!(view.destination().ip(), ip.header().destination_addr());
    }
}

fn rewriting_is_exact(view: &TcpSegment<'_>, rewritten: &[u8], translation: &Translation) {
    let after = TcpSegment::parse(rewritten).expect("a rewritten segment is one");
    assert!(after.checksums_valid(), "a rewritten segment has right checksums");
    assert_eq!((after.source(), after.destination()), (translation.source, translation.destination));
    assert_eq!(after.seq(), view.seq() + translation.seq);
    assert_eq!(after.ack(), view.ack() + translation.ack);
    assert_eq!(after.payload(), view.payload());
    // Urgent data takes a byte out of the stream on one path and not on the other: the bit is cleared.
    assert_eq!(after.flags().0, view.flags().0 & !Flags::URG.0);
    if view.window() > 0 {
        assert!(after.window() > 0, "a window was closed");
    }
    let kinds = |view: &TcpSegment<'_>| -> Vec<(u8, usize)> {
        view.options().map(|option| (option.kind, option.offset)).collect()
    };
    assert_eq!(kinds(&after), kinds(view));
}

fn pieces_are_the_whole(view: &TcpSegment<'_>, mss: usize) {
    // A tiny segment size would only make this slow.
    let mss = mss.max(view.payload().len() / 64 + 1);
    let mut whole = Vec::new();
    for (index, piece) in split(view.packet(), mss).expect("a segment").iter().enumerate() {
        let piece = TcpSegment::parse(piece).expect("a piece is a segment");
        assert!(piece.checksums_valid() && piece.payload().len() <= mss, "piece {index}");
        assert_eq!(piece.seq(), view.seq() + whole.len() as u32);
        whole.extend_from_slice(piece.payload());
    }
    assert_eq!(whole, view.payload());
}
