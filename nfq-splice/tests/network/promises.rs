//! Backends that do not keep what their clients were promised: too small an MSS, no timestamps.

use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// What a backend offers that has no timestamps.
const WITHOUT: SynOptions = SynOptions { timestamp: None, ..OFFER };

const NEXT: Seq = Seq(CLIENT_ISN.0.wrapping_add(1 + REQUEST.len() as u32));
static DATA: [u8; 4000] = [7; 4000];

fn told_mss(world: &mut World) -> u16 {
    world.port += 1;
    let syn = world.syn(OFFER).build();
    let [answer, _] = world.request(&syn);
    TcpSegment::parse(&answer).unwrap().syn_options().mss.unwrap()
}

/// Options and data.
fn longest(packets: &[Vec<u8>]) -> usize {
    segments(packets).iter().map(|segment| segment.option_bytes() + segment.payload().len()).max().unwrap()
}

fn whole(packets: &[Vec<u8>]) -> Vec<u8> {
    segments(packets).iter().flat_map(|segment| segment.payload().to_vec()).collect()
}

/// Clients are told the least MSS of the backends that have spoken; one that was told more has its segments cut.
#[test]
fn no_backend_gets_longer_segments_than_it_takes() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        let small = SynOptions { mss: Some(1220), ..OFFER };
        // A header of IPv6 is 20 bytes longer.
        assert_eq!(told_mss(&mut world), if v6 { 1380 } else { 1400 });
        let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        assert_eq!(world.state().unwrap() == "spliced-kernel", kernel);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let syn_ack = world.syn_ack(2, Seq(5), NEXT, small).build();
        world.receive(&syn_ack, Stage::Tracked);
        assert_eq!(world.state().unwrap(), "spliced-userspace");
        for length in [1208, 1209, 1448, 4000] {
            let data = world.client_segment(NEXT, world.iss + 1, &DATA[..length]);
            let packet = SegmentBuilder { flags: Flags::PSH, ..data }.build();
            let sent = world.receive(&packet, Stage::Raw);
            assert!(longest(&sent) <= 1220, "{length}");
            assert_eq!(sent.len(), length.div_ceil(1208));
            assert_eq!(whole(&sent), DATA[..length]);
            assert!(segments(&sent).iter().all(TcpSegment::checksums_valid));
        }
        // What goes to the client does not change its length.
        let packet = world.backend_segment(2, Seq(6), &DATA[..1388], 2000).build();
        assert_eq!(longest(&world.receive(&packet, Stage::Raw)), 1400);
        // From now on clients are told what both take, and nothing needs to be cut.
        assert_eq!(told_mss(&mut world), 1220);
    }
}

/// A client that was promised timestamps gets no segment without (RFC 7323 §3.2), and they never go back.
#[test]
fn timestamps_are_added_where_the_backend_has_none() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let first = world.backend_segment(1, BACKEND_ISN + 1, b"abc", 1900);
        let mut last = match world.splices.last().filter(|_| kernel) {
            Some(splice) => 1900_u32.wrapping_add(splice.timestamps.unwrap()),
            None => segments(&world.receive(&first.build(), Stage::Raw))[0].timestamps().unwrap().0,
        };
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, b"abc".to_vec());
        world.pass(1500);
        world.engine.handle_order(world.now, order);
        world.sent();
        let syn_ack = world.syn_ack(2, Seq(5), NEXT, WITHOUT).build();
        world.receive(&syn_ack, Stage::Tracked);
        assert_eq!(world.state().unwrap(), "spliced-userspace");
        for (round, length) in [0, 3, 1388, 1400, 3000].into_iter().enumerate() {
            world.pass(7);
            let stamps = Some((1200 + round as u32, last));
            let ack = world.client_segment(NEXT, world.iss + 4, b"");
            let sent = world.receive(&SegmentBuilder { timestamps: stamps, ..ack }.build(), Stage::Raw);
            assert_eq!(segments(&sent)[0].timestamps().map(|(value, _)| value), Some(1200 + round as u32));
            let bare = world.backend_segment(2, Seq(6), &DATA[..length], 0);
            let packet = SegmentBuilder { timestamps: None, ..bare }.build();
            let sent = world.receive(&packet, Stage::Raw);
            assert!(longest(&sent) <= 1400, "{length}");
            assert_eq!(whole(&sent), DATA[..length]);
            for segment in segments(&sent) {
                assert!(segment.checksums_valid());
                let (value, echo) = segment.timestamps().unwrap();
                assert!(value.wrapping_sub(last) as i32 >= 0, "{value} after {last}");
                assert_eq!(echo, 1200 + round as u32);
                last = value;
            }
        }
    }
}

/// A daemon after this one still knows what to make up for.
#[test]
fn what_lacks_is_known_after_a_restart() {
    use nfq_splice::{Action, Engine};
    let mut world = World::new(false, true);
    let syn = world.syn(OFFER).build();
    world.request(&syn);
    let answer = SynOptions { mss: Some(1000), timestamp: None, ..OFFER };
    let mut syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, answer).build();
    world.engine.handle_packet(world.now, &mut syn_ack, Stage::Tracked);
    let mut parked = None;
    while let Some(action) = world.engine.poll_action() {
        if let Action::Park(found) = action {
            parked = Some(found);
        }
    }
    let kept = parked.unwrap();
    let kept = nfq_splice::Parked::new(kept.splice, kept.rest());
    world.engine = Engine::new(world.settings.clone(), nfq_splice::Secret::new([8; 16]));
    world.engine.handle_parked(world.now, &kept);
    world.sent();
    let bare = world.backend_segment(1, BACKEND_ISN + 1, b"abc", 0);
    let sent = world.receive(&SegmentBuilder { timestamps: None, ..bare }.build(), Stage::Raw);
    assert!(segments(&sent)[0].timestamps().is_some());
    let data = world.client_segment(NEXT, world.iss + 1, &DATA[..1448]);
    let sent = world.receive(&data.build(), Stage::Raw);
    assert!(longest(&sent) <= 1000 && whole(&sent) == DATA[..1448]);
}

/// A backend that has none, behind a client that was promised them; what the engine wants then is not done yet.
fn spliced_without_timestamps() -> World {
    let mut world = World::new(false, true);
    let syn = world.syn(OFFER).build();
    world.request(&syn);
    let mut syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, WITHOUT).build();
    world.engine.handle_packet(world.now, &mut syn_ack, Stage::Tracked);
    world
}

/// The key of the clocks may be lost with the daemon: the client would take what is made up by another one for old.
#[test]
fn made_up_timestamps_go_on_without_the_key() {
    use nfq_splice::{Action, Engine, Secret};
    for other in 0..16 {
        let mut world = spliced_without_timestamps();
        let actions: Vec<_> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let parked = actions
            .iter()
            .find_map(|action| if let Action::Park(parked) = action { Some(*parked) } else { None });
        let bare = world.backend_segment(1, BACKEND_ISN + 1, b"abc", 0);
        let packet = SegmentBuilder { timestamps: None, ..bare }.build();
        let told = |sent: &[Vec<u8>]| segments(sent)[0].timestamps().unwrap().0;
        let before = told(&world.receive(&packet, Stage::Raw));
        world.pass(1500);
        world.engine = Engine::new(world.settings.clone(), Secret::new([other; 16]));
        world.engine.handle_parked(world.now, &parked.unwrap());
        world.sent();
        let after = told(&world.receive(&packet, Stage::Raw));
        assert_eq!(after.wrapping_sub(before), 1500, "with key {other}");
    }
}

/// No daemon knows by how much those before it had moved a client's clock with each recovery.
#[test]
fn timestamps_go_on_over_any_number_of_restarts() {
    use nfq_splice::{Action, Engine, Secret};
    let mut world = spliced_without_timestamps();
    let (mut on, mut last) = (1, None::<u32>);
    for life in 1..9 {
        let mut parked = None;
        for id in 0..4 {
            let alternate = 3 - on;
            let order = world.order(life * 10 + id, on, alternate, BACKEND_ISN + 1, Vec::new());
            world.engine.handle_order(world.now, order);
            let mut syn_ack = world.syn_ack(alternate, BACKEND_ISN, NEXT, WITHOUT).build();
            world.engine.handle_packet(world.now, &mut syn_ack, Stage::Raw);
            on = alternate;
        }
        while let Some(action) = world.engine.poll_action() {
            if let Action::Park(found) = action {
                parked = Some(found);
            }
        }
        let bare = world.backend_segment(on, BACKEND_ISN + 1, b"abc", 0);
        let sent = world.receive(&SegmentBuilder { timestamps: None, ..bare }.build(), Stage::Raw);
        let (value, _) = segments(&sent)[0].timestamps().unwrap();
        assert!(last.is_none_or(|last| value.wrapping_sub(last) as i32 > 0), "{last:?} {value}");
        last = Some(value);
        world.engine = Engine::new(world.settings.clone(), Secret::of_life([7; 16], life as u32));
        world.engine.handle_parked(world.now, &parked.unwrap());
    }
}
