//! A hole in the log where a response begins, and two alternates one after the other, whose dates differ.

use cluster::control::{FromProxy, Outcome};
use nfq_splice::{Action, Stage};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const FIRST: &[u8] = b"HTTP/1.1 200 OK\r\nDate: 1\r\n";
const SECOND: &[u8] = b"HTTP/1.1 200 OK\r\nDate: 2\r\n";
const REST: &[u8] = b"Content-Length: 3\r\n\r\nabc";
const ALTERNATE_ISN: Seq = Seq(7_000_000);

/// The alternate gets the request and answers so.
fn answer(world: &mut World, id: u64, alternate: u8, head: &'static [u8]) {
    let mut order = world.order(id, 1, alternate, BACKEND_ISN + 1, Vec::new());
    order.replay = REQUEST.to_vec();
    order.beyond = vec![(FIRST.len() as u64, REST.to_vec())];
    world.engine.handle_order(world.now, order);
    world.sent();
    let syn_ack = world.syn_ack(alternate, ALTERNATE_ISN, CLIENT_ISN + 1, OFFER).build();
    world.receive(&syn_ack, Stage::Raw);
    let data = world.backend_segment(alternate, ALTERNATE_ISN + 1, head, 2000).build();
    world.engine.handle_packet(world.now, &mut data.clone(), Stage::Raw);
}

fn outcome(world: &mut World) -> Option<Outcome> {
    std::iter::from_fn(|| world.engine.poll_action()).find_map(|action| match action {
        Action::Tell(FromProxy::Ended { outcome, .. }) => Some(outcome),
        _ => None,
    })
}

/// The first alternate sends the beginning and fails, the second one sends all.
fn fails_once(v6: bool) -> Outcome {
    let mut world = World::new(v6, false);
    world.splice(OFFER, OFFER);
    answer(&mut world, 1, 2, FIRST);
    assert_eq!(outcome(&mut world), None);
    let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
    let sent = world.receive(&world.client_segment(next, world.iss + 1, b"").build(), Stage::Raw);
    assert!(
        segments(&sent).iter().all(|segment| segment.payload().is_empty()),
        "what follows is not compared"
    );
    let reset = world.backend_segment(2, ALTERNATE_ISN + 1 + FIRST.len() as u32, b"", 2000);
    let reset = SegmentBuilder { flags: Flags::RST, ..reset }.build();
    world.engine.handle_packet(world.now, &mut reset.clone(), Stage::Raw);
    assert!(matches!(outcome(&mut world), Some(Outcome::AlternateFailed(_))));
    answer(&mut world, 2, 3, [SECOND, REST].concat().leak());
    outcome(&mut world).unwrap()
}

#[test]
fn what_an_alternate_sent_into_a_hole_does_not_bind_the_next_one() {
    for (v6, _) in ALL {
        assert!(matches!(fails_once(v6), Outcome::Respliced { .. }));
    }
}

/// The client never has bytes of two executions: what fills the hole waits for what is behind it.
#[test]
fn what_differs_behind_a_hole_leaves_the_hole_empty() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        answer(&mut world, 1, 2, [FIRST, b"Content-Length: 3\r\n\r\nabX"].concat().leak());
        let actions: Vec<Action> = std::iter::from_fn(|| world.engine.poll_action()).collect();
        let told = |action: &Action| {
            matches!(action, Action::Tell(FromProxy::Ended { outcome: Outcome::Mismatch { .. }, .. }))
        };
        assert!(actions.iter().any(told), "{actions:?}");
        let carries = |packet: &Vec<u8>| {
            let segment = TcpSegment::parse(packet).unwrap();
            segment.destination() == world.client() && !segment.payload().is_empty()
        };
        let sent = actions.iter().filter_map(|action| match action {
            Action::Send(packet) | Action::SendFirst(packet) => Some(packet),
            _ => None,
        });
        assert_eq!(sent.filter(|packet| carries(packet)).count(), 0);
    }
}
