//! A backend dies while nobody judges its FIN, which passes: the client may have it, or lack it.

use std::time::Duration;

use sim::apps::{Habits, Phase};
use sim::content::Request;
use sim::run;
use sim::scenario::{Crash, CrashAt, Daemon, Failure, Kind, Scenario, When, millis};
use sim::world::World;

/// The transactionalizer is away when the FIN comes, and the client is far away. The backend's kernel repeats the FIN; heartbeats
/// may find its service gone before that, while the FIN is under way.
fn world(byte: usize, loss: u64, heartbeat_ms: u64) -> World {
    let mut scenario = Scenario::plain(false, Habits::plain(vec![Request::Get(600), Request::Get(40)]));
    scenario.cluster.detector.heartbeat_ms = heartbeat_ms;
    scenario.links[0].delay = (40_000, 40_000);
    scenario.links[0].loss = loss;
    scenario.stalls = Some((0, byte));
    let when = When::Logged(byte);
    scenario.failures = vec![Failure { backend: 0, kind: Kind::Fin, when, back: None }];
    let (daemon, at) = (Daemon::Transactionalizer, CrashAt::Time(millis(119)));
    scenario.crashes = vec![Crash { daemon, at, down: Duration::from_millis(4) }];
    run::scenario(&scenario).unwrap_or_else(|failed| {
        failed.story.iter().for_each(|line| println!("{line}"));
        panic!("after {byte} bytes, loss {loss}, heartbeat {heartbeat_ms} ms: {}", failed.why);
    })
}

/// Whoever gets it sees the end of its connection when it comes, whatever is done for it meanwhile.
#[test]
fn a_client_that_lacks_an_unjudged_fin_gets_the_rest_of_its_response() {
    let (mut had, mut lacked) = (0, 0);
    for (byte, loss) in [50, 150, 400].into_iter().flat_map(|byte| [0, 100, 200].map(|loss| (byte, loss))) {
        for heartbeat in [10, 40, 1000] {
            let world = world(byte, loss, heartbeat);
            let client = &world.clients[0];
            let unjudged = world.excuses.values().any(|why| why.contains("unjudged"));
            if client.phase == Phase::Done {
                lacked += u32::from(unjudged);
                continue;
            }
            had += 1;
            let took = client.done_at.since(client.habits.start);
            assert!(took < Duration::from_millis(170), "{byte} bytes, loss {loss}: its end after {took:?}");
        }
    }
    assert!(had >= 10 && lacked >= 5, "{had} clients had it, {lacked} lacked it");
}
