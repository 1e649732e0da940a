//! Options that bind a connection, and those that bind every segment.

use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments, with_options};

/// Kinds of the options of a segment.
fn kinds(packet: &[u8]) -> Vec<u8> {
    TcpSegment::parse(packet).unwrap().options().map(|option| option.kind).collect()
}

fn bare_syn(world: &World) -> Vec<u8> {
    SegmentBuilder {
        seq: CLIENT_ISN,
        flags: Flags::SYN,
        window: 64_000,
        ..SegmentBuilder::new(world.client(), world.service())
    }
    .build()
}

/// The client falls back: it gets neither a cookie nor a key, and its data on the SYN is not acknowledged.
#[test]
fn fast_open_and_multipath_are_refused_without_harm() {
    const MSS: [u8; 4] = [2, 4, 5, 120];
    const ASK_FOR_COOKIE: [u8; 4] = [34, 2, 1, 1];
    const COOKIE: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    const MP_CAPABLE: [u8; 4] = [30, 4, 1, 1];
    const MP_JOIN: [u8; 12] = [30, 12, 0x10, 1, 9, 9, 9, 9, 8, 8, 8, 8];
    let fields: [&[u8]; 4] = [&ASK_FOR_COOKIE, &COOKIE, &MP_CAPABLE, &MP_JOIN];
    for (v6, kernel) in ALL {
        for field in fields {
            let mut world = World::new(v6, kernel);
            let mut syn = with_options(bare_syn(&world), &[&MSS[..], field].concat());
            syn.extend_from_slice(REQUEST);
            let at = if v6 { 4 } else { 2 };
            let length = syn.len() - if v6 { 40 } else { 0 };
            syn[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            let [answer, to_backend] = world.request(&syn);
            assert_eq!((kinds(&answer), kinds(&to_backend)), (vec![2], vec![2]));
            assert_eq!(TcpSegment::parse(&answer).unwrap().ack(), CLIENT_ISN + 1);
            let to_backend = TcpSegment::parse(&to_backend).unwrap();
            assert_eq!((to_backend.payload(), to_backend.syn_options().mss), (&b""[..], Some(1400)));
            let syn_ack = world.syn_ack(
                1,
                BACKEND_ISN,
                CLIENT_ISN + 1,
                SynOptions { mss: Some(1400), ..SynOptions::default() },
            );
            let sent = world.receive(&syn_ack.build(), Stage::Tracked);
            assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
        }
    }
}

#[test]
fn a_peer_without_mss_gets_small_segments() {
    for (v6, limit) in [(false, 536), (true, 1220)] {
        let mut world = World::new(v6, true);
        let offer = SynOptions { mss: None, timestamp: None, ..OFFER };
        world.splice(offer, SynOptions { timestamp: None, ..OFFER });
        let mut order = world.order(1, 1, 2, BACKEND_ISN + 1, vec![1; 5000]);
        order.options = Some(offer);
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let longest = segments(&sent).iter().map(|segment| segment.payload().len()).max();
        assert_eq!(longest, Some(limit));
    }
}

/// Window scale: the path that can express it, for each connection; what a peer is told is what the other side takes.
#[test]
fn windows_are_right_whatever_the_scales() {
    let scales = [None, Some(0), Some(3), Some(7), Some(14), Some(200)];
    for (v6, kernel) in ALL {
        for client in scales {
            for backend in scales {
                let mut world = World::new(v6, kernel);
                let offer = SynOptions { window_scale: client, ..OFFER };
                let syn = world.syn(offer).build();
                let [answer, to_backend] = world.request(&syn);
                let announced = TcpSegment::parse(&answer).unwrap().syn_options().window_scale;
                let offered = TcpSegment::parse(&to_backend).unwrap().syn_options().window_scale;
                assert_eq!(
                    (announced.is_some(), offered),
                    (client.is_some(), client.map(|scale| scale.min(14)))
                );
                // A backend answers only what it was asked.
                let answer = SynOptions { window_scale: backend.filter(|_| client.is_some()), ..OFFER };
                let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, answer).build();
                world.receive(&syn_ack, Stage::Tracked);
                let both = answer.window_scale.zip(offered);
                let (theirs, ours) = both.map_or((0, 0), |(theirs, ours)| (theirs.min(14), ours));
                let equal = theirs == announced.unwrap_or(0) && ours == offered.unwrap_or(0);
                assert_eq!(world.splices.len(), usize::from(kernel && equal), "{client:?} {backend:?}");
                if kernel && equal {
                    continue;
                }
                for window in [0, 1, 5, 127, 128, 1000, u16::MAX] {
                    let segment =
                        SegmentBuilder { window, ..world.backend_segment(1, BACKEND_ISN + 1, b"", 2000) };
                    agree(
                        &world.receive(&segment.build(), Stage::Raw),
                        window,
                        theirs,
                        announced.unwrap_or(0),
                    );
                    let segment =
                        SegmentBuilder { window, ..world.client_segment(CLIENT_ISN + 1, world.iss + 1, b"") };
                    agree(&world.receive(&segment.build(), Stage::Raw), window, offered.unwrap_or(0), ours);
                }
            }
        }
    }
}

/// No more than was offered; less by what the other scale cannot express; never closed where it was open.
fn agree(sent: &[Vec<u8>], window: u16, from: u8, to: u8) {
    let offered = u32::from(window) << from;
    let told = u32::from(segments(sent)[0].window()) << to;
    let unit = 1_u32 << to;
    assert_eq!(told == 0, offered == 0);
    assert!(told <= offered.max(unit), "{told} of {offered}");
    assert!(told == 0xffff << to || told + unit > offered, "{told} of {offered}");
}

#[test]
fn sack_edges_and_duplicate_sack_are_translated_beside_timestamps() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let (iss, delta) = (world.iss, world.delta());
        for at in 0..4 {
            let data = world.backend_segment(1, BACKEND_ISN + 1 + at * 1000, &[7; 1000], 2000).build();
            world.receive(&data, Stage::Raw);
        }
        let edge = |at: u32| (iss + at).0.to_be_bytes();
        // The first block lies below the acknowledgement (RFC 2883); an unknown option between, timestamps last.
        let field = [
            &[5, 18][..],
            &edge(1),
            &edge(100),
            &edge(3000),
            &edge(4000),
            &[254, 4, 0x12, 0x34, 1, 1, 8, 10],
            &[0, 0, 4, 76],
            &[0, 0, 0, 9],
            &[0, 0],
        ]
        .concat();
        let field = &field[..36];
        let bare =
            SegmentBuilder { timestamps: None, ..world.client_segment(CLIENT_ISN + 28, iss + 2000, b"") }
                .build();
        let sent = world.receive(&with_options(bare, field), Stage::Raw);
        let options: Vec<(u8, Vec<u8>)> =
            segments(&sent)[0].options().map(|option| (option.kind, option.data.to_vec())).collect();
        let back = |at: u32| ((iss + at).0.wrapping_sub(delta)).to_be_bytes();
        assert_eq!(options[0], (5, [back(1), back(100), back(3000), back(4000)].concat()));
        assert_eq!(options[1], (254, vec![0x12, 0x34]));
        assert_eq!((options[2].0, &options[2].1[..4]), (8, &[0, 0, 4, 76][..]));
        assert_eq!(segments(&sent)[0].ack(), Seq((iss + 2000).0.wrapping_sub(delta)));
    }
}

/// The kernel would write wrong checksums (`same_translation` shows it): such a client is translated here.
#[test]
fn timestamps_on_an_odd_place_take_the_userspace_path() {
    for v6 in [false, true] {
        for (field, kernel) in
            [([1, 1, 8, 10, 0, 0, 4, 76, 9, 9, 9, 9], true), ([1, 8, 10, 0, 0, 4, 76, 9, 9, 9, 9, 1], false)]
        {
            let mut world = World::new(v6, true);
            let syn = world.syn(OFFER).build();
            let answer = world.receive(&syn, Stage::Tracked);
            let answer = TcpSegment::parse(&answer[0]).unwrap();
            world.iss = answer.seq();
            let mut field = field;
            let at = field.iter().position(|byte| *byte == 9).unwrap();
            field[at..at + 4].copy_from_slice(&answer.timestamps().unwrap().0.to_be_bytes());
            let request =
                with_options(world.client_segment(CLIENT_ISN + 1, world.iss + 1, REQUEST).build(), &field);
            world.receive(&request, Stage::Tracked);
            let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
            world.receive(&syn_ack, Stage::Tracked);
            assert_eq!(world.state().unwrap() == "spliced-kernel", kernel, "{field:?}");
        }
    }
}

/// Timestamps: the client's view never goes backwards, however often the backend changes and however old its SYN-ACK is.
#[test]
fn timestamps_never_go_backwards_over_any_number_of_resplices() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let mut seen = 0_u32;
        // The clock of each backend in turn, and how old its SYN-ACK is when it arrives.
        let clocks = [1000, u32::MAX - 500, 0x8000_0000, 5, 0x7fff_ff00, 77];
        world.splice(OFFER, SynOptions { timestamp: Some(clocks[0]), ..OFFER });
        let mut last = clocks[0];
        for round in 0..30_u64 {
            let (failed, alternate) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
            let isn = if round == 0 { BACKEND_ISN } else { Seq(round as u32 - 1) };
            for step in [0, 3, 900] {
                world.pass(step);
                last = last.wrapping_add(step as u32);
                let segment = world.backend_segment(failed, isn + 1, b"", last).build();
                let value = if let Some(splice) = world.splices.last().filter(|_| kernel) {
                    last.wrapping_add(splice.timestamps.unwrap())
                } else {
                    segments(&world.receive(&segment, Stage::Raw))[0].timestamps().unwrap().0
                };
                later(&mut seen, value, round);
            }
            let order = world.order(round + 1, failed, alternate, isn + 1, Vec::new());
            world.engine.handle_order(world.now, order);
            world.sent();
            let clock = clocks[(round as usize + 1) % clocks.len()].wrapping_add(round as u32 * 7919);
            let age = [0, 400, 1000][round as usize % 3];
            world.pass(age);
            // The proxy itself speaks while there is no backend: a probe of the client is answered.
            let probe = world.client_segment(CLIENT_ISN + 1, world.iss + 1, b"").build();
            for segment in segments(&world.receive(&probe, Stage::Raw)) {
                if segment.destination() == world.client() {
                    later(&mut seen, segment.timestamps().unwrap().0, round);
                }
            }
            let expected = CLIENT_ISN + 1 + REQUEST.len() as u32;
            let answer = SynOptions { timestamp: Some(clock), ..OFFER };
            let syn_ack = world.syn_ack(alternate, Seq(round as u32), expected, answer).build();
            world.receive(&syn_ack, Stage::Tracked);
            assert!(world.state().unwrap().starts_with("spliced"), "{round}: {:?}", world.state());
            let spoken = world.backend_segment(alternate, Seq(round as u32 + 1), b"", clock).build();
            world.receive(&spoken, Stage::Raw);
            last = clock.wrapping_add(age as u32);
        }
    }
}

fn later(seen: &mut u32, value: u32, round: u64) {
    if *seen != 0 {
        assert!(value.wrapping_sub(*seen) as i32 >= 0, "round {round}: {value} after {seen}");
    }
    *seen = value;
}
