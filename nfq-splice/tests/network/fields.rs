//! Fields of IP and TCP that a splice must keep, take back or refuse.

use nfq_splice::{Stage, Verdict};
use packet::{Flags, SegmentBuilder, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// IP fragments: the kernel puts them together before they are queued; what comes nevertheless is dropped.
#[test]
fn fragments_are_dropped_and_counted() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        let whole = world.syn(OFFER).build();
        let mut fragments = Vec::new();
        if v6 {
            for flags in [0_u8, 1, 8] {
                let mut fragment = whole.clone();
                fragment[6] = 44;
                fragment.splice(40..40, [6, 0, 0, flags, 0, 0, 0, 1]);
                fragment[5] += 8;
                fragments.push(fragment);
            }
        } else {
            for (at, value) in [(6, 0x20), (7, 1), (6, 0x3f)] {
                let mut fragment = whole.clone();
                fragment[at] = value;
                fragments.push(fragment);
            }
        }
        for mut fragment in fragments {
            assert_eq!(world.engine.handle_packet(world.now, &mut fragment, Stage::Tracked), Verdict::Drop);
            assert!(world.sent().is_empty());
        }
        assert_eq!((world.counter("fragment_dropped"), world.engine.status().total), (3, 0));
    }
}

/// Urgent data: taken back on the way through; the byte is data like any other, for log and application alike.
#[test]
fn urgent_data_becomes_data() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let tcp = if v6 { 40 } else { 20 };
        for pointer in [0_u16, 1, 3, 4, 500, u16::MAX] {
            let urgent = |segment: SegmentBuilder<'_>| {
                let mut packet = SegmentBuilder { flags: Flags::URG, ..segment }.build();
                packet[tcp + 18..tcp + 20].copy_from_slice(&pointer.to_be_bytes());
                packet
            };
            let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
            for packet in [
                urgent(world.client_segment(next, world.iss + 1, b"abc")),
                urgent(world.backend_segment(1, BACKEND_ISN + 1, b"abc", 2000)),
            ] {
                let sent = world.receive(&packet, Stage::Raw);
                let segment = segments(&sent)[0];
                assert!(segment.checksums_valid());
                assert_eq!((segment.flags(), segment.payload()), (Flags::ACK, &b"abc"[..]));
                assert_eq!(sent[0][tcp + 18..tcp + 20], [0, 0]);
            }
        }
    }
}

/// Urgent data before the splice: a request like any other.
#[test]
fn an_urgent_request_is_a_request() {
    let mut world = World::new(false, true);
    let syn = world.syn(OFFER).build();
    let answer = world.receive(&syn, Stage::Tracked);
    let iss = TcpSegment::parse(&answer[0]).unwrap().seq();
    world.stamps = true;
    let mut request =
        SegmentBuilder { flags: Flags::URG, ..world.client_segment(CLIENT_ISN + 1, iss + 1, REQUEST) }
            .build();
    request[38..40].copy_from_slice(&7_u16.to_be_bytes());
    assert!(segments(&world.receive(&request, Stage::Tracked))[0].flags().syn());
    let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
    let sent = world.receive(&syn_ack, Stage::Tracked);
    let data = segments(&sent).into_iter().find(|segment| !segment.payload().is_empty()).unwrap();
    assert_eq!((data.payload(), data.flags().contains(Flags::URG)), (REQUEST, false));
}

/// The class and the congestion marks of the endpoints' packets are theirs, with IPv4 options and IPv6 extension headers, too.
#[test]
fn headers_of_ip_stay_as_they_are() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let mut packet = world.backend_segment(1, BACKEND_ISN + 1, b"abc", 2000).build();
        if v6 {
            packet[0] = 0x6b;
            packet[1] = 0x91;
            packet[7] = 9;
            packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
            packet[6] = 60;
            packet[5] += 8;
        } else {
            packet[1] = 0xb9;
            packet[8] = 9;
            packet.splice(20..20, [7, 3, 4, 0]);
            packet[0] = 0x46;
            packet[3] += 4;
        }
        let sent = world.receive(&packet, Stage::Raw);
        let segment = segments(&sent)[0];
        assert!(segment.checksums_valid());
        assert_eq!((segment.source(), segment.destination()), (world.service(), world.client()));
        let untouched =
            if v6 { [&sent[0][..8], &sent[0][40..48]] } else { [&sent[0][..10], &sent[0][20..24]] };
        let before = if v6 { [&packet[..8], &packet[40..48]] } else { [&packet[..10], &packet[20..24]] };
        assert_eq!(untouched, before);
    }
}

/// What a client sends right behind its head may reach the backend before what ends the handshake, and in SYN-RECEIVED Linux (6.15 and
/// later) drops what echoes a clock older than its SYN-ACK.
#[test]
fn what_overtakes_the_end_of_the_handshake_echoes_the_backends_answer() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let syn = world.syn(OFFER).build();
        world.request(&syn);
        world.pass(50);
        let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        let opened = OFFER.timestamp.unwrap();
        if let Some(splice) = world.splices.first() {
            assert_eq!(splice.timestamps, Some(world.stamp.wrapping_sub(opened)));
            continue;
        }
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let body = world.client_segment(next, world.iss + 1, b"body").build();
        let sent = world.receive(&body, Stage::Raw);
        assert_eq!(segments(&sent)[0].timestamps(), Some((1100, opened)));
    }
}

/// The backend's clock goes on from the last that the client was told; a challenge tells none.
#[test]
fn a_backends_clock_does_not_go_back_behind_what_was_said_before_it() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let syn = world.syn(OFFER).build();
        let mut told = Vec::new();
        let mut note = |sent: &[Vec<u8>], client| {
            let stamps = segments(sent).into_iter().filter(|sent| sent.destination() == client);
            told.extend(stamps.filter_map(|sent| sent.timestamps()).map(|(value, _)| value));
        };
        let answer = world.receive(&syn, Stage::Tracked);
        let answer = segments(&answer)[0];
        (world.iss, world.stamps) = (answer.seq(), true);
        world.stamp = answer.timestamps().unwrap().0;
        let client = world.client();
        world.pass(30);
        // The repeated answer tells nothing to a client that has taken the first one, unlike what is forged for it then.
        world.receive(&syn, Stage::Tracked);
        let forged = SegmentBuilder { seq: CLIENT_ISN + 9, ..world.syn(OFFER) }.build();
        let challenge = world.receive(&forged, Stage::Tracked);
        assert_eq!(segments(&challenge)[0].destination(), client);
        note(&challenge, client);
        world.pass(30);
        let (begun, rest) = REQUEST.split_at(5);
        for (at, part) in [(1, begun), (6, rest)] {
            let part = world.client_segment(CLIENT_ISN + at, world.iss + 1, part).build();
            note(&world.receive(&part, Stage::Tracked), client);
        }
        world.pass(30);
        let stray = world.client_segment(CLIENT_ISN + 1, world.iss + 9, b"").build();
        let sent = world.receive(&stray, Stage::Tracked);
        note(&sent, client);
        let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        let first = world.backend_segment(1, BACKEND_ISN + 1, b"HTTP", 1000);
        let value = match world.splices.first() {
            Some(splice) => 1000_u32.wrapping_add(splice.timestamps.unwrap()),
            None => segments(&world.receive(&first.build(), Stage::Raw))[0].timestamps().unwrap().0,
        };
        assert!(!told.is_empty());
        assert!(told.iter().all(|told| value.wrapping_sub(*told) as i32 >= 0), "{value} {told:?}");
    }
}

/// What the proxy itself sends for a first backend, here what its client had no room for, is not ahead of what the backend says next:
/// the client would take that for old.
#[test]
fn what_is_sent_for_a_first_backend_has_that_ones_clock() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let syn = world.syn(OFFER).build();
        let answer = world.receive(&syn, Stage::Tracked);
        let answer = segments(&answer)[0];
        (world.iss, world.stamps) = (answer.seq(), true);
        world.stamp = answer.timestamps().unwrap().0;
        world.pass(50);
        let (head, rest) = REQUEST.split_at(5);
        let begun = world.client_segment(CLIENT_ISN + 1, world.iss + 1, head).build();
        world.receive(&begun, Stage::Tracked);
        world.pass(50);
        let full = SegmentBuilder { window: 0, ..world.client_segment(CLIENT_ISN + 6, world.iss + 1, rest) };
        world.receive(&full.build(), Stage::Tracked);
        let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        world.pass(10);
        let first = world.backend_segment(1, BACKEND_ISN + 1, b"HTTP", 1010).build();
        world.receive(&first, Stage::Raw);
        world.pass(30);
        let update = world.client_segment(CLIENT_ISN + 1 + REQUEST.len() as u32, world.iss + 1, b"").build();
        let next = world.backend_segment(1, BACKEND_ISN + 5, b"/1.1", 1040).build();
        let sent = [world.receive(&update, Stage::Raw), world.receive(&next, Stage::Raw)].concat();
        let to_client = segments(&sent).into_iter().filter(|sent| sent.destination() == world.client());
        let said: Vec<_> =
            to_client.map(|sent| (sent.payload().to_vec(), sent.timestamps().unwrap().0)).collect();
        let [(ours, own), (theirs, translated)] = &said[..] else { panic!("{said:?}") };
        assert_eq!((&ours[..], &theirs[..]), (&b"HTTP"[..], &b"/1.1"[..]));
        assert!(translated.wrapping_sub(*own) as i32 >= 0, "{own} is ahead of {translated}");
        assert!(own.wrapping_sub(world.stamp) >= 40 - 1, "it goes on");
    }
}
