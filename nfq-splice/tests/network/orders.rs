//! Orders that are repeated or late (design, section 6: operations are idempotent and replay-safe).

use packet::{Flags, TcpSegment};

use crate::world::{ALL, BACKEND_ISN, OFFER, World};

/// The manager has given an alternate up for another one when its first order comes again.
#[test]
fn a_late_repetition_of_an_earlier_order_changes_nothing() {
    for (v6, _) in ALL {
        let mut world = World::new(v6, false);
        world.splice(OFFER, OFFER);
        let first = world.order(1, 1, 2, BACKEND_ISN + 1, Vec::new());
        let second = world.order(2, 1, 3, BACKEND_ISN + 1, Vec::new());
        for order in [&first, &second] {
            world.engine.handle_order(world.now, order.clone());
            let syns = world.sent();
            let syn = |packet: &&Vec<u8>| TcpSegment::parse(packet).unwrap().flags().contains(Flags::SYN);
            let syn = syns.iter().find(syn).unwrap();
            assert_eq!(TcpSegment::parse(syn).unwrap().destination(), order.alternate);
        }
        for late in [first, second] {
            world.engine.handle_order(world.now, late);
            assert_eq!(world.sent(), Vec::<Vec<u8>>::new());
        }
    }
}
