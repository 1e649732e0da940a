//! Re-splices at *every* byte of a small exchange, and the daemon's death at *every* step of one, on perfect links: what
//! chance may never hit.

use std::time::Duration;

use cluster::config::SplicePath;

use crate::apps::{Habits, Phase};
use crate::content::{Request, Variant};
use crate::rng::Rng;
use crate::scenario::{Crash, CrashAt, Kill, Kind, Scenario, When, millis};
use crate::world::World;

const KINDS: [Kind; 4] = [Kind::Silent, Kind::Fin, Kind::Reset, Kind::Suspected];
const PATHS: [SplicePath; 2] = [SplicePath::Kernel, SplicePath::Userspace];
/// The backend that the first connection goes to.
const FIRST: usize = 0;

/// Families, timestamps, ways of recovery and the fast path take turns with the bytes.
fn scenario(path: SplicePath, turn: usize, requests: Vec<Request>) -> Scenario {
    let mut scenario = Scenario::plain(turn.is_multiple_of(2), Habits::plain(requests));
    scenario.cluster.splice.path = path;
    scenario.cluster.recovery.range_from_bytes = if (turn / 2).is_multiple_of(2) { 10 } else { 1 << 40 };
    scenario.client_timestamps = (turn / 4).is_multiple_of(2);
    scenario.fast_path = !(turn / 8).is_multiple_of(3);
    scenario
}

fn kill(kind: Kind, when: When) -> Kill {
    Kill { backend: FIRST, kind, when, noticed: Duration::from_millis(1), down: true }
}

/// `Ok`: the world after its run.
fn run(scenario: &Scenario, what: &str) -> World {
    let mut world = World::of(scenario.clone(), Rng::new(7), false);
    let outcome = world.run();
    if let Err(why) = outcome {
        let mut world = World::of(scenario.clone(), Rng::new(7), true);
        let _ = world.run();
        for line in world.trace.unwrap_or_default() {
            println!("{line}");
        }
        panic!("{what}: {why}");
    }
    world
}

fn excuses(world: &World) -> Vec<&str> {
    world.excuses.values().map(String::as_str).collect()
}

#[test]
fn a_response_is_continued_from_every_byte() {
    let request = Request::Get(90);
    let length = request.answer(Variant::default()).len();
    for (path, kind) in PATHS.into_iter().flat_map(|path| KINDS.map(|kind| (path, kind))) {
        for byte in 0..=length {
            let mut scenario = scenario(path, byte, vec![request, Request::Get(40)]);
            scenario.stalls = Some((FIRST, byte));
            scenario.kills = vec![kill(kind, When::Logged(byte))];
            let what = format!("{path:?}, {kind:?} after {byte} response bytes");
            let world = run(&scenario, &what);
            assert!(excuses(&world).is_empty(), "{what}: {:?}", world.excuses);
            assert!(byte == 0 || world.resplices == 1, "{what}: {} re-splices", world.resplices);
        }
    }
}

/// The first one does not come in again in full; the pipelined ones behind it are replayed.
#[test]
fn a_request_is_continued_from_every_byte() {
    for idempotent in [true, false] {
        let requests = vec![Request::Get(30), Request::Post { bytes: 50, idempotent }, Request::Get(20)];
        let length: usize = requests.iter().map(|request| request.bytes().len()).sum();
        for (path, kind) in PATHS.into_iter().flat_map(|path| KINDS.map(|kind| (path, kind))) {
            for byte in 1..length {
                let mut scenario = scenario(path, byte, requests.clone());
                scenario.clients[0].pipelined = true;
                scenario.clients[0].pause_at = Some((byte, Duration::from_millis(60)));
                scenario.kills = vec![kill(kind, When::At(millis(30)))];
                let what = format!("{path:?}, {kind:?} after {byte} request bytes");
                let world = run(&scenario, &what);
                assert!(excuses(&world).is_empty(), "{what}: {:?}", world.excuses);
            }
        }
    }
}

/// An update whose answer has begun, or that was received whole, is never run again.
#[test]
fn an_update_is_never_run_twice_at_any_byte_of_its_answer() {
    let request = Request::Post { bytes: 20, idempotent: false };
    let length = request.answer(Variant::default()).len();
    for (path, kind) in PATHS.into_iter().flat_map(|path| KINDS.map(|kind| (path, kind))) {
        for byte in 1..=length {
            let mut scenario = scenario(path, byte, vec![request]);
            scenario.stalls = Some((FIRST, byte));
            scenario.kills = vec![kill(kind, When::Logged(byte))];
            let what = format!("{path:?}, {kind:?} after {byte} bytes of an update's answer");
            let world = run(&scenario, &what);
            let reset = excuses(&world).iter().any(|why| why.contains("update in flight"));
            assert_eq!(reset, byte < length, "{what}: {:?}", world.excuses);
        }
    }
}

#[test]
fn the_daemon_may_die_at_every_step() {
    // The first is over IPv6, the second takes the fast path.
    let turns = [0, 9];
    let kinds = PATHS.into_iter().flat_map(|path| KINDS.map(|kind| (path, kind)));
    for ((path, kind), turn) in kinds.flat_map(|kind| turns.map(|turn| (kind, turn))) {
        let mut scenario = scenario(path, turn, vec![Request::Get(3000), Request::Get(3000)]);
        scenario.kills = vec![kill(kind, When::Logged(1500))];
        let world = run(&scenario, "without a crash");
        assert_eq!(world.fast_packets > 0, turn == 9);
        let steps = world.daemon_steps;
        assert!(steps > 10, "{steps} steps");
        for step in 1..=steps {
            scenario.crashes =
                vec![Crash { at: CrashAt::Step(step), down: Duration::from_millis(step % 3 * 20) }];
            let what = format!("{path:?}, {kind:?}, turn {turn}, death at step {step} of {steps}");
            let world = run(&scenario, &what);
            assert_eq!(world.crashes, 1, "{what}");
        }
    }
}

/// A daemon after it finds a connection that becomes older than the fast path alone has it, at each step of that.
#[test]
fn the_daemon_may_die_as_a_connection_comes_of_age() {
    let requests = vec![Request::Get(300), Request::Get(300)];
    for path in PATHS {
        let mut scenario = scenario(path, 9, requests.clone());
        scenario.clients[0].pipelined = true;
        scenario.clients[0].pause_at = Some((requests[0].bytes().len() + 5, Duration::from_millis(400)));
        let world = run(&scenario, "without a crash");
        assert!(world.young > 0 && excuses(&world).is_empty());
        for step in 1..=world.daemon_steps {
            scenario.crashes = vec![Crash { at: CrashAt::Step(step), down: Duration::from_millis(20) }];
            let what = format!("{path:?}, death at step {step} of {}", world.daemon_steps);
            let world = run(&scenario, &what);
            assert!(world.clients[0].phase == Phase::Done, "{what}: {:?}", world.excuses);
        }
    }
}
