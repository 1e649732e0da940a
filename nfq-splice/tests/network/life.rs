//! What takes long, or meets in the middle, in virtual time: heads a byte a second, half-hours without a word, both sides closing at
//! once, numbers that wrap while the backend is replaced.

use std::time::Duration;

use nfq_splice::{Action, CLOSED_LINGER, Stage};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const NEXT: Seq = Seq(CLIENT_ISN.0.wrapping_add(1 + REQUEST.len() as u32));
/// Bytes of a head at most.
const LIMIT: usize = 2000;

/// Time passes, whatever falls due is done; what was sent.
fn wait(world: &mut World, duration: Duration) -> Vec<Vec<u8>> {
    let end = world.now + duration;
    let mut sent = Vec::new();
    while let Some(due) = world.engine.poll_timeout().filter(|due| *due <= end) {
        world.now = world.now.max(due);
        world.engine.handle_timeout(world.now);
        sent.extend(world.sent());
    }
    world.now = end;
    sent
}

/// The client's handshake, by which it has said nothing yet.
fn open(world: &mut World) {
    let syn = world.syn(OFFER).build();
    let answers = world.receive(&syn, Stage::Tracked);
    let answer = TcpSegment::parse(&answers[0]).unwrap();
    world.iss = answer.seq();
    world.stamps = true;
    world.stamp = answer.timestamps().unwrap().0;
    let ack = world.client_segment(CLIENT_ISN + 1, world.iss + 1, b"").build();
    world.receive(&ack, Stage::Tracked);
}

/// Sends a byte at a time, each of which has to be acknowledged, until the proxy says something else, which is returned, or
/// all are sent.
fn drip(world: &mut World, pause: Duration, bytes: &'static [u8]) -> (usize, Vec<Vec<u8>>) {
    for (at, byte) in bytes.chunks(1).enumerate() {
        let late = wait(world, pause);
        if !late.is_empty() {
            return (at, late);
        }
        let seq = CLIENT_ISN + 1 + at as u32;
        let packet = world.client_segment(seq, world.iss + 1, byte).build();
        let sent = world.receive(&packet, Stage::Tracked);
        let said = segments(&sent);
        let acknowledged = said.len() == 1 && said[0].payload().is_empty() && said[0].ack() == seq + 1;
        if !acknowledged || said[0].destination() != world.client() {
            return (at, sent);
        }
    }
    panic!("nothing came of {} bytes", bytes.len());
}

fn status(packets: &[Vec<u8>]) -> String {
    let said: Vec<u8> = segments(packets).iter().flat_map(|segment| segment.payload().to_vec()).collect();
    String::from_utf8_lossy(&said).chars().skip(9).take(3).collect()
}

fn head(field_bytes: usize) -> &'static [u8] {
    let field = "x".repeat(field_bytes);
    format!("GET / HTTP/1.1\r\nHost: a\r\nA: {field}\r\n\r\n").into_bytes().leak()
}

/// However slow, a head within limits reaches its backend; one too long is answered as soon as it is, one too late when it is.
#[test]
fn a_head_of_one_byte_a_second() {
    for v6 in [false, true] {
        let patient = format!("request_head_timeout_ms = 600000\nrequest_head_bytes = {LIMIT}\n");
        let fits = head(500);
        let mut world = World::with(v6, true, &patient);
        open(&mut world);
        let (last, sent) = drip(&mut world, Duration::from_secs(1), fits);
        assert_eq!(last, fits.len() - 1);
        assert!(segments(&sent).iter().any(|segment| segment.flags().syn()), "connects");
        let syn_ack = world.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, OFFER).build();
        let sent = world.receive(&syn_ack, Stage::Tracked);
        let whole: Vec<u8> = segments(&sent).iter().flat_map(|segment| segment.payload().to_vec()).collect();
        assert_eq!(whole, fits);

        let mut world = World::with(v6, true, &patient);
        open(&mut world);
        let (last, sent) = drip(&mut world, Duration::from_millis(250), head(2 * LIMIT));
        assert!((LIMIT - 1..=LIMIT + 1).contains(&last), "{last}");
        assert_eq!(status(&sent), "431");

        let mut world = World::new(v6, true);
        open(&mut world);
        let (last, sent) = drip(&mut world, Duration::from_secs(1), fits);
        assert_eq!((last, &status(&sent)[..]), (9, "408"), "after ten seconds");
    }
}

/// Half an hour without a word, three times, the backend failing in between.
#[test]
fn half_an_hour_of_silence() {
    const HALF_HOUR: Duration = Duration::from_secs(1800);
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        assert!(wait(&mut world, HALF_HOUR).is_empty());
        let minutes = HALF_HOUR.as_millis() as u32;
        let data = world.backend_segment(1, BACKEND_ISN + 1, b"abc", 1000 + minutes).build();
        let sent = world.receive(&data, Stage::Raw);
        assert_eq!(segments(&sent)[0].payload(), b"abc");
        let seen = segments(&sent)[0].timestamps().unwrap().0;
        wait(&mut world, HALF_HOUR);
        let order = world.order(1, 1, 2, BACKEND_ISN + 4, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let syn_ack = world.syn_ack(2, Seq(5), NEXT, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        wait(&mut world, HALF_HOUR);
        let data = world.backend_segment(2, Seq(6), b"def", 1000 + minutes).build();
        let sent = world.receive(&data, Stage::Raw);
        let segment = segments(&sent)[0];
        assert_eq!((segment.payload(), segment.seq()), (&b"def"[..], world.iss + 4));
        assert!(segment.timestamps().unwrap().0.wrapping_sub(seen) < u32::MAX / 2);
        let ack = world.client_segment(NEXT, world.iss + 7, b"").build();
        assert_eq!(segments(&world.receive(&ack, Stage::Raw))[0].ack(), Seq(9));
    }
}

/// Both sides close before they hear of the other's end; each gets the other's, and its acknowledgement (RFC 9293 §3.6, case 3).
#[test]
fn both_sides_close_at_once() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let fin = |segment: SegmentBuilder<'static>| SegmentBuilder { flags: Flags::FIN, ..segment }.build();
        let ours = fin(world.client_segment(NEXT, world.iss + 1, b""));
        let theirs = fin(world.backend_segment(1, BACKEND_ISN + 1, b"", 2000));
        let sent = [world.receive(&ours, Stage::Raw), world.receive(&theirs, Stage::Raw)];
        let [to_backend, to_client] = sent.each_ref().map(|sent| segments(sent)[0]);
        assert!(to_backend.flags().fin() && to_backend.ack() == BACKEND_ISN + 1);
        assert!(to_client.flags().fin() && to_client.ack() == NEXT);
        let ours = world.client_segment(NEXT + 1, world.iss + 2, b"").build();
        let theirs =
            SegmentBuilder { ack: Some(NEXT + 1), ..world.backend_segment(1, BACKEND_ISN + 2, b"", 2001) };
        assert_eq!(segments(&world.receive(&ours, Stage::Raw))[0].ack(), BACKEND_ISN + 2);
        assert_eq!(segments(&world.receive(&theirs.build(), Stage::Raw))[0].ack(), NEXT + 1);
        wait(&mut world, CLOSED_LINGER + Duration::from_secs(1));
        assert_eq!(world.engine.status().total, 0);
        assert_eq!(world.counter("connections_ended"), 1);
    }
}

/// A client whose connection wraps in the middle of a response: the cookies' numbers cannot be chosen, so it is looked for.
fn wraps_soon(world: &mut World) -> bool {
    for port in 1024..u16::MAX {
        world.port = port;
        let syn = world.syn(OFFER).build();
        let answers = world.receive(&syn, Stage::Tracked);
        let iss = TcpSegment::parse(&answers[0]).unwrap().seq();
        if (10_000..200_000).contains(&(u32::MAX - iss.0)) {
            return true;
        }
        let reset =
            SegmentBuilder { flags: Flags::RST, ..world.client_segment(CLIENT_ISN + 1, iss + 1, b"") };
        world.receive(&reset.build(), Stage::Tracked);
    }
    false
}

/// All three number spaces of the server's side wrap: the client's while logged bytes are repeated, the first backend's before, the
/// alternate's after the re-splice. The client's own begin 3 bytes before it.
#[test]
fn numbers_wrap_while_the_backend_is_replaced() {
    let body: &'static [u8] = (0..300_000_u32).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>().leak();
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        while !wraps_soon(&mut world) {
            world.pass(40_000);
        }
        world.splice(OFFER, OFFER);
        let wrap = (u32::MAX - world.iss.0) as usize;
        let (first, p) = (wrap - 5_000, wrap + 5_000);
        if !kernel {
            for (at, piece) in body[..p].chunks(1000).enumerate() {
                let seq = BACKEND_ISN + 1 + at as u32 * 1000;
                let sent = world.receive(&world.backend_segment(1, seq, piece, 2000).build(), Stage::Raw);
                assert_eq!(segments(&sent)[0].seq(), world.iss + 1 + at as u32 * 1000);
            }
            let ack = world.client_segment(NEXT, world.iss + 1 + first as u32, b"").build();
            assert_eq!(segments(&world.receive(&ack, Stage::Raw))[0].ack(), BACKEND_ISN + 1 + first as u32);
        }
        let order = world.order(1, 1, 2, BACKEND_ISN + 1 + first as u32, body[first..p].to_vec());
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let again: Vec<_> =
            segments(&sent).into_iter().filter(|segment| !segment.payload().is_empty()).collect();
        assert_eq!(again[0].seq(), world.iss + 1 + first as u32);
        assert!(again.last().unwrap().seq().0 < 1 << 20, "wrapped");
        let bytes: Vec<u8> = again.iter().flat_map(|segment| segment.payload().to_vec()).collect();
        assert_eq!(bytes, body[first..p]);
        let isn = Seq(u32::MAX - 2_500);
        let syn_ack = world.syn_ack(2, isn, NEXT, OFFER).build();
        world.receive(&syn_ack, Stage::Tracked);
        let ack = world.client_segment(NEXT, world.iss + 1 + p as u32, b"").build();
        world.receive(&ack, Stage::Raw);
        world.receive(&world.backend_segment(2, isn + 1, b"", 2000).build(), Stage::Raw);
        let delta = (world.iss + 1 + p as u32).0.wrapping_sub((isn + 1).0);
        if kernel {
            assert_eq!(world.splices.last().unwrap().delta, delta);
            assert_eq!(world.state().unwrap(), "spliced-kernel");
            continue;
        }
        for (at, piece) in body[p..p + 5000].chunks(1000).enumerate() {
            let at = at as u32 * 1000;
            let sent =
                world.receive(&world.backend_segment(2, isn + 1 + at, piece, 2000).build(), Stage::Raw);
            assert_eq!(segments(&sent)[0].seq(), world.iss + 1 + p as u32 + at);
            let ack = world.client_segment(NEXT, world.iss + 1 + p as u32 + at + 1000, b"").build();
            assert_eq!(segments(&world.receive(&ack, Stage::Raw))[0].ack(), isn + 1 + at + 1000);
        }
    }
}

/// Only the backend's own number is acknowledged: of a later process, which a late copy of the SYN has reached, a handshake must not
/// succeed. It answers with a reset, as the connection's backend is gone.
#[test]
fn a_syn_ack_of_another_process_does_not_open_a_connection() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        for far in [1, 1 << 30, 1 << 31, u32::MAX - (64 << 20)] {
            let other = BACKEND_ISN + far;
            for (isn, ack) in [(BACKEND_ISN, BACKEND_ISN + 1), (other, BACKEND_ISN + 1)] {
                let syn_ack = world.syn_ack(1, isn, CLIENT_ISN + 1, OFFER).build();
                let sent = world.receive(&syn_ack, Stage::Raw);
                let [sent] = <[_; 1]>::try_from(segments(&sent)).unwrap();
                assert_eq!((sent.destination(), sent.ack()), (world.backend(1), ack), "{far}");
                assert!(!sent.flags().rst());
            }
        }
    }
}

/// A connection of the userspace path is kept for a later daemon as long as one side lacks something, also when both have closed.
#[test]
fn a_closed_connection_is_kept_until_both_sides_have_all() {
    let mut world = World::new(false, false);
    world.splice(OFFER, OFFER);
    let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
    let (said, end) = (world.iss + 1, world.iss + 5);
    let server =
        SegmentBuilder { flags: Flags::FIN, ..world.backend_segment(1, BACKEND_ISN + 1, b"abc", 1000) };
    let client = SegmentBuilder { flags: Flags::FIN, ..world.client_segment(next, said, b"") };
    let has_all = world.client_segment(next + 1, end, b"");
    let knows =
        SegmentBuilder { ack: Some(next + 1), ..world.backend_segment(1, BACKEND_ISN + 5, b"", 1000) };
    let steps = [(server, false), (client, false), (has_all, false), (knows, true)];
    for (step, (segment, over)) in steps.into_iter().enumerate() {
        world.engine.handle_packet(world.now, &mut segment.build(), Stage::Raw);
        let actions: Vec<_> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let forgets = actions.iter().any(|action| matches!(action, Action::Unsplice(_)));
        assert_eq!(forgets, over, "step {step}: {actions:?}");
    }
}

/// A daemon that died after such an acknowledgement would be followed by one whose clock goes on from the client's echo of the answer to
/// its SYN, which must not be older than anything that the client was told (RFC 7323 §5.3).
#[test]
fn the_clock_stands_still_until_something_of_a_head_is_taken() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        open(&mut world);
        let echoed = world.stamp;
        let mut told = |at: u32| {
            wait(&mut world, Duration::from_millis(7));
            let packet = world.client_segment(CLIENT_ISN + 1 + at, world.iss + 1, b"GE").build();
            let sent = world.receive(&packet, Stage::Tracked);
            let said = segments(&sent);
            (said[0].ack(), said[0].timestamps().unwrap().0)
        };
        assert_eq!([told(2), told(2)], [(CLIENT_ISN + 1, echoed); 2]);
        let (ack, later) = told(0);
        assert_eq!((ack, later), (CLIENT_ISN + 5, echoed + 21));
    }
}

/// An upload takes the fast path, and its acknowledgements do not: of the client's segments the latest is known, here an old one that came
/// again.
#[test]
fn what_took_the_fast_path_may_be_acknowledged() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let acknowledge = |world: &mut World, upload: u32| {
            let bare = world.backend_segment(1, BACKEND_ISN + 1, b"", 2000);
            let segment = SegmentBuilder { ack: Some(NEXT + upload), ..bare }.build();
            assert_eq!(world.receive(&segment, Stage::Raw).len(), 1);
        };
        acknowledge(&mut world, 0);
        // The window has room for 64,000.
        for upload in [40_000, 80_000, 120_000] {
            let again = world.client_segment(NEXT + 1000, world.iss + 1, b"").build();
            world.engine.handle_passed(world.now, &again);
            acknowledge(&mut world, upload);
        }
        // And when these have taken it, too.
        let far = SegmentBuilder {
            ack: Some(NEXT + 500_000),
            source: world.service(),
            ..world.backend_segment(1, world.iss + 1, b"", 2000)
        };
        world.engine.handle_passed(world.now, &far.build());
        let next = world.client_segment(NEXT + 550_000, world.iss + 1, b"the end").build();
        let sent = world.receive(&next, Stage::Raw);
        assert_eq!(segments(&sent)[0].destination(), world.backend(1), "it is the client's");
    }
}

/// A dead process's kernel answers each acknowledgement under way; the client believes only the answer to its last one.
#[test]
fn a_late_reset_of_the_backend_is_no_end() {
    for v6 in [false, true] {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let answer = world.backend_segment(1, BACKEND_ISN + 1, b"HTTP/1.1", 2000).build();
        world.receive(&answer, Stage::Raw);
        let acknowledged = world.client_segment(NEXT, world.iss + 9, b"").build();
        world.receive(&acknowledged, Stage::Raw);
        let reset = |world: &World, at| {
            let bare = SegmentBuilder { ack: None, ..world.backend_segment(1, BACKEND_ISN + at, b"", 2000) };
            SegmentBuilder { flags: Flags::RST, ..bare }.build()
        };
        for (at, remain) in [(8, 1), (9, 0)] {
            let reset = reset(&world, at);
            world.receive(&reset, Stage::Raw);
            wait(&mut world, CLOSED_LINGER + Duration::from_millis(1));
            assert_eq!(world.engine.status().total, remain, "{at}");
        }
    }
}

/// Conntrack was not shown what the other side has acknowledged last, and would not know the reset for a valid one.
#[test]
fn a_reset_that_is_handed_over_ends_what_the_kernel_translates() {
    for (by_client, kernel) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = World::new(false, kernel);
        world.splice(OFFER, OFFER);
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let (bare, to, seq) = if by_client {
            (world.client_segment(next, world.iss + 1, b""), world.backend(1), next)
        } else {
            (world.backend_segment(1, BACKEND_ISN + 1, b"", 1000), world.client(), world.iss + 1)
        };
        let mut reset = SegmentBuilder { flags: Flags::RST, ..bare }.build();
        world.engine.handle_handed_over(world.now, &mut reset);
        let actions: Vec<_> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let [before @ .., Action::Send(sent)] = &actions[..] else { panic!("{kernel}: {actions:?}") };
        let sent = TcpSegment::parse(sent).unwrap();
        assert_eq!((sent.destination(), sent.seq()), (to, seq));
        assert!(sent.flags().rst() && sent.checksums_valid());
        assert_eq!(before, [Action::Unsplice(world.client())]);
        // What the proxy translates itself it judges itself.
        assert_eq!(world.state().is_none(), kernel);
    }
}
