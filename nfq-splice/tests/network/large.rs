//! Several segments in one packet, their checksums not filled in: they go on as such where their length is known.

use nfq_splice::{Stage, Verdict};
use packet::icmp::too_big;
use packet::{TcpSegment, checksums_valid, fill_checksum};

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World};

/// What all segments but the last of a response are as long as, bytes.
fn full(world: &World, mtu: usize) -> usize {
    let mss = usize::from(OFFER.mss.unwrap());
    mss.min(mtu - if world.v6 { 60 } else { 40 }) - 12
}

fn verdict(world: &mut World, offset: u32, length: usize) -> (Verdict, Vec<u8>) {
    let data: &'static [u8] = vec![7; length].leak();
    let mut packet = world.backend_segment(1, BACKEND_ISN + 1 + offset, data, 2000).build();
    (world.engine.handle_packet(world.now, &mut packet, Stage::Large), packet)
}

#[test]
fn whole_segments_are_the_clients_largest() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let full = full(&world, 1500);
        for length in [full, 2 * full, 30 * full] {
            let (verdict, mut packet) = verdict(&mut world, 0, length);
            assert_eq!(verdict, Verdict::Segments(full as u16));
            assert!(!checksums_valid(&packet));
            fill_checksum(&mut packet).unwrap();
            assert!(checksums_valid(&packet));
            let segment = TcpSegment::parse(&packet).unwrap();
            assert_eq!((segment.source(), segment.seq()), (world.service(), world.iss + 1));
        }
        for length in [1, full - 1, full + 1, 30 * full - 1] {
            let (verdict, packet) = verdict(&mut world, 0, length);
            assert_eq!(verdict, Verdict::Rewritten, "{length}");
            assert!(checksums_valid(&packet));
        }
    }
}

/// The backend keeps to a path's MTU as soon as it is told; so does whoever cuts its packets.
#[test]
fn a_smaller_path_makes_them_smaller() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let (large, small) = (full(&world, 1500), full(&world, 1300));
        let (_, mut first) = verdict(&mut world, 0, 4 * large);
        fill_checksum(&mut first).unwrap();
        let message = too_big(world.router(), &TcpSegment::parse(&first).unwrap(), 1300);
        assert_eq!(world.receive(&message, Stage::Tracked).len(), 1);
        assert_eq!(verdict(&mut world, 0, 4 * large).0, Verdict::Rewritten);
        assert_eq!(verdict(&mut world, 0, 4 * small).0, Verdict::Segments(small as u16));
    }
}

/// What the client sends is not known by its own MSS.
#[test]
fn uploads_are_rewritten_with_checksums() {
    let mut world = World::new(false, false);
    world.splice(OFFER, OFFER);
    let data: &'static [u8] = vec![7; 2 * full(&world, 1500)].leak();
    let seq = CLIENT_ISN + 1 + REQUEST.len() as u32;
    let mut packet = world.client_segment(seq, world.iss + 1, data).build();
    assert_eq!(world.engine.handle_packet(world.now, &mut packet, Stage::Large), Verdict::Rewritten);
    assert!(checksums_valid(&packet));
}
