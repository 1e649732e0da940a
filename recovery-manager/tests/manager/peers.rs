//! Peers that come, go, repeat themselves, or are not in charge any more.

use super::*;

#[test]
fn a_restarted_log_clears_what_its_predecessor_called_down() {
    let mut bench = Bench::new();
    bench.fail(0, true, 2, vec![]);
    bench.manager.handle_log_disconnected(L1);
    bench.manager.handle_log_connected(L1);
    bench.told(0);
    let status =
        LogStatus { backends: vec![(backend(2), true), (backend(3), false)], ..LogStatus::default() };
    bench.manager.handle_log(at(1), LoggerId(1), FromLog::Status(status.clone()));
    assert_eq!(bench.told(1).0, [], "another log's word does not count");
    bench.manager.handle_log(at(1), L1, FromLog::Status(status));
    assert_eq!(bench.told(1).0, [ToProxy::Backend { backend: backend(2), up: true }]);
}

#[test]
fn old_messages_of_a_session_are_ignored() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    bench.order(0);
    bench.number = 0;
    bench.fail(1, false, 1, vec![report(2, 1)]);
    assert_eq!((bench.told(1).0, bench.counter("log_messages_old")), (vec![], 1));
    bench.manager.handle_log_disconnected(L1);
    bench.manager.handle_log_connected(L1);
    bench.told(1);
    bench.number = 0;
    bench.fail(2, false, 1, vec![report(2, 1)]);
    bench.order(2);
}

#[test]
fn a_repeated_report_neither_restarts_nor_repeats_a_recovery() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.fail(1, false, 1, vec![report(1, 1)]);
    assert_eq!(bench.told(1).0, []);
    bench.end(2, order.id, respliced());
    bench.told(2);
    bench.fail(3, false, 1, vec![report(1, 1)]);
    let (proxy, log) = bench.told(3);
    assert_eq!(proxy, []);
    assert_eq!(log, ended(1, Some(order.alternate)), "the log had missed it");
}

#[test]
fn a_client_that_came_back_on_the_same_port_replaces_its_old_recovery() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let old = bench.order(0);
    bench.fail(1, false, 1, vec![ConnectionReport { client_next: 999, ..report(1, 1) }]);
    let new = bench.order(1);
    assert_eq!(new.client_next, 999);
    bench.end(2, old.id, Outcome::Gone("replaced".to_owned()));
    assert_eq!(bench.counter("recoveries_running"), 1);
    bench.end(3, new.id, respliced());
    assert_eq!(bench.counter("recoveries_running"), 0);
}

#[test]
fn orders_and_resets_wait_for_the_proxy() {
    let mut bench = Bench::new();
    bench.manager.handle_proxy_disconnected(at(0).monotonic);
    bench.fail(0, true, 1, vec![report(1, 1)]);
    let lost = ConnectionReport { unrecoverable: Some("lapped".to_owned()), ..report(2, 1) };
    bench.fail(1, true, 1, vec![lost]);
    assert_eq!(bench.told(1).0, []);
    bench.manager.handle_proxy_connected(at(0).monotonic);
    let (proxy, _) = bench.told(2);
    assert_eq!(proxy[0], ToProxy::Subscribe { epoch: 100 });
    assert!(proxy.contains(&ToProxy::Backend { backend: backend(1), up: false }));
    let of = |port| {
        move |message: &ToProxy| match message {
            ToProxy::Recover(orders) => orders.iter().any(|order| order.flow.client == client(port)),
            ToProxy::Reset { flow, .. } => flow.client == client(port),
            _ => false,
        }
    };
    assert!(proxy.iter().any(of(1)) && proxy.iter().any(of(2)), "{proxy:?}");
}

#[test]
fn a_proxy_that_stays_away_loses_its_clients_visibly() {
    let mut bench = Bench::new();
    bench.manager.handle_proxy_disconnected(at(0).monotonic);
    bench.fail(0, false, 1, vec![report(1, 1)]);
    bench.manager.handle_timeout(Time::from_millis(1000));
    assert_eq!(bench.last().outcome, "reset: nfq-splice was not reachable for 1000 ms");
    assert_eq!(bench.manager.poll_timeout(), Some(Time::from_millis(2000)));
    bench.manager.handle_timeout(Time::from_millis(2000));
    assert_eq!(bench.counter("resets_given_up"), 1);
    bench.manager.handle_timeout(Time::from_millis(3000));
    assert_eq!(bench.manager.poll_timeout(), None);
}

/// A manager that is started anew gets the report again from a log that was not told.
#[test]
fn the_log_hears_of_a_reset_when_the_proxy_must_have_got_it() {
    let mut bench = Bench::new();
    let lost = |port| ConnectionReport { unrecoverable: Some("lapped".to_owned()), ..report(port, 1) };
    bench.fail(0, true, 1, vec![lost(1)]);
    let told = |bench: &mut Bench, ms| {
        bench.manager.handle_timeout(Time::from_millis(ms));
        bench.told(ms).1
    };
    assert_eq!(told(&mut bench, 999), []);
    assert_eq!(told(&mut bench, 1000), ended(1, None));
    bench.fail(2000, true, 1, vec![lost(2)]);
    bench.manager.handle_proxy_disconnected(at(2500).monotonic);
    bench.manager.handle_proxy_connected(at(2500).monotonic);
    assert_eq!(told(&mut bench, 4499), []);
    assert_eq!(told(&mut bench, 4500), ended(2, None));
}

#[test]
fn a_reset_that_a_breaking_connection_swallowed_is_repeated() {
    let mut bench = Bench::new();
    bench.fail(0, false, 4, vec![report(1, 4)]);
    bench.reset(0);
    bench.manager.handle_proxy_disconnected(at(10).monotonic);
    bench.manager.handle_proxy_connected(at(10).monotonic);
    let is_reset = |message: &ToProxy| matches!(message, ToProxy::Reset { .. });
    let again = bench.told(10).0;
    assert!(again.iter().any(is_reset), "{again:?}");
    bench.manager.handle_proxy_disconnected(at(15).monotonic);
    bench.manager.handle_proxy_connected(at(15).monotonic);
    let once_more = bench.told(15).0;
    assert!(once_more.iter().any(is_reset), "{once_more:?}");
    bench.fail(20, false, 4, vec![report(2, 4)]);
    bench.reset(20);
    bench.manager.handle_proxy_disconnected(at(5000).monotonic);
    bench.manager.handle_proxy_connected(at(5000).monotonic);
    let later = bench.told(5000).0;
    assert!(!later.iter().any(is_reset), "the port may have a new owner");
}

#[test]
fn a_later_manager_ends_the_work_of_an_earlier_one() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.manager.handle_proxy(at(1), FromProxy::Fenced { epoch: 101 });
    let tells = bench.actions(1);
    assert!(matches!(tells.as_slice(), [Action::Tell(story)] if story.is_bad()), "{tells:?}");
    // Whatever comes: nothing is asked of anybody any more.
    bench.end(2, order.id, unreachable());
    bench.fail(2, true, 1, vec![report(2, 1)]);
    bench.manager.handle_log(at(2), L1, FromLog::Fenced { epoch: 101 });
    bench.manager.handle_proxy_disconnected(at(2).monotonic);
    bench.manager.handle_proxy_connected(at(2).monotonic);
    bench.manager.handle_log_connected(L1);
    bench.manager.handle_timeout(at(5000).monotonic);
    assert_eq!(bench.actions(5000), []);
    assert_eq!((bench.manager.poll_timeout(), bench.counter("fenced")), (None, 1));
}

#[test]
fn an_epoch_that_is_not_believed_is_told_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.manager.handle_log(at(0), L1, FromLog::Fenced { epoch: 5 });
    let tells = bench.actions(0);
    assert!(matches!(tells.as_slice(), [Action::Tell(Story::NotBelieved { epoch: 100 })]), "{tells:?}");
    bench.fail(1, false, 1, vec![report(1, 1)]);
    bench.order(1);
}

/// The connection that the proxy made to `order`'s alternate, as the log may report it later.
fn continued(order: &RecoveryOrder, failed: u8, t_l: u32, more: u32) -> ConnectionReport {
    let isn = order.client_next.wrapping_sub(order.replay.len() as u32).wrapping_sub(1);
    let client_next = order.client_next.wrapping_add(more);
    let mut report = ConnectionReport { t_l, client_isn: isn, client_next, ..report(1, failed) };
    report.pending.iter_mut().for_each(|request| request.ordinal = t_l + 1);
    report
}

/// T_L of the first failure is 5; what is reported of the connection that it went on with: how far the client's stream is known then,
/// beyond the first S, or why the report is refused.
fn reported_later(t_l: u32, more: u32, other_connection: bool) -> Result<u32, String> {
    let mut bench = Bench::new();
    let mut first = ConnectionReport { t_l: 5, ..report(1, 1) };
    first.pending.iter_mut().for_each(|request| request.ordinal = 6);
    bench.fail(0, false, 1, vec![first]);
    let order = bench.order(0);
    bench.end(1, order.id, respliced());
    bench.told(1);
    let failed = if order.alternate == backend(2) { 2 } else { 3 };
    let mut second = continued(&order, failed, t_l, more);
    second.client_isn = second.client_isn.wrapping_add(u32::from(other_connection));
    bench.fail(2, false, failed, vec![second]);
    let known = match bench.told(2).0.as_slice() {
        [ToProxy::Recover(orders)] => Ok(orders[0].client_known.wrapping_sub(order.client_next)),
        [ToProxy::Reset { reason, .. }] => Err(reason.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.counter("reports_going_back"), u64::from(known.is_err()));
    known
}

#[test]
fn t_l_never_goes_back_on_a_respliced_connection() {
    for (t_l, more) in [(5, 0), (6, 100), (900, 1 << 30)] {
        assert_eq!(reported_later(t_l, more, false), Ok(more));
    }
    let prefix = "the log's report contradicts an earlier one: ";
    assert_eq!(reported_later(4, 0, false), Err(format!("{prefix}T_L goes back from 5 to 4")));
}

/// The alternate failed before the log had seen all of the replay again: the proxy has the rest.
#[test]
fn the_clients_stream_is_remembered_where_the_log_has_not_seen_all_of_a_replay_again() {
    for less in [1_u32, 17] {
        assert_eq!(reported_later(5, less.wrapping_neg(), false), Ok(0));
    }
}

/// The same client, port and backend.
#[test]
fn another_connection_begins_with_ordinals_of_its_own() {
    assert_eq!(reported_later(0, 17, true), Ok(17));
}
