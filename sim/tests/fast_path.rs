//! What the fast path records of segments that overtake each other.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use netfilter::conntrack::SpliceEntry;
use netfilter::fast_path::Recorded;
use packet::{SegmentBuilder, Seq};
use sim::fast_path::{FastPath, Fate};

const LONG: Duration = Duration::from_secs(1 << 30);

/// The client was told the newest, whatever came after it.
#[test]
fn a_late_segment_does_not_take_the_server_s_clock_back() {
    let [client, service, backend]: [SocketAddr; 3] =
        ["10.0.0.1:4000", "203.0.113.80:80", "10.0.1.11:80"].map(|address| address.parse().unwrap());
    let entry = SpliceEntry {
        client,
        service,
        backend,
        server_offset: 0,
        client_offset: 0,
        timestamp_offset: 0,
        has_timestamps: true,
        mark: 0,
        timeout_s: 0,
        window_scales: None,
        sack_permitted: false,
    };
    let recorded = Recorded { rescale: [(0, 0); 2], to_its_end: true, rest: 0, show: (LONG, LONG) };
    let mut fast = FastPath::default();
    assert!(fast.add_recorded(&entry, &recorded));
    for (seq, value) in [(100, 5), (0, 4)] {
        let segment = SegmentBuilder {
            seq: Seq(seq),
            ack: Some(Seq(7)),
            timestamps: Some((value, 1)),
            payload: &[1; 100],
            ..SegmentBuilder::new(backend, client)
        };
        assert_eq!(fast.receive(Duration::ZERO, &mut segment.build(), |_, _| true), Fate::Translated);
    }
    let [_, passed] = fast.passed(client);
    assert_eq!(passed.map(|passed| (passed.end, passed.timestamps)), Some((200, (5, 1))));
}
