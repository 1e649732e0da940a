//! Log before forward, at every point: the logger is killed as it begins any call to the kernel between receiving a packet
//! and letting it pass. What lies between two calls is memory only, and `segment-log`'s model check is about that.

#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::network::{Daemon, Network};
use common::streams::LoggedStreams;
use common::transfer::{DOWN, UP, settled, transfer};

/// Receiving packets, waking the readers, sending verdicts.
const CALLS: [&str; 3] = ["recvmmsg", "futex", "sendto"];
/// At which of its calls the logger dies.
const PLACES: [u32; 3] = [1, 2, 9];

/// False: it has not died when everything had arrived.
fn dies(daemon: &mut Daemon, done: &AtomicBool) -> bool {
    loop {
        if daemon.0.try_wait().unwrap().is_some() {
            return true;
        }
        if done.load(Ordering::SeqCst) {
            return false;
        }
        std::thread::yield_now();
    }
}

#[test]
fn nothing_passes_unlogged_wherever_the_logger_stops() {
    let network = Network::new();
    let (up, down) = (12 << 20, 24 << 20);
    let mut daemon = network.start();
    let mut logged = LoggedStreams::open(&network.log(), UP, DOWN);
    let mut kills = 0;
    transfer(&network, up, down, |at_server, at_client, done| {
        for (place, call) in PLACES.into_iter().flat_map(|place| CALLS.map(|call| (place, call))) {
            let tracer = daemon.doom(call, place);
            if !dies(&mut daemon, done) {
                break;
            }
            drop(tracer);
            kills += 1;
            // What had passed arrives; more cannot come.
            let arrived = settled(|| (at_server.load(Ordering::SeqCst), at_client.load(Ordering::SeqCst)));
            let in_log = logged.read();
            assert!(
                in_log.0 >= arrived.0 && in_log.1 >= arrived.1,
                "killed at {call} {place}: {arrived:?} arrived, {in_log:?} logged"
            );
            daemon = network.start();
        }
    });
    assert_eq!(logged.read(), (up, down));
    assert!(kills >= 7, "everything had arrived after {kills} kills");
}
