//! The transactionalizer dies during a recovery, and the manager may, too: what their successors have to know of its client.

use std::time::Duration;

use cluster::config::SplicePath;
use sim::apps::{Habits, Phase};
use sim::content::Request;
use sim::run;
use sim::scenario::{Crash, CrashAt, Daemon, Failure, Kind, Scenario, When, millis};

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
