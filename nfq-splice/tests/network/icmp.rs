//! ICMP errors: for the owner of the bytes that they quote, in its own numbers; believed only where these are in flight.

use nfq_splice::{Stage, Verdict};
use packet::icmp::{IcmpError, IcmpKind, too_big};
use packet::{SegmentBuilder, Seq, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// The proxy's segment to the client at this place of the client's space.
fn to_client(world: &World, seq: Seq) -> Vec<u8> {
    SegmentBuilder {
        seq,
        ack: Some(CLIENT_ISN + 1),
        payload: &[7; 1400],
        ..SegmentBuilder::new(world.service(), world.client())
    }
    .build()
}

/// The proxy's segment to a backend.
fn to_backend(world: &World, number: u8, seq: Seq) -> Vec<u8> {
    SegmentBuilder {
        seq,
        ack: Some(BACKEND_ISN + 1),
        payload: &[7; 1400],
        ..SegmentBuilder::new(world.client(), world.backend(number))
    }
    .build()
}

fn error(world: &World, about: &[u8], mtu: u16) -> Vec<u8> {
    too_big(world.router(), &TcpSegment::parse(about).unwrap(), mtu)
}

/// Sets type and code, whatever the checksum.
fn with_kind(world: &World, mut error: Vec<u8>, v4: (u8, u8), v6: (u8, u8)) -> Vec<u8> {
    let (at, (kind, code)) = if world.v6 { (40, v6) } else { (20, v4) };
    error[at] = kind;
    error[at + 1] = code;
    error
}

fn spliced(v6: bool, kernel: bool) -> World {
    let mut world = World::new(v6, kernel);
    world.splice(OFFER, OFFER);
    assert_eq!(world.state().unwrap(), if kernel { "spliced-kernel" } else { "spliced-userspace" });
    if !kernel {
        // 1,400 bytes are on their way to the client; the request is not acknowledged.
        let data = SegmentBuilder {
            ack: Some(CLIENT_ISN + 1),
            ..world.backend_segment(1, BACKEND_ISN + 1, &[7; 1400], 2000)
        };
        world.receive(&data.build(), Stage::Raw);
    }
    world
}

#[test]
fn packet_too_big_reaches_the_backend_in_its_own_numbers() {
    for (v6, kernel) in ALL {
        let mut world = spliced(v6, kernel);
        let about = to_client(&world, world.iss + 1001);
        let sent = world.receive(&error(&world, &about, 1300), Stage::Tracked);
        let got = IcmpError::parse(&sent[0]).unwrap();
        assert!(got.checksums_valid());
        assert_eq!((got.kind(), got.source()), (IcmpKind::TooBig { mtu: 1300 }, world.router()));
        let quoted = got.quoted();
        assert_eq!((quoted.source, quoted.destination), (world.backend(1), world.client()));
        assert_eq!(quoted.seq, BACKEND_ISN + 1001);
        assert_eq!((sent.len(), world.counter("icmp_translated")), (1, 1));
    }
}

#[test]
fn packet_too_big_reaches_the_client_from_the_service() {
    for (v6, kernel) in ALL {
        let mut world = spliced(v6, kernel);
        let about = to_backend(&world, 1, CLIENT_ISN + 1);
        for (hop, expected) in
            [(world.router(), world.router()), (world.backend(1).ip(), world.service().ip())]
        {
            let message = too_big(hop, &TcpSegment::parse(&about).unwrap(), 1300);
            let sent = world.receive(&message, Stage::Tracked);
            let got = IcmpError::parse(&sent[0]).unwrap();
            assert!(got.checksums_valid());
            let quoted = got.quoted();
            assert_eq!(
                (got.source(), quoted.source, quoted.destination),
                (expected, world.client(), world.service())
            );
            assert_eq!(quoted.seq, CLIENT_ISN + 1);
        }
    }
}

/// RFC 5927 §4.1. On the kernel path the owner checks: the proxy does not see what is in flight.
#[test]
fn a_quoted_sequence_number_that_is_not_in_flight_is_dropped() {
    for v6 in [false, true] {
        let mut world = spliced(v6, false);
        for offset in [0, 1399, -1, 1400, 64_000, 1 << 30, i32::MIN] {
            let about = to_client(&world, Seq((world.iss + 1).0.wrapping_add(offset as u32)));
            let sent = world.receive(&error(&world, &about, 1300), Stage::Tracked);
            assert_eq!(sent.len(), usize::from((0..1400).contains(&offset)), "{offset}");
        }
        let end = REQUEST.len() as i32;
        for offset in [0, end - 1, -1, end, 1 << 30, i32::MIN] {
            let about = to_backend(&world, 1, Seq((CLIENT_ISN + 1).0.wrapping_add(offset as u32)));
            let sent = world.receive(&error(&world, &about, 1300), Stage::Tracked);
            assert_eq!(sent.len(), usize::from((0..end).contains(&offset)), "{offset}");
        }
        assert_eq!(world.counter("icmp_not_in_flight_dropped"), 5 + 4);
        // A backend that the connection does not have.
        let about = to_backend(&world, 2, CLIENT_ISN + 1);
        assert!(world.receive(&error(&world, &about, 1300), Stage::Tracked).is_empty());
    }
}

#[test]
fn links_below_the_floors_are_not_believed() {
    for (v6, wrong, right) in [
        (false, vec![1, 67, 1440, 9000], vec![0, 68, 600]),
        (true, vec![0, 68, 1279, 1460], vec![1280, 1400]),
    ] {
        let mut world = spliced(v6, true);
        let about = to_client(&world, world.iss + 1);
        for mtu in &wrong {
            assert!(world.receive(&error(&world, &about, *mtu), Stage::Tracked).is_empty(), "{mtu}");
        }
        assert_eq!(world.counter("icmp_unbelievable_mtu_dropped"), wrong.len() as u64);
        for mtu in &right {
            assert_eq!(world.receive(&error(&world, &about, *mtu), Stage::Tracked).len(), 1, "{mtu}");
        }
    }
}

/// Unreachable 0, 1, 5 and the rest, time exceeded, parameter problem: translated, never acted upon.
#[test]
fn soft_errors_never_end_a_connection() {
    let kinds = [
        ((3, 0), (1, 0)),
        ((3, 1), (1, 3)),
        ((3, 5), (1, 6)),
        ((3, 3), (1, 4)),
        ((11, 0), (3, 0)),
        ((12, 0), (4, 0)),
    ];
    for (v6, kernel) in ALL {
        let mut world = spliced(v6, kernel);
        let state = world.state();
        for (v4, v6) in kinds {
            let about = error(&world, &to_client(&world, world.iss + 1), 1300);
            assert_eq!(world.receive(&with_kind(&world, about, v4, v6), Stage::Tracked).len(), 1);
            let about = error(&world, &to_backend(&world, 1, CLIENT_ISN + 1), 1300);
            assert_eq!(world.receive(&with_kind(&world, about, v4, v6), Stage::Tracked).len(), 1);
        }
        assert_eq!(world.state(), state);
    }
}

#[test]
fn source_quench_is_ignored() {
    let mut world = spliced(false, true);
    let about = error(&world, &to_client(&world, world.iss + 1), 1300);
    assert!(world.receive(&with_kind(&world, about, (4, 0), (4, 0)), Stage::Tracked).is_empty());
    assert_eq!(world.counter("icmp_source_quench_ignored"), 1);
}

#[test]
fn errors_are_rationed() {
    let mut world = spliced(false, true);
    let message = error(&world, &to_client(&world, world.iss + 1), 1300);
    let passed: usize = (0..5000).map(|_| world.receive(&message, Stage::Tracked).len()).sum();
    assert_eq!((passed as u64, world.counter("icmp_rationed_dropped")), (1000, 4000));
    world.pass(1000);
    assert_eq!(world.receive(&message, Stage::Tracked).len(), 1);
}

#[test]
fn errors_about_others_are_left_alone_and_unknown_connections_dropped() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        let about = to_client(&world, world.iss + 1);
        assert!(world.receive(&error(&world, &about, 1300), Stage::Tracked).is_empty());
        assert_eq!(world.counter("icmp_unknown_connection_dropped"), 1);
        // Another port of a backend.
        let mut elsewhere = world.backend(1);
        elsewhere.set_port(8081);
        let about = SegmentBuilder::new(world.client(), elsewhere).build();
        let mut message = too_big(world.router(), &TcpSegment::parse(&about).unwrap(), 1300);
        let before = message.clone();
        assert_eq!(world.engine.handle_packet(world.now, &mut message, Stage::Tracked), Verdict::Untouched);
        assert_eq!(message, before);
    }
}

/// A refused handshake is evidence at once; a soft error is not.
#[test]
fn a_backend_where_nobody_listens_is_passed_over() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        let syn = world.syn(OFFER).build();
        let [_, first] = world.request(&syn);
        let first = TcpSegment::parse(&first).unwrap();
        let about =
            |seq| SegmentBuilder { seq, ..SegmentBuilder::new(first.source(), first.destination()) }.build();
        let kinds = [
            (first.seq() + 1, ((3, 3), (1, 4)), false),
            (first.seq(), ((3, 1), (1, 0)), false),
            (first.seq(), ((3, 3), (1, 4)), true),
        ];
        for (seq, (v4, v6), moves) in kinds {
            let message = with_kind(&world, error(&world, &about(seq), 1300), v4, v6);
            let sent = world.receive(&message, Stage::Tracked);
            assert_eq!(sent.len(), usize::from(moves));
            for packet in segments(&sent) {
                assert!(packet.flags().syn() && packet.destination() != first.destination());
            }
        }
    }
}

/// 20,000 logged bytes on their way to the client after its backend failed.
fn resending(v6: bool) -> (World, Vec<Vec<u8>>) {
    let mut world = spliced(v6, true);
    let order = world.order(1, 1, 2, BACKEND_ISN + 1, (0..20_000).map(|i| (i % 251) as u8).collect());
    world.engine.handle_order(world.now, order);
    let sent = world.sent();
    (world, sent)
}

/// Longest packet to the client, and the bytes of all.
fn to_client_only(world: &World, packets: &[Vec<u8>]) -> (usize, usize) {
    let ours = segments(packets).into_iter().filter(|segment| segment.destination() == world.client());
    ours.fold((0, 0), |(longest, bytes), segment| {
        (longest.max(segment.packet().len()), bytes + segment.payload().len())
    })
}

#[test]
fn own_segments_keep_to_the_path_once_it_is_known() {
    for v6 in [false, true] {
        let mtu = if v6 { 1280 } else { 1000 };
        let (mut world, sent) = resending(v6);
        let (longest, bytes) = to_client_only(&world, &sent);
        assert!(longest > usize::from(mtu) && bytes == 20_000, "{longest} {bytes}");
        // Forged: not in flight.
        for offset in [0, 20_001] {
            let about = to_client(&world, world.iss + offset);
            assert!(world.receive(&error(&world, &about, mtu), Stage::Tracked).is_empty());
        }
        let about = to_client(&world, world.iss + 1389);
        let again = world.receive(&error(&world, &about, mtu), Stage::Tracked);
        assert_eq!(to_client_only(&world, &again), (usize::from(mtu), 20_000));
        // The same again changes nothing, a larger one neither.
        for mtu in [mtu, mtu + 100] {
            assert!(world.receive(&error(&world, &about, mtu), Stage::Tracked).is_empty());
        }
        assert_eq!((world.counter("icmp_taken"), world.counter("icmp_not_in_flight_dropped")), (3, 2));
        // The next alternate is told, too.
        let order = world.order(2, 2, 1, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let syn = segments(&sent).into_iter().find(|segment| segment.flags().syn()).unwrap();
        assert_eq!(syn.syn_options().mss, Some(mtu - if v6 { 60 } else { 40 }));
    }
}

/// The proxy's own link is the small one: the kernel refuses the packet, no router says anything.
#[test]
fn a_segment_too_long_for_the_own_link_goes_again_in_smaller_ones() {
    for v6 in [false, true] {
        let (mut world, sent) = resending(v6);
        let refused = sent.iter().find(|packet| packet.len() > 1400).unwrap();
        world.engine.handle_too_long(world.now, refused);
        let again = world.sent();
        let expected = if v6 { 1280 } else { 1006 };
        assert_eq!(to_client_only(&world, &again), (expected, 20_000));
        // Somebody else's bytes: the owner is told.
        let mut world = spliced(v6, true);
        let long = to_client(&world, world.iss + 1);
        world.engine.handle_too_long(world.now, &long);
        let sent = world.sent();
        assert_eq!(IcmpError::parse(&sent[0]).unwrap().quoted().seq, BACKEND_ISN + 1);
    }
}

/// A request that the proxy owes to a backend behind a small link.
#[test]
fn requests_owed_to_a_backend_keep_to_its_path() {
    let mut world = World::new(false, true);
    let syn = world.syn(OFFER).build();
    let answers = world.receive(&syn, Stage::Tracked);
    world.iss = TcpSegment::parse(&answers[0]).unwrap().seq();
    world.stamps = true;
    // An unfinished head is acknowledged, and therefore owed.
    let head: &'static [u8] = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &[b'x'; 1300]].concat().leak();
    let first = world.client_segment(CLIENT_ISN + 1, world.iss + 1, head).build();
    world.receive(&first, Stage::Tracked);
    let rest = world.client_segment(CLIENT_ISN + 1 + head.len() as u32, world.iss + 1, b"\r\n\r\n").build();
    world.receive(&rest, Stage::Tracked);
    let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
    let sent = world.receive(&syn_ack, Stage::Tracked);
    assert!(sent.iter().any(|packet| packet.len() > 1300));
    let about = to_backend(&world, 1, CLIENT_ISN + 1);
    let again = world.receive(&error(&world, &about, 700), Stage::Tracked);
    let bytes: usize = segments(&again).iter().map(|segment| segment.payload().len()).sum();
    assert_eq!((bytes, again.iter().map(Vec::len).max()), (head.len() + 4, Some(700)));
}
