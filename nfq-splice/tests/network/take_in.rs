//! What an alternate is told while its response is compared with what the client has.

use cluster::control::{ClientWindow, Prefix, TakeIn};
use nfq_splice::Stage;
use packet::{SegmentBuilder, Seq};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
const DATA: &[u8] = &[3; 1300];
const ALTERNATE_ISN: Seq = Seq(7_000_000);

/// An alternate that is to send the head and much more again; the client never offered more than `most` bytes.
fn taking_in(most: u32) -> World {
    let mut world = asking(most);
    let head = world.backend_segment(2, ALTERNATE_ISN + 1, HEAD, 2000).build();
    world.receive(&head, Stage::Raw);
    world
}

/// It has answered the handshake only.
fn asking(most: u32) -> World {
    let mut world = World::new(false, true);
    world.splice(OFFER, OFFER);
    let head = Prefix { head: HEAD.to_vec(), head_complete: true, ..Prefix::default() };
    let prefix = Prefix { body_bytes: 500_000, ..head };
    let mut order = world.order(1, 1, 2, BACKEND_ISN + 1 + HEAD.len() as u32 + 500_000, Vec::new());
    order.replay = REQUEST.to_vec();
    order.take_in = TakeIn::Prefix(prefix);
    order.client_window = ClientWindow { now: 1000, most };
    world.engine.handle_order(world.now, order);
    world.sent();
    let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
    world.receive(&syn_ack, Stage::Raw);
    world
}

/// Pieces of the body by number, that come in one batch of packets; the acknowledgements that follow, in pieces.
fn batch(world: &mut World, pieces: &[u32]) -> Vec<u32> {
    let first = ALTERNATE_ISN + 1 + HEAD.len() as u32;
    for piece in pieces {
        let segment = world.backend_segment(2, first + piece * DATA.len() as u32, DATA, 2000);
        world.engine.handle_packet(world.now, &mut segment.build(), Stage::Raw);
    }
    let sent = world.sent();
    segments(&sent).iter().map(|segment| segment.ack().since(first) as u32 / DATA.len() as u32).collect()
}

#[test]
fn a_batch_of_packets_is_acknowledged_once() {
    let mut world = taking_in(64_000);
    assert_eq!(batch(&mut world, &[0, 1, 2, 3]), [4]);
    assert_eq!(batch(&mut world, &[4]), [5]);
    assert_eq!(batch(&mut world, &[]), []);
}

#[test]
fn behind_a_gap_each_packet_is_acknowledged_so_that_the_gap_is_filled_without_a_timer() {
    let mut world = taking_in(64_000);
    assert_eq!(batch(&mut world, &[1, 2, 3]), [0, 0, 0]);
    assert_eq!(batch(&mut world, &[0, 4]), [5]);
}

/// In bytes.
fn window(world: &mut World) -> u32 {
    let first = ALTERNATE_ISN + 1 + HEAD.len() as u32;
    let sent = world.receive(&world.backend_segment(2, first, DATA, 2000).build(), Stage::Raw);
    let last = u32::from(segments(&sent).last().unwrap().window());
    last << OFFER.window_scale.unwrap()
}

#[test]
fn an_alternate_is_given_room_for_all_that_it_has_to_send_again() {
    assert!(window(&mut taking_in(64_000)) > 490_000, "not one client's window for each round trip");
    assert!(window(&mut taking_in(0)) > 490_000);
    let small = window(&mut taking_in(2000));
    assert!((1..=2000).contains(&small), "{small}");
}

/// What the network delivers late must not look older than what the client has of an earlier backend: it would drop it, and with it
/// the rest of the window (RFC 7323 §5.3).
#[test]
fn timestamps_of_an_alternate_s_first_segments_do_not_go_back() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let mut order = world.order(1, 1, 2, BACKEND_ISN + 1, HEAD.to_vec());
        order.take_in =
            TakeIn::Prefix(Prefix { head: HEAD.to_vec(), head_complete: true, ..Prefix::default() });
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let resent = segments(&sent).iter().find_map(|segment| {
            segment
                .timestamps()
                .filter(|_| segment.source() == world.service() && !segment.payload().is_empty())
        });
        // The first backend's clock was ahead of the proxy's.
        let last = resent.unwrap().0 + 5000;
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1 + REQUEST.len() as u32, OFFER).build();
        world.receive(&syn_ack, Stage::Raw);
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let has_all = world.client_segment(next, world.iss + 1 + HEAD.len() as u32, b"");
        world.receive(&SegmentBuilder { timestamps: Some((1100, last)), ..has_all }.build(), Stage::Raw);
        world.pass(40);
        world.receive(&world.backend_segment(2, ALTERNATE_ISN + 1, HEAD, 1040).build(), Stage::Raw);
        let late = world.backend_segment(2, ALTERNATE_ISN + 1 + HEAD.len() as u32, DATA, 1001);
        let value = match world.splices.last().filter(|_| kernel) {
            Some(splice) => 1001_u32.wrapping_add(splice.timestamps.unwrap()),
            None => segments(&world.receive(&late.build(), Stage::Raw))[0].timestamps().unwrap().0,
        };
        assert!((0..2000).contains(&(value.wrapping_sub(last) as i32)), "{value} after {last}");
    }
}

/// A second order for the same failure has the proxy reset the alternate and try it again; the network reorders these segments.
#[test]
fn an_alternate_that_took_the_second_syn_last_is_begun_with_again() {
    let mut world = taking_in(64_000);
    let another = Seq(3_000_000_000);
    let again = world.syn_ack(2, another, CLIENT_ISN + 1, OFFER).build();
    assert!(world.receive(&again, Stage::Raw).is_empty(), "it has spoken: this one is late");
    let mut world = asking(64_000);
    let sent = world.receive(&again, Stage::Raw);
    let sent = segments(&sent);
    assert_eq!((sent[0].seq(), sent[0].ack(), sent[0].payload()), (CLIENT_ISN + 1, another + 1, REQUEST));
}
