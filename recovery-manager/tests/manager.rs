//! The engine: retries, replacements, repetitions, limits and time. Bounded tables, no clock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{
    ClientWindow, ConnectionReport, Evidence, Flow, FromLog, FromProxy, LogStatus, Outcome, PartialResponse,
    PendingRequest, RecoveryOrder, Tags, TakeIn, ToLog, ToProxy,
};
use packet::Time;
use recovery_manager::{Action, Limits, LoggerId, Manager, Now, Story};

const CLUSTER: &str = r#"
[cluster]
name = "test"
[service]
address = "192.0.2.1:80"
[[route]]
pool = "web"
[pool.web]
backends = ["b1", "b2", "b3"]
[pool.single]
backends = ["b4"]
[backend.b1]
address = "198.51.100.1:80"
[backend.b2]
address = "198.51.100.2:80"
[backend.b3]
address = "198.51.100.3:80"
[backend.b4]
address = "198.51.100.4:80"
[proxy.p]
address = "127.0.0.1"
[logger.l1]
control = "127.0.0.1:7001"
[logger.l2]
control = "127.0.0.1:7002"
[recovery]
timeout_ms = 1000
history = 3
"#;
const L1: LoggerId = LoggerId(0);

fn backend(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 80))
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], port))
}

fn at(ms: u64) -> Now {
    Now { monotonic: Time::from_millis(ms), unix_ms: 1_000_000 + ms }
}

fn report(port: u16, failed: u8) -> ConnectionReport {
    let request = PendingRequest {
        volatile_headers: None,
        ordinal: 1,
        summary: "GET /f".to_owned(),
        tags: Tags { read_only: true, ..Tags::default() },
        complete: true,
        bytes: b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    };
    ConnectionReport {
        flow: Flow { client: client(port), backend: backend(failed) },
        options: None,
        t_l: 0,
        ack_tl: 1,
        ack_cl: 1,
        client_window: ClientWindow::default(),
        client_next: 1,
        client_fin: false,
        pending: vec![request],
        partial: PartialResponse::default(),
        unacked: Vec::new(),
        beyond: Vec::new(),
        unrecoverable: None,
    }
}

/// Far enough in a large body for a range.
fn far(port: u16, failed: u8) -> ConnectionReport {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nETag: \"v\"\r\n\r\n".to_vec();
    let partial =
        PartialResponse { head_complete: true, body_bytes: 1 << 20, body_hash: 1, tail: vec![0; 100], head };
    let p = partial.head.len() as u32 + (1 << 20);
    ConnectionReport { partial, ack_cl: 1 + p, ..report(port, failed) }
}

/// A manager whose peers are connected and have been greeted.
struct Bench {
    manager: Manager,
    number: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let cluster = Cluster::parse(CLUSTER, "test").unwrap();
        let mut bench = Self { manager: Manager::new(&cluster, limits, 100), number: 0 };
        bench.manager.handle_proxy_connected();
        bench.manager.handle_log_connected(L1);
        bench.actions(0);
        bench
    }

    fn actions(&mut self, ms: u64) -> Vec<Action> {
        std::iter::from_fn(|| self.manager.poll_action(at(ms).monotonic)).collect()
    }

    /// What the proxy and the log were told since the last call.
    fn told(&mut self, ms: u64) -> (Vec<ToProxy>, Vec<ToLog>) {
        let (mut proxy, mut log) = (Vec::new(), Vec::new());
        for action in self.actions(ms) {
            match action {
                Action::ToProxy(message) => proxy.push(message),
                Action::ToLog(_, message) => log.push(message),
                Action::Tell(_) => {}
            }
        }
        (proxy, log)
    }

    fn order(&mut self, ms: u64) -> RecoveryOrder {
        match self.told(ms).0.as_slice() {
            [ToProxy::Recover(order)] => (**order).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn reset(&mut self, ms: u64) -> String {
        match self.told(ms).0.as_slice() {
            [ToProxy::Reset { reason, .. }] => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn fail(&mut self, ms: u64, down: bool, failed: u8, connections: Vec<ConnectionReport>) {
        self.number += 1;
        let message = FromLog::Failed {
            number: self.number,
            evidence: Evidence::PrematureFin,
            noticed_us: 50,
            backend_down: down,
            backend: backend(failed),
            connections,
        };
        self.manager.handle_log(at(ms), L1, message);
    }

    fn end(&mut self, ms: u64, id: u64, outcome: Outcome) {
        self.manager.handle_proxy(at(ms), FromProxy::Ended { id, outcome });
    }

    fn counter(&self, name: &str) -> u64 {
        self.manager.status().counters[name]
    }

    fn last(&self) -> cluster::control::RecoveryRecord {
        self.manager.status().recoveries.last().unwrap().clone()
    }
}

fn respliced() -> Outcome {
    Outcome::Respliced { resent: 3, taken_in: 4, steps: vec![("re-spliced".to_owned(), 500)] }
}

fn unreachable() -> Outcome {
    Outcome::AlternateFailed("no answer".to_owned())
}

fn ended(port: u16, backend: Option<SocketAddr>) -> Vec<ToLog> {
    vec![ToLog::Ended { client: client(port), backend }]
}

#[test]
fn a_recovery_from_notice_to_record() {
    let mut bench = Bench::new();
    bench.fail(10, true, 1, vec![report(1, 1)]);
    let (proxy, _) = bench.told(10);
    let [ToProxy::Backend { up: false, .. }, ToProxy::Recover(order)] = proxy.as_slice() else { panic!() };
    bench.end(12, order.id, respliced());
    assert_eq!(bench.told(12).1, ended(1, Some(order.alternate)));
    let record = bench.last();
    assert!(record.ok && record.at_ms == 1_000_010 && record.noticed_us == 50);
    let step = |name: &str, us| (name.to_owned(), us);
    assert_eq!(record.steps, [step("ordered", 0), step("re-spliced", 500), step("ended", 2000)]);
    assert_eq!(bench.counter("recoveries_running"), 0);
    assert_eq!(bench.manager.poll_timeout(), None);
}

#[test]
fn many_connections_are_spread_over_the_alternates() {
    let mut bench = Bench::new();
    bench.fail(0, true, 1, (1..=50).map(|port| report(port, 1)).collect());
    let (proxy, _) = bench.told(0);
    let to = |n| {
        let is =
            |message: &&ToProxy| matches!(message, ToProxy::Recover(order) if order.alternate == backend(n));
        proxy.iter().filter(is).count()
    };
    assert_eq!((to(2), to(3)), (25, 25));
}

#[test]
fn ended_recoveries_are_no_burden_to_an_alternate() {
    let mut bench = Bench::new();
    bench.fail(0, true, 3, vec![]);
    bench.fail(0, true, 1, (1..=9).map(|port| report(port, 1)).collect());
    for message in bench.told(0).0 {
        if let ToProxy::Recover(order) = message {
            bench.end(1, order.id, respliced());
        }
    }
    bench.manager.handle_log(at(2), L1, FromLog::BackendUp { backend: backend(3) });
    bench.told(2);
    bench.fail(3, true, 1, (11..=14).map(|port| report(port, 1)).collect());
    let to_b3 =
        |message: &&ToProxy| matches!(message, ToProxy::Recover(order) if order.alternate == backend(3));
    assert_eq!(bench.told(3).0.iter().filter(to_b3).count(), 2);
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
    let (proxy, _) = bench.told(0);
    let ToProxy::Recover(first) = &proxy[1] else { panic!() };
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
    let (proxy, log) = bench.told(0);
    assert!(matches!(&proxy[1], ToProxy::Reset { reason, .. } if reason == "no alternate backend is up"));
    assert_eq!(log, ended(1, None));
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
fn an_alternate_that_fails_in_mid_recovery_is_left_for_the_next() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let first = bench.order(0);
    let failed = if first.alternate == backend(2) { 2 } else { 3 };
    bench.fail(1, true, failed, vec![report(1, failed)]);
    let (proxy, _) = bench.told(1);
    let [ToProxy::Backend { .. }, ToProxy::Recover(second)] = proxy.as_slice() else { panic!("{proxy:?}") };
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
    bench.end(3, second.id, Outcome::Gone("on another backend".to_owned()));
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
fn a_recovery_that_takes_too_long_resets_the_client() {
    let mut bench = Bench::new();
    bench.fail(5, false, 1, vec![report(1, 1)]);
    let order = bench.order(5);
    assert_eq!(bench.manager.poll_timeout(), Some(Time::from_millis(1005)));
    bench.manager.handle_timeout(Time::from_millis(1004));
    assert_eq!(bench.told(1004).0, []);
    bench.manager.handle_timeout(Time::from_millis(1005));
    assert_eq!(bench.reset(1005), format!("no re-splice to {} within 1000 ms", order.alternate));
    bench.end(1006, order.id, respliced());
    assert_eq!(
        bench.told(1006).1,
        ended(1, Some(order.alternate)),
        "the client is on the alternate after all"
    );
}

#[test]
fn orders_and_resets_wait_for_the_proxy() {
    let mut bench = Bench::new();
    bench.manager.handle_proxy_disconnected(at(0).monotonic);
    bench.fail(0, true, 1, vec![report(1, 1)]);
    let lost = ConnectionReport { unrecoverable: Some("lapped".to_owned()), ..report(2, 1) };
    bench.fail(1, true, 1, vec![lost]);
    assert_eq!(bench.told(1).0, []);
    bench.manager.handle_proxy_connected();
    let (proxy, _) = bench.told(2);
    assert_eq!(proxy[0], ToProxy::Subscribe);
    assert!(proxy.contains(&ToProxy::Backend { backend: backend(1), up: false }));
    let of = |port| {
        move |message: &ToProxy| match message {
            ToProxy::Recover(order) => order.flow.client == client(port),
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
    assert_eq!((bench.counter("resets_given_up"), bench.manager.poll_timeout()), (1, None));
}

#[test]
fn a_reset_that_a_breaking_connection_swallowed_is_repeated() {
    let mut bench = Bench::new();
    bench.fail(0, false, 4, vec![report(1, 4)]);
    bench.reset(0);
    bench.manager.handle_proxy_disconnected(at(10).monotonic);
    bench.manager.handle_proxy_connected();
    let again = bench.told(10).0;
    assert!(again.iter().any(|message| matches!(message, ToProxy::Reset { .. })), "{again:?}");
    bench.fail(20, false, 4, vec![report(2, 4)]);
    bench.reset(20);
    bench.manager.handle_proxy_disconnected(at(5000).monotonic);
    bench.manager.handle_proxy_connected();
    let later = bench.told(5000).0;
    assert!(
        !later.iter().any(|message| matches!(message, ToProxy::Reset { .. })),
        "the port may have a new owner"
    );
}

#[test]
fn beyond_the_limits_clients_are_reset() {
    for limits in
        [Limits { recoveries: 2, ..Limits::default() }, Limits { report_bytes: 2 * 29, ..Limits::default() }]
    {
        let mut bench = Bench::with(limits);
        bench.fail(0, false, 1, vec![report(1, 1), report(2, 1), report(3, 1)]);
        let (proxy, _) = bench.told(0);
        let resets = proxy.iter().filter(|message| matches!(message, ToProxy::Reset { .. })).count();
        assert_eq!((resets, bench.counter("recoveries_refused_at_limit")), (1, 1), "{limits:?}");
    }
}

#[test]
fn the_history_is_bounded() {
    let mut bench = Bench::new();
    bench.fail(0, false, 4, (1..=10).map(|port| report(port, 4)).collect());
    let ports: Vec<u16> =
        bench.manager.status().recoveries.iter().map(|record| record.flow.client.port()).collect();
    assert_eq!(ports, [8, 9, 10]);
}

#[test]
fn a_mismatch_is_told_with_both_sides() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    let outcome = Outcome::Mismatch { at: 7, logged: b"a\n".to_vec(), alternate: b"b".to_vec() };
    bench.end(1, order.id, outcome);
    let mut tells = bench.actions(1).into_iter().filter_map(|action| match action {
        Action::Tell(story @ Story::Ended(_)) => Some(story),
        _ => None,
    });
    let story = tells.next_back().unwrap();
    assert!(story.is_bad());
    let line = story.to_string();
    assert!(
        line.contains("differently at response byte 7: the client was sent \"a\\n\", it has \"b\""),
        "{line}"
    );
}
