//! Backends that share no state: what a connection has changed is changed on the alternate, too, in order and once, and pages
//! tell it (paper §4.3, `[T_R, T_L]`).

use cluster::config::SplicePath;
use sim::apps::Habits;
use sim::content::Request;
use sim::rng::Rng;
use sim::run;
use sim::scenario::{Failure, Kind, Scenario, When};
use sim::world::World;

const KINDS: [Kind; 4] = [Kind::Silent, Kind::Fin, Kind::Reset, Kind::Frozen];

fn update(bytes: usize) -> Request {
    Request::Post { bytes, idempotent: false }
}

/// Updates of both sorts between pages that tell how many there were.
fn requests() -> Vec<Request> {
    vec![
        Request::Session { bytes: 20, updates: 0 },
        update(10),
        Request::Session { bytes: 40, updates: 1 },
        Request::Post { bytes: 20, idempotent: true },
        update(30),
        Request::Session { bytes: 300, updates: 3 },
        update(15),
        Request::Session { bytes: 25, updates: 4 },
    ]
}

fn answers() -> Vec<usize> {
    requests().into_iter().map(|request| request.answer(sim::content::Variant::default()).len()).collect()
}

fn scenario(turn: usize, failures: Vec<Failure>) -> Scenario {
    let habits = Habits::plain(requests());
    let mut scenario = Scenario::plain(turn.is_multiple_of(2), habits).separate();
    scenario.cluster.splice.path =
        if (turn / 2).is_multiple_of(2) { SplicePath::Kernel } else { SplicePath::Userspace };
    scenario.cluster.recovery.range_from_bytes = if (turn / 4).is_multiple_of(2) { 50 } else { 1 << 40 };
    scenario.failures = failures;
    scenario
}

fn fail(backend: usize, kind: Kind, byte: usize) -> Failure {
    Failure { backend, kind, when: When::Logged(byte), back: None }
}

fn run(scenario: &Scenario, what: &str) -> World {
    run::scenario(scenario).unwrap_or_else(|failed| {
        failed.story.iter().for_each(|line| println!("{line}"));
        panic!("{what}: {}", failed.why);
    })
}

fn was_in_flight(world: &World) -> bool {
    world.excuses.values().any(|why| why.starts_with("update in flight"))
}

/// The runs end as they must; here, that it is a replay that they show.
#[test]
fn after_a_failure_at_any_byte_the_alternate_has_all_updates_once() {
    let (mut replayed, total) = (0, answers().iter().sum());
    for (turn, byte) in (1..total).step_by(7).enumerate() {
        let kind = KINDS[turn % KINDS.len()];
        let mut scenario = scenario(turn, vec![fail(0, kind, byte)]);
        scenario.stalls = Some((0, byte));
        let what = format!("{kind:?} after {byte} of {total} response bytes");
        let world = run(&scenario, &what);
        assert!(world.excuses.is_empty() || was_in_flight(&world), "{what}: {:?}", world.excuses);
        replayed += u32::from(world.tally.resplices > 0 && byte > answers()[0] + answers()[1]);
    }
    assert!(replayed > 100, "{replayed} runs replayed anything");
}

/// The third backend gets what was replayed on the second, and what came after it; also if the second fails in mid-replay.
#[test]
fn a_second_failure_replays_the_updates_of_both() {
    let first: usize = answers()[..2].iter().sum::<usize>() + 50;
    let (mut twice, total) = (0, answers().iter().sum());
    for (turn, byte) in (1..total).step_by(13).enumerate() {
        let kinds = (KINDS[turn % KINDS.len()], KINDS[turn / 4 % KINDS.len()]);
        let failures = vec![fail(0, kinds.0, first), fail(1 + turn % 2, kinds.1, byte)];
        let mut scenario = scenario(turn, failures);
        scenario.stalls = Some((0, first));
        let what = format!("{kinds:?}, the second one after {byte} response bytes");
        let world = run(&scenario, &what);
        assert!(world.excuses.is_empty() || was_in_flight(&world), "{what}: {:?}", world.excuses);
        twice += u32::from(world.tally.resplices > 1);
    }
    assert!(twice > 15, "{twice} connections were recovered twice");
}

/// All that chance can do, on backends with each its own state.
#[test]
fn any_seed_holds_with_separate_state() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, seeds) = (number("SIM_FIRST").unwrap_or(1), number("SIM_SEEDS").unwrap_or(100));
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        if let Err(failure) = run::scenario(&Scenario::new(&mut Rng::new(seed)).separate()) {
            let story = failure.story.iter().filter(|_| seeds == 1);
            story.for_each(|line| println!("{line}"));
            println!("seed {seed}: {}", failure.why);
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}; replayed by SIM_FIRST=SEED SIM_SEEDS=1");
}
