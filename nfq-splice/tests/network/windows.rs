//! A client's window around a re-splice: the alternate may send a segment more than it takes, and no timer must have to end
//! before that arrives.

use cluster::control::{ClientWindow, Prefix, TakeIn};
use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
/// What the alternate sends with the last byte that is taken in, and behind it.
const FIRST: &[u8] = &[3; 1300];
const SECOND: &[u8] = &[4; 1300];
const ALTERNATE_ISN: Seq = Seq(7_000_000);

/// The client's stream up to here was acknowledged.
fn point(world: &World) -> Seq {
    world.iss + 1 + HEAD.len() as u32
}

fn next() -> Seq {
    CLIENT_ISN + 1 + REQUEST.len() as u32
}

/// The client has the head and, by the log, no room. Everything it was sent when its backend failed.
fn fail(world: &mut World) -> Vec<Vec<u8>> {
    world.splice(OFFER, OFFER);
    world.sent();
    recover(world, 0);
    to(world.client(), &world.sent())
}

/// The client has the head and, by the log, room for so many bytes.
fn recover(world: &mut World, room: u32) {
    let prefix = Prefix { head: HEAD.to_vec(), head_complete: true, ..Prefix::default() };
    let mut order = world.order(1, 1, 2, BACKEND_ISN + 1 + HEAD.len() as u32, Vec::new());
    order.replay = REQUEST.to_vec();
    order.take_in = TakeIn::Prefix(prefix);
    order.client_window = ClientWindow { now: room, most: 64_000 };
    world.engine.handle_order(world.now, order);
}

fn to(whom: std::net::SocketAddr, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let wanted = |packet: &&Vec<u8>| TcpSegment::parse(packet).unwrap().destination() == whom;
    packets.iter().filter(wanted).cloned().collect()
}

/// The alternate answers, with `FIRST` behind the head.
fn answer(world: &mut World, flags: Flags) -> Vec<Vec<u8>> {
    let syn_ack = world.syn_ack(2, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
    world.receive(&syn_ack, Stage::Raw);
    let data: &'static [u8] = [HEAD, FIRST].concat().leak();
    let segment = SegmentBuilder { flags, ..world.backend_segment(2, ALTERNATE_ISN + 1, data, 2000) };
    world.receive(&segment.build(), Stage::Raw)
}

/// A segment of the client without data.
fn client_says(world: &mut World, ack: Seq, window: u16) -> Vec<Vec<u8>> {
    let segment = SegmentBuilder { window, ..world.client_segment(next(), ack, b"") };
    world.receive(&segment.build(), Stage::Raw)
}

/// Sequence numbers and data of what goes to the client.
fn stream(packets: &[Vec<u8>]) -> Vec<(Seq, Vec<u8>)> {
    segments(packets).iter().map(|segment| (segment.seq(), segment.payload().to_vec())).collect()
}

#[test]
fn a_window_update_that_went_to_the_dead_backend_is_asked_for() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        let asked = fail(&mut world);
        assert_eq!(stream(&asked), [(point(&world) - 1, Vec::new())]);
        let at = point(&world);
        client_says(&mut world, at, 500);
        let sent = answer(&mut world, Flags(0));
        assert_eq!(stream(&to(world.client(), &sent)), [(at, FIRST.to_vec())]);
        let to_alternate = to(world.backend(2), &sent);
        assert_eq!(segments(&to_alternate).last().unwrap().window(), 500);
        assert_eq!(world.state().unwrap(), "spliced-kernel");
    }
}

#[test]
fn what_the_client_had_no_room_for_comes_when_it_has() {
    for v6 in [false, true] {
        let mut world = World::new(v6, true);
        fail(&mut world);
        let at = point(&world);
        let sent = answer(&mut world, Flags(0));
        assert!(to(world.client(), &sent).is_empty());
        // The alternate need not send it again.
        let behind = ALTERNATE_ISN + 1 + (HEAD.len() + FIRST.len()) as u32;
        let acknowledged = to(world.backend(2), &sent);
        let last = segments(&acknowledged).last().map(|segment| (segment.ack(), segment.window()));
        assert_eq!(last, Some((behind, 0)));
        // Nor what was under way meanwhile.
        let second = world.backend_segment(2, behind, SECOND, 2000).build();
        let sent = world.receive(&second, Stage::Raw);
        assert!(to(world.client(), &sent).is_empty());
        let acknowledged = to(world.backend(2), &sent);
        assert_eq!(segments(&acknowledged)[0].ack(), behind + SECOND.len() as u32);
        // Room for all of it, at once.
        let sent = client_says(&mut world, at, 500);
        let bytes: Vec<u8> =
            stream(&to(world.client(), &sent)).into_iter().flat_map(|(_, data)| data).collect();
        assert_eq!(bytes, [FIRST, SECOND].concat());
        let end = at + bytes.len() as u32;
        client_says(&mut world, end, 500);
        assert_eq!(world.state().unwrap(), "spliced-kernel");
    }
}

/// A response that ends with the connection: its end waits for no timer either.
#[test]
fn an_end_that_the_client_had_no_room_for_comes_with_the_rest() {
    let mut world = World::new(false, true);
    fail(&mut world);
    let at = point(&world);
    answer(&mut world, Flags::FIN);
    let sent = client_says(&mut world, at, 500);
    let to_client = to(world.client(), &sent);
    assert_eq!(stream(&to_client), [(at, FIRST.to_vec())]);
    assert!(segments(&to_client)[0].flags().fin());
    client_says(&mut world, at + FIRST.len() as u32 + 1, 500);
    assert_eq!(world.state().unwrap(), "spliced-userspace");
}

/// The fast path records the client's latest segment, perhaps one that its last acknowledgement, which the log has, has overtaken.
/// Its kernel has forgotten the connection since then, and answers what comes late.
#[test]
fn a_reset_behind_an_end_that_is_owed_changes_nothing() {
    let mut world = World::new(false, true);
    fail(&mut world);
    let at = point(&world);
    answer(&mut world, Flags::FIN);
    let behind = ALTERNATE_ISN + 2 + (HEAD.len() + FIRST.len()) as u32;
    let reset = SegmentBuilder { flags: Flags::RST, ..world.backend_segment(2, behind, b"", 2000) };
    assert!(to(world.client(), &world.receive(&reset.build(), Stage::Raw)).is_empty());
    assert_eq!(world.counter("rst_after_end_dropped"), 1);
    let sent = client_says(&mut world, at, 500);
    assert_eq!(stream(&to(world.client(), &sent)), [(at, FIRST.to_vec())]);
}

#[test]
fn a_later_acknowledgement_in_the_log_gives_no_more_room() {
    let left = (11 << 7) - HEAD.len() as u32;
    for ((room, told), v6) in
        [((left, 10), false), ((left, 10), true), ((0, 10), false), ((64_000, 500), false)]
    {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let data = world.backend_segment(1, BACKEND_ISN + 1, HEAD, 2000).build();
        world.receive(&data, Stage::Raw);
        let before = world.iss + 1;
        client_says(&mut world, before, 11);
        recover(&mut world, room);
        world.sent();
        let sent = answer(&mut world, Flags(0));
        let to_alternate = to(world.backend(2), &sent);
        assert_eq!(segments(&to_alternate).last().unwrap().window(), told);
    }
}
