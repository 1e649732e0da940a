//! An alternate that has nothing to say: what ends the handshake with it may be lost.

use nfq_splice::Stage;
use packet::Seq;

use crate::world::{ALL, BACKEND_ISN, CLIENT_ISN, OFFER, REQUEST, World, segments};

const ALTERNATE_ISN: Seq = Seq(7_000_000);

/// The client waits for nothing, and echoes what its first backend said last: nobody but the proxy can end that handshake.
#[test]
fn an_alternate_that_has_not_spoken_has_its_handshake_ended_again() {
    for (v6, kernel) in ALL {
        let mut world = World::new(v6, kernel);
        world.splice(OFFER, OFFER);
        let order = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        world.engine.handle_order(world.now, order);
        world.sent();
        let next = CLIENT_ISN + 1 + REQUEST.len() as u32;
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, next, OFFER).build();
        for _ in 0..2 {
            let sent = world.receive(&syn_ack, Stage::Raw);
            let sent = segments(&sent);
            assert_eq!((sent[0].destination(), sent[0].seq()), (world.backend(2), next));
            assert_eq!(sent[0].ack(), ALTERNATE_ISN + 1);
            assert_eq!(sent[0].timestamps().map(|(_, echo)| echo), OFFER.timestamp);
            assert_eq!(world.state().as_deref(), Some("spliced-userspace"));
        }
        world.receive(&world.backend_segment(2, ALTERNATE_ISN + 1, b"", 1200).build(), Stage::Raw);
        let expected = if kernel { "spliced-kernel" } else { "spliced-userspace" };
        assert_eq!(world.state().as_deref(), Some(expected));
        assert_eq!(world.splices.last().is_some_and(|splice| splice.backend == world.backend(2)), kernel);
    }
}
