//! What a client sent to a dead backend after the last logged byte is lost. It learns so from its next segment, not from its
//! retransmission timer.

use nfq_splice::Stage;
use packet::{SegmentBuilder, Seq, TcpSegment};

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, World, segments};

/// Logged, and sent to the alternate again.
const LOGGED: &[u8] = &[1; 100_000];
/// Sent to the dead backend, then again; and behind it.
const LOST: &[u8] = &[2; 1300];
const LATER: &[u8] = &[3; 1300];
const ALTERNATE_ISN: Seq = Seq(7_000_000);

fn next() -> Seq {
    CLIENT_ISN + 1 + LOGGED.len() as u32
}

fn fail(world: &mut World) -> Vec<Vec<u8>> {
    world.splice(OFFER, OFFER);
    world.sent();
    let mut order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
    order.client_next = next().0;
    order.replay = LOGGED.to_vec();
    world.engine.handle_order(world.now, order);
    world.sent()
}

fn client_sends(world: &mut World, seq: Seq, data: &'static [u8]) -> Vec<Vec<u8>> {
    let segment = world.client_segment(seq, world.iss + 1, data).build();
    world.receive(&segment, Stage::Raw)
}

fn alternate_acknowledges(world: &mut World, ack: Seq) -> Vec<Vec<u8>> {
    let segment = SegmentBuilder { ack: Some(ack), ..world.backend_segment(2, ALTERNATE_ISN + 1, b"", 2000) };
    world.receive(&segment.build(), Stage::Raw)
}

/// The edges of the one selective acknowledgement behind timestamps.
fn sack(packet: &[u8]) -> Option<(Seq, Seq)> {
    let segment = TcpSegment::parse(packet).unwrap();
    let header = &packet[packet.len() - segment.payload().len() - 24..];
    let edge = |at: usize| Seq(u32::from_be_bytes(header[at..at + 4].try_into().unwrap()));
    (header[12..16] == [1, 1, 5, 10]).then(|| (edge(16), edge(20)))
}

#[test]
fn a_client_hears_at_once_of_what_went_to_the_dead_backend() {
    for (v6, kernel) in crate::world::ALL {
        let mut world = World::new(v6, kernel);
        let told = fail(&mut world);
        let to_client = segments(&told).into_iter().find(|told| told.destination() == world.client());
        assert_eq!(to_client.unwrap().ack(), next());
        // Without a backend, and while it takes what was logged.
        let later = next() + LOST.len() as u32;
        let block = (later, later + LATER.len() as u32);
        for round in 0..2 {
            let answer = client_sends(&mut world, later, LATER);
            assert_eq!((answer.len(), segments(&answer)[0].ack()), (1, next()), "{round}");
            assert_eq!(sack(&answer[0]), Some(block));
            if round == 0 {
                let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
                world.receive(&syn_ack, Stage::Raw);
            }
        }
        assert!(client_sends(&mut world, next(), LOST).is_empty());
        // Acknowledgements of what the client knows to have arrived are not its business.
        let mut stream = Vec::new();
        for place in (10_000..=LOGGED.len() as u32).step_by(10_000) {
            let sent = alternate_acknowledges(&mut world, CLIENT_ISN + 1 + place);
            let last = place == LOGGED.len() as u32;
            let sent = segments(&sent);
            assert!(last || sent.iter().all(|sent| sent.destination() == world.backend(2)));
            let behind = sent.iter().filter(|sent| next().before_or_at(sent.seq()));
            behind.for_each(|sent| stream.extend_from_slice(sent.payload()));
        }
        assert!(stream == [LOST, LATER].concat());
        assert_eq!(world.state().unwrap(), if kernel { "spliced-kernel" } else { "spliced-userspace" });
    }
}

/// A client that has not yet heard of the acknowledgement repeats what the proxy itself still has to send. What reaches the alternate
/// that way it acknowledges, and must not be sent it for ever.
#[test]
fn what_a_client_repeats_itself_counts_as_sent() {
    for (v6, kernel) in crate::world::ALL {
        let mut world = World::new(v6, kernel);
        fail(&mut world);
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
        let sent = world.receive(&syn_ack, Stage::Raw);
        let replayed =
            |sent: &&TcpSegment<'_>| sent.destination() == world.backend(2) && !sent.payload().is_empty();
        let sent = segments(&sent).iter().filter(replayed).map(TcpSegment::seq).reduce(Seq::max);
        let repeated = sent.unwrap() + 20_000;
        assert!(repeated.before(next()));
        assert_eq!(client_sends(&mut world, repeated, &LOGGED[..1300]).len(), 1);
        let sent = alternate_acknowledges(&mut world, repeated + 1300);
        let sent = segments(&sent).into_iter().find(|sent| !sent.payload().is_empty());
        assert_eq!(sent.unwrap().seq(), repeated + 1300);
    }
}

/// The alternate has taken, and the log has seen, only so much of the replay when it fails, too.
fn fail_again(world: &mut World, logged: usize, known: Seq) -> Vec<Vec<u8>> {
    fail(world);
    let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
    world.receive(&syn_ack, Stage::Raw);
    let mut order = world.order(2, 2, 3, ALTERNATE_ISN + 1, Vec::new());
    order.client_next = (CLIENT_ISN + 1 + logged as u32).0;
    order.client_known = known.0;
    order.replay = LOGGED[..logged].to_vec();
    world.engine.handle_order(world.now, order);
    world.sent();
    let syn_ack = world.syn_ack(3, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
    world.receive(&syn_ack, Stage::Raw)
}

#[test]
fn what_the_log_has_not_seen_again_comes_from_the_proxy() {
    for (v6, kernel) in crate::world::ALL {
        for logged in [0, 5000] {
            let mut world = World::new(v6, kernel);
            let mut sent = fail_again(&mut world, logged, next());
            let mut got = Vec::new();
            while got.len() < LOGGED.len() {
                let before = got.len();
                for segment in segments(&sent).iter().filter(|sent| sent.destination() == world.backend(3)) {
                    if segment.seq() == CLIENT_ISN + 1 + got.len() as u32 {
                        got.extend_from_slice(segment.payload());
                    }
                }
                assert!(got.len() > before);
                let ack = Some(CLIENT_ISN + 1 + got.len() as u32);
                let segment = world.backend_segment(3, ALTERNATE_ISN + 1, b"", 2000);
                sent = world.receive(&SegmentBuilder { ack, ..segment }.build(), Stage::Raw);
            }
            assert!(got == LOGGED);
            assert_eq!(world.state().unwrap(), if kernel { "spliced-kernel" } else { "spliced-userspace" });
        }
    }
}

/// Neither the log nor the proxy has them, and the client does not repeat them.
#[test]
fn a_client_whose_acknowledged_bytes_are_lost_is_reset() {
    for (v6, kernel) in crate::world::ALL {
        let mut world = World::new(v6, kernel);
        fail_again(&mut world, 5000, next() + 1);
        assert_eq!(world.state(), None);
    }
}
