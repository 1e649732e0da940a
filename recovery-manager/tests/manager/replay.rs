//! Alternates with a state of their own: which may be asked, and never twice where that is not harmless.

use super::*;
use cluster::control::{AnsweredUpdate, Updates};

fn separate() -> Bench {
    Bench::of(&CLUSTER.replace("[pool.web]\n", "[pool.web]\nstate = \"separate\"\n"), Limits::default())
}

/// T_L = 1, an update that ran at `ran_at`.
fn updated(mut report: ConnectionReport, idempotent: bool, ran_at: &[u8]) -> ConnectionReport {
    let update = AnsweredUpdate {
        ordinal: 1,
        summary: "PUT /x".to_owned(),
        tags: Tags { idempotent, ..Tags::default() },
        bytes: b"PUT /x".to_vec(),
        status: 200,
        body: None,
    };
    report.t_l = 1;
    report.pending.iter_mut().for_each(|request| request.ordinal += 1);
    let ran_at = ran_at.iter().map(|n| backend(*n)).collect();
    ConnectionReport { updates: Some(Updates { answered: vec![update], ran_at }), ..report }
}

#[test]
fn where_state_is_separate_updates_are_replayed() {
    let mut bench = separate();
    bench.fail(0, true, 1, vec![updated(report(1, 1), false, &[1])]);
    let order = bench.order(0);
    assert_eq!((order.replayed.len(), order.replay.starts_with(b"PUT /x")), (1, true));
}

#[test]
fn where_state_is_shared_nothing_is_replayed() {
    let mut bench = Bench::new();
    bench.fail(0, true, 1, vec![updated(report(1, 1), false, &[1])]);
    let order = bench.order(0);
    assert_eq!((order.replayed.len(), order.replay.starts_with(b"PUT /x")), (0, false));
}

#[test]
fn where_updates_may_have_run_they_do_not_run_again() {
    let mut bench = separate();
    bench.fail(0, false, 1, (1..=6).map(|port| updated(report(port, 1), false, &[1, 2])).collect());
    assert!(bench.orders(0).iter().all(|order| order.alternate == backend(3)));
    bench.fail(1, false, 1, vec![updated(report(9, 1), false, &[3, 1, 2])]);
    assert!(bench.reset(1).contains("may have run this connection's updates before"));
}

#[test]
fn idempotent_updates_may_run_where_they_have_run() {
    let mut bench = separate();
    bench.fail(0, false, 1, vec![updated(report(1, 1), true, &[3, 1, 2])]);
    assert_eq!(bench.order(0).replayed.len(), 1);
}

#[test]
fn an_alternate_that_serves_no_range_is_not_sent_the_updates_again() {
    for (idempotent, again) in [(false, false), (true, true)] {
        let mut bench = separate();
        bench.fail(0, false, 1, vec![updated(far(1, 1), idempotent, &[1])]);
        let range = bench.order(0);
        assert!(matches!(range.take_in, TakeIn::Range { .. }));
        bench.end(1, range.id, unreachable());
        assert_eq!(bench.order(1).alternate == range.alternate, again);
    }
}

/// A daemon that was restarted may have begun with the order before it died.
#[test]
fn another_nfq_splice_is_sent_to_another_alternate() {
    for (idempotent, again) in [(false, false), (true, true)] {
        let mut bench = separate();
        bench.fail(0, false, 1, vec![updated(report(1, 1), idempotent, &[1])]);
        let first = bench.order(0);
        bench.manager.handle_proxy_disconnected(at(1).monotonic);
        bench.manager.handle_proxy_connected(at(2).monotonic);
        let second = bench.order(2);
        assert_eq!((second.alternate == first.alternate, second.id == first.id), (again, again));
    }
}

#[test]
fn an_order_that_never_left_may_go_to_the_same_alternate() {
    let mut bench = separate();
    bench.manager.handle_proxy_disconnected(at(0).monotonic);
    bench.fail(0, false, 1, vec![updated(report(1, 1), false, &[1])]);
    bench.told(0);
    bench.manager.handle_proxy_connected(at(1).monotonic);
    assert_eq!((bench.order(1).replayed.len(), bench.counter("alternates_failed")), (1, 0));
}

#[test]
fn without_what_the_log_kept_there_is_no_recovery() {
    let mut bench = separate();
    let report = ConnectionReport { updates: None, ..updated(report(1, 1), false, &[]) };
    bench.fail(0, false, 1, vec![report]);
    assert!(bench.reset(0).starts_with("the log has not kept the connection's updates"));
}
