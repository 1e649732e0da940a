//! Which alternate is asked, and what happens when it fails, too.

use super::*;

#[test]
fn many_connections_are_spread_over_the_alternates() {
    let mut bench = Bench::new();
    bench.fail(0, true, 1, (1..=50).map(|port| report(port, 1)).collect());
    let orders = bench.orders(0);
    assert_eq!((to(&orders, 2), to(&orders, 3)), (25, 25));
}

#[test]
fn ended_recoveries_are_no_burden_to_an_alternate() {
    let mut bench = Bench::new();
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, (1..=9).map(|port| report(port, 1)).collect());
    for order in bench.orders(0) {
        bench.end(1, order.id, respliced());
    }
    bench.manager.handle_log(at(2), L1, FromLog::BackendUp { backend: backend(3) });
    bench.told(2);
    bench.fail(3, true, 1, (11..=14).map(|port| report(port, 1)).collect());
    assert_eq!(to(&bench.orders(3), 3), 2);
}

#[test]
fn the_end_of_a_failed_attempt_is_no_new_failure() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    bench.end(1, first.id, unreachable());
    let second = bench.order(1);
    let failed = if first.alternate == backend(2) { 2 } else { 3 };
    bench.fail(2, false, failed, vec![far(1, failed)]);
    assert_eq!(bench.told(2), (vec![], vec![]));
    bench.end(3, second.id, respliced());
    assert!(bench.last().ok && bench.counter("reports_repeated") == 1);
}

#[test]
fn the_next_alternate_is_tried_and_none_twice() {
    let mut bench = Bench::new();
    bench.fail(0, true, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    bench.end(1, first.id, unreachable());
    let second = bench.order(1);
    assert_ne!(first.alternate, second.alternate);
    assert!(second.id > first.id);
    bench.end(2, second.id, unreachable());
    let reason = bench.reset(2);
    assert_eq!(reason, format!("no alternate is left ({}: no answer)", second.alternate));
    assert!(!bench.last().ok);
}

#[test]
fn silent_alternates_are_asked_again_until_the_time_is_over() {
    let mut bench = Bench::new();
    bench.fail(0, true, 1, vec![report(1, 1)]);
    let mut asked = Vec::new();
    for ms in [0, 150, 300, 450, 600] {
        let order = bench.order(ms);
        asked.push(order.alternate);
        bench.end(ms + 149, order.id, Outcome::AlternateSilent);
    }
    let both = |asked: &[SocketAddr]| asked.contains(&backend(2)) && asked.contains(&backend(3));
    assert!(both(&asked[..2]) && both(&asked[2..4]), "all of them before one is asked again: {asked:?}");
    let last = bench.order(750);
    bench.end(800, last.id, respliced());
    assert!(bench.last().ok);

    bench.fail(2000, false, 4, vec![report(2, 4)]);
    assert_eq!(bench.reset(2000), "no alternate backend is up", "there is nobody to be patient with");
    bench.fail(3000, false, 1, vec![report(3, 1)]);
    bench.order(3000);
    bench.manager.handle_timeout(Time::from_millis(4000));
    assert!(bench.reset(4000).ends_with("within 1000 ms"));
}

#[test]
fn a_silent_alternate_that_is_called_down_is_not_asked_again() {
    let mut bench = Bench::new();
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    bench.end(150, first.id, Outcome::AlternateSilent);
    let again = bench.order(150);
    assert_eq!((first.alternate, again.alternate), (backend(2), backend(2)));
    bench.fail_by(200, Evidence::HostSilent, true, 2, vec![]);
    let told = bench.told(200).0;
    let reset = |message: &ToProxy| match message {
        ToProxy::Reset { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let resets: Vec<String> = told.iter().filter_map(reset).collect();
    assert_eq!(resets[0], format!("no alternate is left ({}: it failed, too)", backend(2)));
}

#[test]
fn an_alternate_that_serves_no_range_is_asked_for_the_whole_once() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![far(1, 1)]);
    let range = bench.order(0);
    assert!(matches!(range.take_in, TakeIn::Range { .. }));
    bench.end(1, range.id, Outcome::AlternateFailed("answered 200".to_owned()));
    let whole = bench.order(1);
    assert_eq!(whole.alternate, range.alternate);
    assert!(matches!(whole.take_in, TakeIn::Prefix(_)));
    bench.end(2, whole.id, unreachable());
    let next = bench.order(2);
    assert_ne!(next.alternate, range.alternate);
    assert!(matches!(next.take_in, TakeIn::Range { .. }));
}

#[test]
fn a_backend_without_alternates_resets_its_clients_at_once() {
    let mut bench = Bench::new();
    bench.fail(0, true, 4, vec![report(1, 4)]);
    let (proxy, _) = bench.told(0);
    assert!(matches!(&proxy[1], ToProxy::Reset { reason, .. } if reason == "no alternate backend is up"));
}

#[test]
fn alternates_that_are_down_are_not_used_until_they_are_up_again() {
    let mut bench = Bench::new();
    bench.fail(0, true, 2, vec![]);
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, false, 1, vec![report(1, 1)]);
    assert!(matches!(bench.told(0).0.last(), Some(ToProxy::Reset { .. })));
    bench.manager.handle_log(at(1), L1, FromLog::BackendUp { backend: backend(3) });
    assert_eq!(bench.told(1).0, [ToProxy::Backend { backend: backend(3), up: true }]);
    bench.fail(2, false, 1, vec![report(2, 1)]);
    assert_eq!(bench.order(2).alternate, backend(3));
}

#[test]
fn an_alternate_that_fails_in_mid_recovery_is_left_for_the_next() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    let failed = if first.alternate == backend(2) { 2 } else { 3 };
    bench.fail(1, true, failed, vec![report(1, failed)]);
    let (proxy, _) = bench.told(1);
    let [second] = <[_; 1]>::try_from(orders(&proxy)).unwrap();
    assert_eq!(second.flow, first.flow, "the client has nothing of the alternate yet");
    assert_ne!(second.alternate, first.alternate);
    bench.end(2, first.id, unreachable());
    assert_eq!(bench.told(2).0, []);
    bench.end(3, second.id, respliced());
    assert_eq!(bench.told(3).1, ended(1, Some(second.alternate)));
}

#[test]
fn an_alternate_that_fails_just_after_the_re_splice_is_a_new_failure() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    let failed = if first.alternate == backend(2) { 2 } else { 3 };
    bench.fail(1, false, failed, vec![far(1, failed)]);
    let second = bench.order(1);
    bench.end(2, first.id, respliced());
    let third = bench.order(2);
    assert_eq!(third.flow.backend, first.alternate);
    assert!(matches!(third.take_in, TakeIn::Range { .. }), "the newer report counts");
    bench.end(3, second.id, Outcome::Elsewhere(backend(3)));
    assert_eq!(bench.told(3), (vec![], vec![]));
    bench.end(4, third.id, respliced());
    assert!(bench.last().ok);
    assert_eq!(bench.counter("recoveries_running"), 0);
}

#[test]
fn without_another_alternate_both_possible_connections_are_reset() {
    let mut bench = Bench::new();
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, vec![report(1, 1)]);
    bench.told(0);
    bench.fail(1, true, 2, vec![report(1, 2)]);
    let reset = |message: &ToProxy| match message {
        ToProxy::Reset { flow, .. } => Some(flow.backend),
        _ => None,
    };
    let resets: Vec<_> = bench.told(1).0.iter().filter_map(reset).collect();
    assert_eq!(resets, [backend(1), backend(2)]);
}

#[test]
fn a_backend_that_the_proxy_had_chosen_itself_and_that_failed_is_not_lost() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    let chosen = if first.alternate == backend(2) { 2 } else { 3 };
    // The proxy was still connecting when the order came: it went to the same backend by itself, and that failed.
    bench.fail(1, false, chosen, vec![far(1, chosen)]);
    let second = bench.order(1);
    bench.end(2, first.id, Outcome::Gone("it was still connecting".to_owned()));
    assert_eq!(bench.told(2), (vec![], vec![]));
    bench.end(3, second.id, Outcome::Elsewhere(backend(3)));
    let (proxy, log) = bench.told(3);
    let [third] = <[_; 1]>::try_from(orders(&proxy)).unwrap();
    assert_eq!((third.flow.backend, third.flow.client), (backend(chosen), client(1)));
    assert!(matches!(third.take_in, TakeIn::Range { .. }), "the newer report counts");
    assert_eq!(log, [], "the client's connection goes on");
    bench.end(4, third.id, respliced());
    assert_eq!(bench.told(4).1, ended(1, Some(third.alternate)));
    assert_eq!(bench.counter("recoveries_running"), 0);
}

/// The proxy died as it told of the re-splice; the alternate is known to be down before the report of the connection to it comes.
#[test]
fn a_re_splice_that_was_never_told_of_is_not_lost_with_its_alternate() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    let chosen = if first.alternate == backend(2) { 2 } else { 3 };
    bench.fail(1, true, chosen, vec![]);
    let second = bench.order(1);
    bench.fail(1, false, chosen, vec![far(1, chosen)]);
    assert_eq!(bench.told(1).0, []);
    bench.end(3, second.id, Outcome::Elsewhere(backend(3)));
    let third = bench.order(3);
    assert_eq!((third.flow.backend, third.alternate), (backend(chosen), second.alternate));
    bench.end(4, third.id, respliced());
    assert!(bench.last().ok);
}

/// One after the other or together: three of four go to the backend of weight 3.
#[test]
fn alternates_are_chosen_by_weight() {
    let weighted = CLUSTER.replace("100.3:80\"", "100.3:80\"\nweight = 3");
    let mut together = Bench::of(&weighted, Limits::default());
    together.fail(0, true, 1, (1..=80).map(|port| report(port, 1)).collect());
    let orders = together.orders(0);
    assert_eq!((to(&orders, 2), to(&orders, 3)), (20, 60));
    let mut single = Bench::of(&weighted, Limits::default());
    let mut orders = Vec::new();
    for port in 1..=80 {
        single.fail(0, false, 1, vec![report(port, 1)]);
        let order = single.order(0);
        single.end(0, order.id, respliced());
        single.told(0);
        orders.push(order);
    }
    assert_eq!((to(&orders, 2), to(&orders, 3)), (20, 60));
}

fn to(orders: &[RecoveryOrder], n: u8) -> usize {
    orders.iter().filter(|order| order.alternate == backend(n)).count()
}

#[test]
fn no_alternate_is_overrun_and_who_waits_keeps_its_place() {
    let mut bench = Bench::of(&format!("{CLUSTER}alternate_limit = 4\n"), Limits::default());
    bench.fail(0, true, 1, (1..=20).map(|port| report(port, 1)).collect());
    let mut orders = bench.orders(0);
    assert_eq!((to(&orders, 2), to(&orders, 3)), (4, 4));
    let waiting = bench.manager.status().counters["recoveries_waiting"];
    assert_eq!((waiting, bench.counter("recoveries_at_alternate_limit")), (12, 12));
    for place in 0..20 {
        bench.end(1, orders[place].id, respliced());
        orders.extend(bench.orders(1));
    }
    let ports: Vec<u16> = orders.iter().map(|order| order.flow.client.port()).collect();
    assert_eq!(ports, (1..=20).collect::<Vec<_>>());
    assert_eq!((bench.counter("resplices"), bench.counter("recoveries_waiting")), (20, 0));
}

#[test]
fn who_waits_goes_on_when_its_alternate_fails_and_is_reset_in_time() {
    let mut bench = Bench::of(&format!("{CLUSTER}alternate_limit = 1\n"), Limits::default());
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, vec![report(1, 1), report(2, 1)]);
    assert_eq!(bench.orders(0).len(), 1);
    bench.fail(1, true, 2, vec![]);
    let resets = bench.told(1).0.iter().filter(|message| matches!(message, ToProxy::Reset { .. })).count();
    assert!(resets >= 2, "nobody is left");
    let mut bench = Bench::of(&format!("{CLUSTER}alternate_limit = 1\n"), Limits::default());
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, vec![report(1, 1)]);
    bench.fail(500, false, 1, vec![report(2, 1)]);
    bench.told(500);
    bench.manager.handle_timeout(Time::from_millis(1000));
    assert_eq!(to(&bench.orders(1000), 2), 1, "the first one's time is up, the second has its place");
    assert_eq!(bench.manager.poll_timeout(), Some(Time::from_millis(1500)));
}

/// A bad link makes living hosts seem dead: one that was only silent is asked before the client is reset, after all others.
#[test]
fn a_silent_backend_is_the_last_resort() {
    let mut bench = Bench::new();
    bench.fail_by(0, Evidence::HostSilent, true, 2, vec![]);
    bench.fail_by(0, Evidence::HostSilent, true, 1, vec![report(1, 1)]);
    let [first] = <[_; 1]>::try_from(bench.orders(0)).unwrap();
    assert_eq!(first.alternate, backend(3));
    bench.end(1, first.id, unreachable());
    let second = bench.order(1);
    assert_eq!(second.alternate, backend(2));
    bench.end(2, second.id, unreachable());
    assert!(bench.reset(2).starts_with("no alternate is left"));
    bench.fail_by(20_000, Evidence::HostSilent, false, 3, vec![report(2, 3)]);
    assert_eq!(bench.reset(20_000), "no alternate backend is up", "silent for so long it is dead");
}

/// By the operator's choice: who has nothing of a response is answered; who has something can only be reset.
#[test]
fn clients_that_cannot_be_helped_are_answered_where_that_is_possible() {
    let answering = format!("{CLUSTER}give_up = \"answer\"\n");
    let mut bench = Bench::of(&answering, Limits::default());
    bench.fail(0, true, 4, vec![report(1, 4), far(2, 4)]);
    let told = bench.told(0).0;
    let [_, ToProxy::Answer { order, status: 503, .. }, ToProxy::Reset { flow, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((order.flow.client, flow.client), (client(1), client(2)));
    assert_eq!(order.replay, b"GET /f HTTP/1.1\r", "the beginning of the request");
    let mut update = report(3, 1);
    update.pending[0].tags = Tags::default();
    bench.fail(1, false, 1, vec![update.clone()]);
    let told = bench.told(1).0;
    assert!(matches!(told.as_slice(), [ToProxy::Answer { status: 502, .. }]), "{told:?}");
    assert_eq!((bench.counter("answers"), bench.counter("resets")), (2, 1));
    let record = bench.last();
    assert!(!record.ok && record.outcome.starts_with("answered 502: update in flight"), "{record:?}");
    bench.fail(2, false, 1, vec![report(4, 1)]);
    bench.end(3, 0, respliced());
    bench.manager.handle_timeout(Time::from_millis(1002));
    let told = bench.told(1002).0;
    assert!(matches!(told.last(), Some(ToProxy::Answer { status: 502, .. })), "too late: {told:?}");
    // The default is the reset.
    let mut bench = Bench::new();
    update.flow.client = client(9);
    bench.fail(0, false, 1, vec![update]);
    assert!(bench.reset(0).starts_with("update in flight"));
}

/// The manager's predecessor had ordered it, as the proxy says: the log forgets the failure, not where the client is.
#[test]
fn a_client_that_is_elsewhere_already_stays_there() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.end(1, order.id, Outcome::Elsewhere(backend(4)));
    assert_eq!(bench.told(1), (vec![], ended(1, Some(backend(4)))));
    assert!(bench.last().ok);
    assert_eq!((bench.counter("clients_elsewhere"), bench.counter("recoveries_running")), (1, 0));
}
