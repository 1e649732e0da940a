//! What the operator wants of backends, and changed configurations, decide where recoveries go.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

use std::net::SocketAddr;

use cluster::config::{BackendState, Cluster};
use cluster::control::{
    ConnectionReport, Evidence, Flow, FromLog, FromProxy, PendingRequest, RecoveryOrder, Tags, ToProxy,
};
use packet::Time;
use recovery_manager::{Action, Limits, LoggerId, Manager, Now};

const NOW: Now = Now { monotonic: Time::from_millis(5), unix_ms: 1_000_000 };

fn backend(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 80))
}

/// One pool of these backends; the states as in the configuration.
fn cluster(backends: &[(u8, &str)]) -> Cluster {
    let names: Vec<_> = backends.iter().map(|(n, _)| format!("\"b{n}\"")).collect();
    let tables: Vec<_> = backends
        .iter()
        .map(|(n, state)| format!("[backend.b{n}]\naddress = \"{}\"\nstate = \"{state}\"\n", backend(*n)))
        .collect();
    let text = format!(
        "[cluster]\nname = \"c\"\n[service]\naddress = \"192.0.2.1:80\"\n[[route]]\npool = \"web\"\n[pool.web]\nbackends = [{}]\n\
         [logger.l]\ncontrol = \"127.0.0.1:7001\"\n{}",
        names.join(","),
        tables.concat()
    );
    Cluster::parse(&text, "test").unwrap()
}

struct Bench {
    manager: Manager,
    number: u64,
}

impl Bench {
    fn new(cluster: &Cluster) -> Self {
        let mut manager = Manager::new(cluster, Limits::default(), 1);
        manager.handle_proxy_connected(Time::from_millis(0));
        manager.handle_log_connected(LoggerId(0));
        Self { manager, number: 0 }
    }

    fn want(&mut self, wanted: &[(u8, BackendState)]) {
        let wanted = wanted.iter().map(|(n, state)| (backend(*n), *state)).collect();
        self.manager.handle_proxy(NOW, FromProxy::Wanted(wanted));
    }

    /// The alternates of so many connections that fail on backend `failed`, sorted; a reset is `None`.
    fn alternates(&mut self, failed: u8, connections: u16) -> Vec<Option<u8>> {
        self.number += 1;
        let first = 1000 * self.number as u16;
        let connections = (first..first + connections).map(|port| report(port, failed)).collect();
        let failure = FromLog::Failed {
            number: self.number,
            evidence: Evidence::PrematureFin,
            noticed_us: 1,
            backend_down: false,
            backend: backend(failed),
            connections,
        };
        self.manager.handle_log(NOW, LoggerId(0), failure);
        let mut alternates = Vec::new();
        while let Some(action) = self.manager.poll_action(NOW.monotonic) {
            match action {
                Action::ToProxy(ToProxy::Recover(orders)) => {
                    let number = |order: &RecoveryOrder| (1..9).find(|n| backend(*n) == order.alternate);
                    alternates.extend(orders.iter().map(number));
                }
                Action::ToProxy(ToProxy::Reset { .. }) => alternates.push(None),
                _ => {}
            }
        }
        alternates.sort_unstable();
        alternates
    }
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
        ..ConnectionReport::new(Flow {
            client: SocketAddr::from(([203, 0, 113, 5], port)),
            backend: backend(failed),
        })
    }
}

#[test]
fn maintenance_is_no_alternate_and_drained_ones_are_the_last_resort() {
    use BackendState::{Drain, Maintenance, Up};
    let all = cluster(&[(1, "up"), (2, "up"), (3, "up"), (4, "up")]);
    let mut bench = Bench::new(&all);
    bench.want(&[(1, Up), (2, Drain), (3, Maintenance), (4, Up)]);
    assert_eq!(bench.alternates(1, 4), [Some(4); 4]);
    bench.want(&[(4, Maintenance)]);
    assert_eq!(bench.alternates(1, 3), [Some(2); 3]);
    bench.want(&[(2, Maintenance)]);
    assert_eq!(bench.alternates(1, 2), [None; 2]);
    bench.want(&[(3, Up)]);
    assert_eq!(bench.alternates(1, 1), [Some(3)]);
    // The failed one's own state is of no account.
    assert_eq!(bench.alternates(2, 1), [Some(1)]);
}

#[test]
fn states_of_the_configuration_hold_until_the_proxy_says_otherwise() {
    let mut bench = Bench::new(&cluster(&[(1, "up"), (2, "maintenance"), (3, "drain"), (4, "up")]));
    assert_eq!(bench.alternates(1, 3), [Some(4); 3]);
    bench.want(&[(2, BackendState::Up), (4, BackendState::Maintenance)]);
    assert_eq!(bench.alternates(1, 3), [Some(2); 3]);
}

#[test]
fn a_changed_configuration_changes_the_alternates() {
    let mut bench = Bench::new(&cluster(&[(1, "up"), (2, "up")]));
    bench.want(&[(1, BackendState::Up), (2, BackendState::Maintenance)]);
    // b2 stays as the operator wants it; b3 is new.
    bench.manager.handle_reload(&cluster(&[(1, "up"), (2, "up"), (3, "up")]));
    assert_eq!(bench.alternates(1, 2), [Some(3); 2]);
    // b1 is not there any more: its connections still are recovered, none is moved to it.
    bench.manager.handle_reload(&cluster(&[(2, "up"), (3, "up")]));
    assert_eq!(bench.alternates(1, 2), [Some(3); 2]);
    assert_eq!(bench.alternates(3, 1), [None]);
}

#[test]
fn what_was_removed_does_not_pile_up() {
    let mut bench = Bench::new(&cluster(&[(1, "up"), (2, "up")]));
    for n in (3..=200).chain((3..=200).rev()) {
        bench.manager.handle_reload(&cluster(&[(1, "up"), (n, "up")]));
    }
    let down = |n| FromLog::Failed {
        number: 1000 + u64::from(n),
        evidence: Evidence::Heartbeat,
        noticed_us: 1,
        backend_down: true,
        backend: backend(n),
        connections: vec![],
    };
    (1..=200).for_each(|n| bench.manager.handle_log(NOW, LoggerId(0), down(n)));
    let known = bench.manager.status().down.len();
    assert!((3..=70).contains(&known), "{known}");
}
