//! Each packet of a connection's set-up (and of the short exchange after it) lost, duplicated or overtaken, one at a time, on
//! otherwise perfect links: both families, both paths and the fast path, request heads in one segment and in several.

use std::time::Duration;

use cluster::config::SplicePath;

use crate::apps::Habits;
use crate::content::Request;
use crate::rng::Rng;
use crate::scenario::{Scenario, Spoil};
use crate::world::World;

const SPOILS: [Spoil; 3] = [Spoil::Lose, Spoil::Duplicate, Spoil::Delay];
const LINKS: usize = 3;
/// Packets of one link from the SYN to the end of an exchange, at least.
const PACKETS: u32 = 12;

/// Over IPv6, over IPv4, and over that with the fast path.
const NETS: [(bool, bool); 3] = [(true, false), (false, false), (false, true)];

fn exchange((v6, fast_path): (bool, bool), path: SplicePath, pieces: bool) -> Scenario {
    let mut scenario = Scenario::plain(v6, Habits::plain(vec![Request::Get(2000), Request::Get(100)]));
    scenario.cluster.splice.path = path;
    scenario.fast_path = fast_path;
    if pieces {
        scenario.clients[0].write = (25, Duration::from_millis(2));
    }
    scenario
}

#[test]
fn every_packet_of_a_set_up_lost_duplicated_or_overtaken() {
    let paths = [SplicePath::Kernel, SplicePath::Userspace];
    let ways = paths.into_iter().flat_map(|path| [(path, false), (path, true)]);
    for (path, pieces) in ways {
        for (spoil, link) in SPOILS.into_iter().flat_map(|spoil| (0..LINKS).map(move |link| (spoil, link))) {
            for packet in 1..=PACKETS {
                for net in NETS {
                    let mut scenario = exchange(net, path, pieces);
                    scenario.links[link].planned = Some((packet, spoil));
                    let what = format!(
                        "{path:?}, (v6, fast) {net:?}, pieces {pieces}: {spoil:?} packet {packet} of link {link}"
                    );
                    let mut world = World::of(scenario, Rng::new(11), true);
                    if let Err(why) = world.run() {
                        world.trace.unwrap_or_default().iter().for_each(|line| println!("{line}"));
                        panic!("{what}: {why}");
                    }
                    assert!(world.has_spoiled(link), "{what}: there was no such packet");
                    assert!(world.excuses.is_empty(), "{what}: {:?}", world.excuses);
                }
            }
        }
    }
}
