//! A failure at *every* byte of a small exchange, on perfect links: what chance may never hit. The failure is noticed as in
//! life: by a held FIN or RST, by silence, by an application that is late.

use std::time::Duration;

use cluster::config::SplicePath;
use sim::apps::Habits;
use sim::content::{Request, Variant};
use sim::run;
use sim::scenario::{Failure, Kind, Scenario, When};
use sim::world::World;

const KINDS: [Kind; 4] = [Kind::Silent, Kind::Fin, Kind::Reset, Kind::Frozen];
const PATHS: [SplicePath; 2] = [SplicePath::Kernel, SplicePath::Userspace];
/// The backend that the first connection goes to.
const FIRST: usize = 0;

fn ways() -> impl Iterator<Item = (SplicePath, Kind)> {
    PATHS.into_iter().flat_map(|path| KINDS.map(|kind| (path, kind)))
}

/// Families, timestamps and ways of recovery take turns with the bytes.
fn scenario(path: SplicePath, turn: usize, requests: Vec<Request>) -> Scenario {
    let mut scenario = Scenario::plain(turn.is_multiple_of(2), Habits::plain(requests));
    scenario.cluster.splice.path = path;
    scenario.cluster.recovery.range_from_bytes = if (turn / 2).is_multiple_of(2) { 10 } else { 1 << 40 };
    scenario.client_timestamps = (turn / 4).is_multiple_of(2);
    scenario
}

fn fail(kind: Kind, byte: usize) -> Failure {
    Failure { backend: FIRST, kind, when: When::Logged(byte), back: None }
}

fn run(scenario: &Scenario, what: &str) -> World {
    run::scenario(scenario).unwrap_or_else(|failed| {
        failed.story.iter().for_each(|line| println!("{line}"));
        panic!("{what}: {}", failed.why);
    })
}

#[test]
fn a_killed_backend_in_mid_response_goes_unnoticed() {
    let request = Request::Get(100_000);
    let mut scenario = scenario(SplicePath::Kernel, 0, vec![request]);
    scenario.failures = vec![fail(Kind::Fin, 50_000)];
    let world = run(&scenario, "one download, one kill");
    assert_eq!(world.tally.resplices, 1);
    assert!(world.excuses.is_empty());
}

#[test]
fn a_response_is_continued_from_every_byte() {
    let request = Request::Get(90);
    let length = request.answer(Variant::default()).len();
    for (path, kind) in ways() {
        for byte in (0..=length).step_by(3) {
            let mut scenario = scenario(path, byte, vec![request, Request::Get(40)]);
            scenario.stalls = Some((FIRST, byte));
            scenario.failures = vec![fail(kind, byte)];
            let what = format!("{path:?}, {kind:?} after {byte} response bytes");
            let world = run(&scenario, &what);
            assert!(world.excuses.is_empty(), "{what}: {:?}", world.excuses);
            assert!(byte == 0 || world.tally.resplices == 1, "{what}: {} re-splices", world.tally.resplices);
        }
    }
}

/// An update whose answer has begun, or that was received whole, is never run again.
#[test]
fn an_update_is_never_run_twice_at_any_byte_of_its_answer() {
    let request = Request::Post { bytes: 20, idempotent: false };
    let length = request.answer(Variant::default()).len();
    for (path, kind) in ways() {
        for byte in (1..=length).step_by(3) {
            let mut scenario = scenario(path, byte, vec![request]);
            scenario.stalls = Some((FIRST, byte));
            scenario.failures = vec![fail(kind, byte)];
            scenario.clients[0].think = Duration::from_millis(1);
            let what = format!("{path:?}, {kind:?} after {byte} bytes of an update's answer");
            let world = run(&scenario, &what);
            let reset = world.excuses.values().any(|why| why.contains("update in flight"));
            assert_eq!(reset, byte < length, "{what}: {:?}", world.excuses);
        }
    }
}

/// What the client says at any moment around the failure of its idle connection: an update that only the fence saw was never run, so it
/// is run by the alternate, without waiting for the client's retransmission timer.
#[test]
fn an_update_sent_into_the_fence_is_run_by_the_alternate() {
    let first = Request::Get(40);
    let update = Request::Post { bytes: 20, idempotent: false };
    let answered = first.answer(Variant::default()).len();
    let mut swallowed = 0;
    for (path, kind) in ways().filter(|(_, kind)| matches!(kind, Kind::Fin | Kind::Reset)) {
        for step in 0..60 {
            let mut scenario = scenario(path, step, vec![first, update]);
            scenario.failures = vec![fail(kind, answered)];
            scenario.control.delay = (400, 400);
            scenario.clients[0].think = Duration::from_micros(100 * step as u64);
            let what = format!("{path:?}, {kind:?}, the update {} us after the answer", 100 * step);
            let world = run(&scenario, &what);
            if world.tally.swallowed > 0 {
                swallowed += 1;
                assert!(world.excuses.is_empty(), "{what}: {:?}", world.excuses);
                assert_eq!(world.tally.resplices, 1, "{what}");
                let client = &world.clients[0];
                let took = client.done_at.since(client.habits.start);
                assert!(took < Duration::from_millis(50), "{what}: done after {took:?}");
            }
        }
    }
    assert!(swallowed >= 20, "only {swallowed} of them went into the fence");
}
