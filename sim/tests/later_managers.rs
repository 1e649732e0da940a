//! The transactionalizer dies during a recovery, and the manager may, too: what their successors have to know of its client.

use std::time::Duration;

use cluster::config::SplicePath;
use sim::apps::{Habits, Phase};
use sim::content::{Request, Variant};
use sim::run;
use sim::scenario::{Crash, CrashAt, Daemon, Failure, Kind, Scenario, When, millis};
use sim::world::World;

/// An upload whose rest lies in the log alone, and whose first alternate says nothing; the daemons die at these steps of theirs.
fn scenario(path: SplicePath, bytes: usize, reader: u64, manager: Option<u64>) -> Scenario {
    let requests = vec![Request::Post { bytes, idempotent: true }, Request::Get(40)];
    let write = (bytes / 30, Duration::from_millis(1));
    let mut scenario = Scenario::plain(false, Habits { write, ..Habits::plain(requests) });
    scenario.cluster.splice.path = path;
    scenario.cluster.recovery.request_bytes = 300;
    let silent =
        |backend, at| Failure { backend, kind: Kind::Silent, when: When::At(millis(at)), back: None };
    scenario.failures = vec![silent(0, 20), silent(2, 1)];
    let crash = |daemon, step, down| {
        let down = Duration::from_millis(down);
        Crash { daemon, at: CrashAt::Step(step), down }
    };
    scenario.crashes = vec![crash(Daemon::Transactionalizer, reader, 1)];
    scenario.crashes.extend(manager.map(|step| crash(Daemon::Manager, step, 60)));
    scenario
}

#[test]
fn an_upload_goes_on_whoever_dies_while_it_is_replayed() {
    for (path, bytes) in [(SplicePath::Kernel, 30_000), (SplicePath::Userspace, 600_000)] {
        for (reader, manager) in (8..32).step_by(2).flat_map(|step| [(step, None), (step, Some(15))]) {
            let what = format!("{bytes} bytes, transactionalizer dies at {reader}, manager at {manager:?}");
            let scenario = scenario(path, bytes, reader, manager);
            let world = run::scenario(&scenario).unwrap_or_else(|failed| {
                failed.story.iter().for_each(|line| println!("{line}"));
                panic!("{what}: {}", failed.why);
            });
            let client = &world.clients[0];
            assert_eq!(client.phase, Phase::Done, "{what}: {:?}", world.excuses);
            let took = client.done_at.since(client.habits.start);
            assert!(took < Duration::from_secs(4), "{what}: {took:?}");
        }
    }
}

/// A download whose backend dies after so many response bytes; its alternates are of this kind, and the first one has been connected to but
/// has not answered yet when both daemons die, one after the other.
fn answered_late(path: SplicePath, variants: [Variant; 2], crashes: [(Daemon, u64); 2]) -> World {
    let mut scenario = Scenario::plain(false, Habits::plain(vec![Request::Get(5000), Request::Get(40)]));
    scenario.cluster.splice.path = path;
    scenario.cluster.recovery.range_from_bytes = 1000;
    scenario.service_time = Duration::from_millis(200);
    let [first, others] = variants;
    scenario.variants = vec![first, others, others];
    scenario.stalls = Some((0, 1250));
    let when = When::Logged(1250);
    scenario.failures = vec![Failure { backend: 0, kind: Kind::Reset, when, back: None }];
    let down = Duration::from_millis(3);
    scenario.crashes =
        crashes.map(|(daemon, at)| Crash { daemon, at: CrashAt::Time(millis(at)), down }).to_vec();
    run::scenario(&scenario).unwrap_or_else(|failed| {
        failed.story.iter().for_each(|line| println!("{line}"));
        panic!("{path:?}, {variants:?}, {crashes:?}: {}", failed.why);
    })
}

/// What it answers ends the recovery soon, though nobody knows of that any more: equal bytes, others, and what was not asked for.
#[test]
fn what_an_alternate_answers_counts_whoever_has_died_before() {
    let plain = Variant::default();
    let refusing = Variant { refuses_ranges: true, ..plain };
    let other = Variant { flipped: Some(1000), ..plain };
    let kinds = [([plain, plain], true), ([refusing, refusing], true), ([plain, other], false)];
    for (variants, goes_on) in kinds {
        for (path, at) in [SplicePath::Kernel, SplicePath::Userspace]
            .into_iter()
            .flat_map(|path| [205, 250, 300, 350, 390].map(|at| (path, at)))
        {
            for [first, second] in
                [[Daemon::Transactionalizer, Daemon::Manager], [Daemon::Manager, Daemon::Transactionalizer]]
            {
                let world = answered_late(path, variants, [(first, at), (second, at + 5)]);
                let client = &world.clients[0];
                let what = format!("{path:?}, {variants:?}, {first:?} first, at {at}: {:?}", client.phase);
                assert_eq!(client.phase == Phase::Done, goes_on, "{what}");
                let took = client.done_at.since(client.habits.start);
                assert!(took < Duration::from_millis(1500), "{what} after {took:?}");
            }
        }
    }
}
