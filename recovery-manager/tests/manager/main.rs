//! The engine: retries, replacements, repetitions, limits and time. Bounded tables, no clock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

mod alternates;
mod peers;
mod pieces;
mod replay;
mod swallowed;

use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{
    ConnectionReport, Evidence, Flow, FromLog, FromProxy, LogStatus, Outcome, PartialResponse,
    PendingRequest, RecoveryOrder, Stretch, Tags, TakeIn, ToLog, ToProxy,
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
        ack_tl: 1,
        ack_cl: 1,
        client_next: 1,
        pending: vec![request],
        ..ConnectionReport::new(Flow { client: client(port), backend: backend(failed) })
    }
}

/// Far enough in a large body for a range.
fn far(port: u16, failed: u8) -> ConnectionReport {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nETag: \"v\"\r\n\r\n".to_vec();
    let partial = PartialResponse {
        head_complete: true,
        body_bytes: 1 << 20,
        hashes: vec![Stretch { bytes: 1 << 20, hash: 1 }],
        tail: vec![0; 100],
        head,
        content: None,
        left_out: 0,
    };
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
        Self::of(CLUSTER, limits)
    }

    fn of(cluster: &str, limits: Limits) -> Self {
        let cluster = Cluster::parse(cluster, "test").unwrap();
        let mut bench = Self { manager: Manager::new(&cluster, limits, 100), number: 0 };
        bench.manager.handle_proxy_connected(at(0).monotonic);
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
        let [order] = <[_; 1]>::try_from(self.orders(ms)).unwrap();
        order
    }

    fn orders(&mut self, ms: u64) -> Vec<RecoveryOrder> {
        orders(&self.told(ms).0)
    }

    fn reset(&mut self, ms: u64) -> String {
        match self.told(ms).0.as_slice() {
            [ToProxy::Reset { reason, .. }] => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn fail(&mut self, ms: u64, down: bool, failed: u8, connections: Vec<ConnectionReport>) {
        self.fail_by(ms, Evidence::PrematureFin, down, failed, connections);
    }

    fn fail_by(
        &mut self,
        ms: u64,
        evidence: Evidence,
        down: bool,
        failed: u8,
        connections: Vec<ConnectionReport>,
    ) {
        self.number += 1;
        let message = FromLog::Failed {
            number: self.number,
            evidence,
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

/// Of all messages.
fn orders(told: &[ToProxy]) -> Vec<RecoveryOrder> {
    let orders = |message: &ToProxy| match message {
        ToProxy::Recover(orders) => orders.clone(),
        _ => Vec::new(),
    };
    told.iter().flat_map(orders).collect()
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
    let [ToProxy::Backend { up: false, .. }, ToProxy::Recover(orders)] = proxy.as_slice() else { panic!() };
    let [order] = orders.as_slice() else { panic!() };
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

fn mismatch() -> Outcome {
    Outcome::Mismatch { at: 7, before: b"same".to_vec(), logged: b"a\n".to_vec(), alternate: b"b".to_vec() }
}

/// Ten users' pages are one kind.
#[test]
fn mismatches_are_counted_by_kind_and_the_last_ones_kept() {
    let mut bench = Bench::new();
    for port in 1..=150 {
        let mut report = report(port, 1);
        report.pending[0].summary = format!("GET /user/{port}/page?x={port}");
        bench.fail(0, false, 1, vec![report]);
        let order = bench.order(0);
        bench.end(1, order.id, mismatch());
    }
    let found = bench.manager.mismatches();
    assert_eq!(found.kinds.into_iter().collect::<Vec<_>>(), [("GET /user/*/page".to_owned(), 150)]);
    assert_eq!((found.last.len(), bench.counter("mismatches")), (100, 150));
    let last = found.last.last().unwrap();
    assert_eq!((last.flow.client, last.position, &last.before[..]), (client(150), 7, &b"same"[..]));
    assert_eq!((&last.logged[..], &last.sent[..]), (&b"a\n"[..], &b"b"[..]));
}

#[test]
fn a_mismatch_is_told_with_both_sides() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.end(1, order.id, mismatch());
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
