//! What a client sent into the fence of its failed backend comes from the log: it need not wait for the client's retransmission timer.

use cluster::control::{ClientWindow, Flow, RecoveryOrder, Swallowed};
use nfq_splice::{Engine, Secret, Stage};
use packet::{SegmentBuilder, Seq, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
const ALTERNATE_ISN: Seq = Seq(7_000_000);

fn after(bytes: usize) -> Seq {
    CLIENT_ISN + 1 + (REQUEST.len() + bytes) as u32
}

/// Its first request is answered, and its backend fails.
fn fail(world: &mut World) {
    world.splice(OFFER, OFFER);
    world.sent();
    let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
    world.engine.handle_order(world.now, order);
    world.sent();
}

fn swallowed(world: &World, seq: Seq, bytes: &[u8]) -> Swallowed {
    let flow = Flow { client: world.client(), backend: world.backend(1) };
    Swallowed { flow, client_next: after(0).0, seq: seq.0, timestamp: Some(1200), bytes: bytes.to_vec() }
}

fn take(world: &mut World, swallowed: &Swallowed) -> Vec<Vec<u8>> {
    let alternate = world.backend(2);
    world.engine.handle_swallowed(world.now, alternate, swallowed);
    world.sent()
}

fn alternate_answers(world: &mut World) -> Vec<Vec<u8>> {
    let syn_ack = world.syn_ack(2, ALTERNATE_ISN, after(0), OFFER).build();
    world.receive(&syn_ack, Stage::Raw)
}

/// The data that goes to the alternate: where, what, acknowledging what, and with which timestamp.
fn data(world: &World, sent: &[Vec<u8>]) -> Vec<(Seq, Vec<u8>, Seq, u32)> {
    let to_alternate =
        |sent: &TcpSegment<'_>| sent.destination() == world.backend(2) && !sent.payload().is_empty();
    let sent = segments(sent).into_iter().filter(to_alternate);
    sent.map(|sent| (sent.seq(), sent.payload().to_vec(), sent.ack(), sent.timestamps().unwrap().0)).collect()
}

#[test]
fn it_is_held_and_goes_to_the_alternate_as_soon_as_that_answers() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        fail(&mut world);
        let whole = swallowed(&world, after(0), NEXT);
        for _ in 0..2 {
            assert!(take(&mut world, &whole).is_empty());
        }
        // The client's own repetition adds nothing.
        let again = world.client_segment(after(0), world.iss + 1, NEXT).build();
        let sent = world.receive(&again, Stage::Raw);
        assert!(data(&world, &sent).is_empty());
        let sent = alternate_answers(&mut world);
        assert_eq!(data(&world, &sent), [(after(0), NEXT.to_vec(), ALTERNATE_ISN + 1, 1200)]);
        assert_eq!(world.counter("swallowed_taken"), 2);
    }
}

#[test]
fn after_the_re_splice_it_is_sent_on() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        fail(&mut world);
        alternate_answers(&mut world);
        let late = swallowed(&world, after(0), NEXT);
        let sent = take(&mut world, &late);
        assert_eq!(
            data(&world, &sent),
            [(after(0), NEXT.to_vec(), ALTERNATE_ISN + 1, 1200)],
            "{v6} {kernel}"
        );
        // The alternate's acknowledgement of it is known to be one of something sent.
        let ack = SegmentBuilder {
            ack: Some(after(NEXT.len())),
            ..world.backend_segment(2, ALTERNATE_ISN + 1, b"", 2000)
        };
        world.receive(&ack.build(), Stage::Raw);
        assert_eq!(world.state().unwrap(), if kernel { "spliced-kernel" } else { "spliced-userspace" });
        if !kernel {
            assert!(take(&mut world, &late).is_empty(), "it has been acknowledged");
        }
    }
}

/// The windows that the alternate is told, of which the log knows none, when it answers what the client sent into the fence.
fn windows_told(world: &mut World) -> Vec<u16> {
    let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
    let client_window = ClientWindow::default();
    world.engine.handle_order(world.now, RecoveryOrder { client_window, ..order });
    world.sent();
    let whole = swallowed(world, after(0), NEXT);
    take(world, &whole);
    let sent = alternate_answers(world);
    let sent = segments(&sent).into_iter();
    sent.filter(|sent| sent.destination() == world.backend(2)).map(|sent| sent.window()).collect()
}

/// All that the client has sent since its handshake went into the fence: the log does not know its window, the proxy does.
#[test]
fn a_small_window_is_known_though_the_log_has_nothing_of_the_client() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        world.sent();
        let windows = windows_told(&mut world);
        // As in `client_segment`, whose field is scaled alike.
        assert!(!windows.is_empty() && windows.iter().all(|window| *window <= 500), "{windows:?}");
    }
}

/// A later daemon does not know it either: no more is assumed than what any client takes, and room for one whole segment.
#[test]
fn a_window_that_nobody_knows_is_taken_for_a_small_one() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        world.splice(OFFER, OFFER);
        world.sent();
        world.engine = Engine::new(world.settings.clone(), Secret::new([7; 16]));
        world.engine.handle_restored(world.now, &world.splices[0]);
        let told = windows_told(&mut world);
        let windows: Vec<u32> = told.into_iter().map(|window| u32::from(window) << 7).collect();
        assert!(!windows.is_empty());
        assert!(windows.iter().all(|window| (1400..=2800).contains(window)), "{windows:?}");
    }
}

/// The alternate's fence has swallowed it as well: the log tells of it again, before or after the next re-splice.
#[test]
fn what_two_fences_have_swallowed_goes_to_the_third_backend() {
    for (v6, kernel) in ALL {
        for late in [false, true] {
            let mut world = World::new(v6, kernel);
            fail(&mut world);
            let first = swallowed(&world, after(0), NEXT);
            take(&mut world, &first);
            alternate_answers(&mut world);
            let order = world.order(2, 2, 3, ALTERNATE_ISN + 1, Vec::new());
            world.engine.handle_order(world.now, order);
            world.sent();
            let flow = Flow { client: world.client(), backend: world.backend(2) };
            let again = Swallowed { flow, ..first };
            let third = world.backend(3);
            let syn_ack = world.syn_ack(3, ALTERNATE_ISN, after(0), OFFER).build();
            let mut sent = Vec::new();
            if late {
                sent.extend(world.receive(&syn_ack, Stage::Raw));
            }
            world.engine.handle_swallowed(world.now, third, &again);
            sent.extend(world.sent());
            if !late {
                sent.extend(world.receive(&syn_ack, Stage::Raw));
            }
            let sent = segments(&sent);
            let data: Vec<(Seq, &[u8])> = sent
                .iter()
                .filter(|sent| sent.destination() == third && !sent.payload().is_empty())
                .map(|sent| (sent.seq(), sent.payload()))
                .collect();
            assert_eq!(data, [(after(0), NEXT)], "{v6} {kernel} {late}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for kernel in [true, false] {
        let mut world = World::new(false, kernel);
        world.splice(OFFER, OFFER);
        world.sent();
        let good = swallowed(&world, after(0), NEXT);
        assert!(take(&mut world, &good).is_empty(), "no backend has failed");
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let elsewhere = Flow { backend: world.backend(3), ..good.flow };
        let stranger = Flow { client: world.service(), ..good.flow };
        let hold = 256 << 10;
        let refused = [
            Swallowed { flow: elsewhere, ..good.clone() },
            Swallowed { flow: stranger, ..good.clone() },
            Swallowed { bytes: Vec::new(), ..good.clone() },
            Swallowed { bytes: vec![0; hold + 1], ..good.clone() },
            swallowed(&world, after(hold + 1), NEXT),
            swallowed(&world, after(0) + (1 << 31), NEXT),
            swallowed(&world, after(0) - NEXT.len() as u32, NEXT),
        ];
        for bad in &refused {
            assert!(take(&mut world, bad).is_empty());
        }
        let sent = alternate_answers(&mut world);
        assert!(data(&world, &sent).is_empty());
        assert_eq!(world.counter("swallowed_taken"), 0);
        // Once it is on the alternate, those of another recovery.
        for (alternate, swallowed) in [(3, &good), (1, &good), (2, &refused[4]), (2, &refused[6])] {
            let alternate = world.backend(alternate);
            world.engine.handle_swallowed(world.now, alternate, swallowed);
            assert!(world.sent().is_empty());
        }
        assert_eq!(world.counter("swallowed_taken"), 0);
    }
}
