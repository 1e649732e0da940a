//! A client that nobody can help and that has nothing of a response yet: the proxy answers in the backends' place.

use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder};

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

/// What was logged before goes first; the client's packets come to the proxy, and the connection is closed like any other.
#[test]
fn a_client_without_a_backend_gets_what_was_logged_and_a_whole_answer() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let mut order = world.order(0, 1, 1, BACKEND_ISN + 1, b"logged".to_vec());
        order.replay = REQUEST.to_vec();
        world.engine.handle_answer_order(world.now, order, 502, "nobody is left");
        let sent = world.sent();
        let all = segments(&sent);
        let to_client: Vec<_> =
            all.iter().filter(|segment| segment.destination() == world.client()).collect();
        let reset = all.iter().find(|segment| segment.destination() == world.backend(1)).unwrap();
        assert!(reset.flags().rst(), "the failed backend's socket is freed");
        let text: Vec<u8> = to_client.iter().flat_map(|segment| segment.payload().to_vec()).collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("loggedHTTP/1.1 502 Bad Gateway\r\n"), "{text}");
        assert!(text.contains("Connection: close\r\n") && text.ends_with("nobody is left\n"), "{text}");
        assert_eq!(to_client[0].seq(), world.iss + 1);
        assert!(to_client.last().unwrap().flags().fin());
        assert_eq!(to_client[0].ack(), CLIENT_ISN + 1 + REQUEST.len() as u32);
        let end = world.iss + 1 + text.len() as u32 + 1;
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let flags = Flags::FIN.union(Flags::ACK);
        let fin = SegmentBuilder { flags, ..world.client_segment(next, end, b"") }.build();
        let sent = world.receive(&fin, Stage::Tracked);
        assert_eq!(segments(&sent)[0].ack(), next + 1, "the client's FIN is acknowledged");
        world.pass(10_000);
        world.engine.handle_timeout(world.now);
        assert_eq!((world.state(), world.counter("answered_502")), (None, 1));
    }
}

/// The order is one for a connection that is elsewhere by now.
#[test]
fn an_outdated_answer_changes_nothing() {
    let mut world = World::new(false, true);
    world.splice(OFFER, OFFER);
    let order = world.order(0, 2, 2, BACKEND_ISN + 1, Vec::new());
    world.engine.handle_answer_order(world.now, order, 503, "");
    assert!(world.sent().is_empty());
    assert_eq!(world.counter("reset_orders_outdated"), 1);
}
