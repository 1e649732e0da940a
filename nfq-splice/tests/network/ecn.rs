//! ECN is carried end to end, and promised to a client only where its backend will speak it.

use std::net::SocketAddr;
use std::time::Duration;

use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const ECE: u8 = Flags::ECE.0;
const ASKS: u8 = Flags::ECN.0;
/// Of the SYN-ACK that answers a SYN without the wish.
const SECOND_ISN: Seq = Seq(77_000);

/// The congestion bits among a segment's flags.
fn bits(packet: &[u8]) -> u8 {
    TcpSegment::parse(packet).unwrap().flags().0 & ASKS
}

fn destination(packet: &[u8]) -> SocketAddr {
    TcpSegment::parse(packet).unwrap().destination()
}

/// A connection of the next client up to the SYN to its backend; `flags`: of its own SYN. The SYN-ACK that it gets, that SYN.
fn connect(world: &mut World, flags: Flags) -> [Vec<u8>; 2] {
    world.port += 1;
    let syn = SegmentBuilder { flags: Flags::SYN.union(flags), ..world.syn(OFFER) }.build();
    world.request(&syn)
}

/// The backend's SYN-ACK.
fn answer(world: &mut World, backend: SocketAddr, isn: Seq, flags: Flags) -> Vec<Vec<u8>> {
    let bare = world.syn_ack(1, isn, CLIENT_ISN + 1, OFFER);
    let syn_ack = SegmentBuilder { source: backend, flags: Flags::SYN.union(flags), ..bare }.build();
    world.receive(&syn_ack, Stage::Tracked)
}

/// A client that is refused, whose backend is asked and says yes: its handshake is withdrawn and begun anew.
fn learn(world: &mut World) -> SocketAddr {
    let [to_client, to_backend] = connect(world, Flags::ECN);
    assert_eq!((bits(&to_client), bits(&to_backend)), (0, ASKS));
    let backend = destination(&to_backend);
    let sent = answer(world, backend, BACKEND_ISN, Flags::ECE);
    let (reset, syn) = (segments(&sent)[0], segments(&sent)[1]);
    assert!(reset.flags().rst() && reset.seq() == CLIENT_ISN + 1 && reset.destination() == backend);
    assert_eq!((syn.flags(), syn.seq(), syn.destination()), (Flags::SYN, CLIENT_ISN, backend));
    // A late copy changes nothing.
    assert!(answer(world, backend, BACKEND_ISN, Flags::ECE).is_empty());
    let sent = answer(world, backend, SECOND_ISN, Flags(0));
    assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
    backend
}

/// The reset that withdraws a handshake is lost: the backend answers the repeated SYN as it answered the first.
#[test]
fn a_handshake_that_was_not_withdrawn_is_withdrawn_again() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let [_, to_backend] = connect(&mut world, Flags::ECN);
        let backend = destination(&to_backend);
        answer(&mut world, backend, BACKEND_ISN, Flags::ECE);
        world.pass(101);
        world.engine.handle_timeout(world.now);
        assert_eq!(world.sent().len(), 1, "the SYN");
        let sent = answer(&mut world, backend, BACKEND_ISN, Flags::ECE);
        let (reset, syn) = (segments(&sent)[0], segments(&sent)[1]);
        assert!(reset.flags().rst() && reset.seq() == CLIENT_ISN + 1 && reset.destination() == backend);
        assert_eq!((syn.flags(), syn.seq(), syn.destination()), (Flags::SYN, CLIENT_ISN, backend));
        assert!(answer(&mut world, backend, BACKEND_ISN, Flags::ECE).is_empty(), "once for each SYN");
        let sent = answer(&mut world, backend, SECOND_ISN, Flags(0));
        assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
    }
}

#[test]
fn ecn_is_promised_once_all_backends_are_known_to_speak_it() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let learnt = [learn(&mut world), learn(&mut world)];
        assert_ne!(learnt[0], learnt[1]);
        let [to_client, to_backend] = connect(&mut world, Flags::ECN);
        assert_eq!((bits(&to_client), bits(&to_backend)), (ECE, ASKS));
        let backend = destination(&to_backend);
        let sent = answer(&mut world, backend, BACKEND_ISN, Flags::ECE);
        assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
        assert_eq!(world.counter("ecn_learnt"), 2);
        // One that does not ask is not given it, nor is its backend asked.
        let [to_client, to_backend] = connect(&mut world, Flags(0));
        assert_eq!((bits(&to_client), bits(&to_backend)), (0, 0));
        // The alternate is asked for what the client was promised; this one does not speak it any more.
        world.port -= 1;
        let failed = if backend == world.backend(1) { 1 } else { 2 };
        let order = world.order(1, failed, 3 - failed, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let syn = segments(&sent).into_iter().find(|segment| segment.flags().syn()).unwrap();
        assert_eq!((syn.flags().0 & ASKS, syn.destination()), (ASKS, world.backend(3 - failed)));
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let syn_ack = world.syn_ack(3 - failed, SECOND_ISN, next, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        assert_eq!(world.counter("connections_respliced"), 1);
        world.port += 1;
        assert_eq!(bits(&connect(&mut world, Flags::ECN)[0]), 0, "one does not speak it");
    }
}

/// Nothing is lost by asking a backend that declines or does not hear; it is asked again a minute later.
#[test]
fn a_backend_without_ecn_is_asked_once_a_minute() {
    let mut world = World::new(false, true);
    for silent in [false, true] {
        let [to_client, to_backend] = connect(&mut world, Flags::ECN);
        assert_eq!((bits(&to_client), bits(&to_backend)), (0, ASKS));
        if silent {
            // Something drops SYNs with these bits: the repetition has none.
            world.pass(100);
            world.engine.handle_timeout(world.now);
            assert!(world.sent().iter().all(|packet| bits(packet) == 0));
        }
        // A SYN-ACK that reflects both bits grants nothing.
        let flags = if silent { Flags(0) } else { Flags::ECN };
        let sent = answer(&mut world, destination(&to_backend), BACKEND_ISN, flags);
        assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
    }
    for _ in 0..4 {
        assert_eq!(connect(&mut world, Flags::ECN).map(|packet| bits(&packet)), [0, 0]);
    }
    world.now = world.now + Duration::from_secs(61);
    assert_eq!(connect(&mut world, Flags::ECN).map(|packet| bits(&packet)), [0, ASKS]);
}

/// What only ECN's successor knows is answered in the terms of RFC 3168; what grants it unasked, or is asked half, changes nothing.
#[test]
fn odd_wishes_and_answers_do_no_harm() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        learn(&mut world);
        learn(&mut world);
        let tcp = if v6 { 40 } else { 20 };
        world.port += 1;
        let mut syn = SegmentBuilder { flags: Flags::SYN.union(Flags::ECN), ..world.syn(OFFER) }.build();
        syn[tcp + 12] |= 1;
        let [to_client, to_backend] = world.request(&syn);
        assert_eq!((bits(&to_client), bits(&to_backend)), (ECE, ASKS));
        for packet in [&to_client, &to_backend] {
            assert_eq!(packet[tcp + 12] & 0x0f, 0);
            let class = if v6 { packet[0] & 0x0f | packet[1] } else { packet[1] };
            assert_eq!(class, 0, "SYNs are not ECN-capable");
        }
        for flags in [Flags::ECE, Flags::CWR] {
            let [to_client, to_backend] = connect(&mut world, flags);
            assert_eq!((bits(&to_client), bits(&to_backend)), (0, 0));
            let sent = answer(&mut world, destination(&to_backend), BACKEND_ISN, Flags::ECE);
            assert!(segments(&sent).iter().any(|segment| segment.payload() == REQUEST));
        }
        // A client that falls back to a SYN without has no ECN.
        world.port += 1;
        let syn = world.syn(OFFER).build();
        let wish = SegmentBuilder { flags: Flags::SYN.union(Flags::ECN), ..world.syn(OFFER) }.build();
        assert_eq!(bits(&world.receive(&wish, Stage::Tracked)[0]), ECE);
        assert_eq!(world.request(&syn).map(|packet| bits(&packet)), [0, 0]);
    }
}
