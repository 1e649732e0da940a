//! Packets come in batches: verdicts are given at once, actions carried out after the whole batch. Of one connection nothing may
//! overtake what was decided before it.

use nfq_splice::{Stage, Verdict};
use packet::TcpSegment;

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World};

/// Linux (6.15 and later) takes no segment in SYN-RECEIVED that echoes another timestamp than its SYN-ACK's: a client's request
/// that overtakes the proxy's acknowledgement is lost, and comes again only after the client's timeout.
#[test]
fn a_request_does_not_overtake_the_end_of_the_alternates_handshake() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let mut syn_ack = world.syn_ack(2, BACKEND_ISN, next, OFFER).build();
        let mut request = world.client_segment(next, world.iss + 1, REQUEST).build();
        let verdicts = [&mut syn_ack, &mut request]
            .map(|packet| world.engine.handle_packet(world.now, packet, Stage::Raw));
        assert_eq!(verdicts, [Verdict::Drop, Verdict::Drop]);
        let sent = world.sent();
        let payloads: Vec<_> =
            sent.iter().map(|packet| TcpSegment::parse(packet).unwrap().payload()).collect();
        assert_eq!(payloads, [b"", REQUEST]);
        // The next batch is translated in place again.
        let mut again = world.client_segment(next, world.iss + 1, REQUEST).build();
        let verdict = world.engine.handle_packet(world.now, &mut again, Stage::Raw);
        assert_eq!(verdict, Verdict::Rewritten);
    }
}
