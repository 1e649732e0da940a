//! The daemon itself, between a transactionalizer and a proxy that the test plays.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

mod support;

use std::time::Instant;

use cluster::control::{FromLog, FromProxy, Outcome, ToLog, ToProxy};
use support::{B1, B2, Cell, client, failed, report, until};

fn respliced(id: u64) -> FromProxy {
    let steps = vec![("alternate connected".to_owned(), 300), ("re-spliced".to_owned(), 900)];
    FromProxy::Ended { id, outcome: Outcome::Respliced { resent: 0, taken_in: 0, steps } }
}

#[test]
fn a_failure_becomes_an_order_and_its_outcome_reaches_the_log_and_the_operator() {
    let cell = Cell::new();
    let daemon = cell.start();
    let (mut proxy, backends) = cell.accept_proxy();
    let mut log = cell.accept_log();
    assert_eq!(backends, [(B1.parse().unwrap(), true), (B2.parse().unwrap(), true)]);

    log.write(&failed(1, true, vec![report(40_001)]));
    assert_eq!(proxy.read(), ToProxy::Backend { backend: B1.parse().unwrap(), up: false });
    let order = proxy.order();
    assert_eq!((order.flow.client, order.alternate), (client(40_001), B2.parse().unwrap()));
    assert_eq!(order.replay, report(40_001).pending[0].bytes);
    proxy.write(&respliced(order.id));
    let backend = Some(B2.parse().unwrap());
    assert_eq!(log.read(), ToLog::Ended { client: client(40_001), backend });

    let status = cell.status();
    assert!(status.proxy_connected && status.loggers == [("l".to_owned(), true)], "{status:?}");
    assert_eq!(status.down, [B1.parse().unwrap()]);
    let record = &status.recoveries[0];
    assert!(record.ok && record.request.as_deref() == Some("GET /files/1m"), "{record:?}");
    let (status, story) = daemon.terminate();
    assert_eq!(status.code(), Some(0), "{story}");
    for stage in
        ["failed: its kernel closed", "continuing on 198.51.100.2:80", "re-spliced to 198.51.100.2:80"]
    {
        assert!(story.contains(stage), "{story}");
    }
}

#[test]
fn a_client_that_cannot_be_helped_is_reset_with_the_reason() {
    let cell = Cell::new();
    let daemon = cell.start();
    let (mut proxy, _) = cell.accept_proxy();
    let mut log = cell.accept_log();
    let mut update = report(40_002);
    update.pending[0].tags = cluster::control::Tags::default();
    log.write(&failed(1, false, vec![update]));
    let ToProxy::Reset { flow, end, reason } = proxy.read() else { panic!("no reset") };
    assert_eq!((flow.client, end), (client(40_002), Some(1000)));
    assert!(reason.starts_with("update in flight: request 1 (GET /files/1m)"), "{reason}");
    assert_eq!(log.read(), ToLog::Ended { client: client(40_002), backend: None });
    let (_, story) = daemon.terminate();
    assert!(story.contains("WARN") && story.contains("reset: update in flight"), "{story}");
}

#[test]
fn a_restarted_proxy_is_told_everything_again() {
    let cell = Cell::new();
    let _daemon = cell.start();
    let (mut proxy, _) = cell.accept_proxy();
    let mut log = cell.accept_log();
    log.write(&failed(1, true, vec![report(40_003)]));
    proxy.read();
    let order = proxy.order();
    drop(proxy);
    let (mut proxy, backends) = cell.accept_proxy();
    assert_eq!(backends, [(B1.parse().unwrap(), false), (B2.parse().unwrap(), true)]);
    assert_eq!(proxy.order(), order);
    proxy.write(&respliced(order.id));
    assert!(matches!(log.read(), ToLog::Ended { backend: Some(_), .. }));
}

#[test]
fn a_log_that_talks_nonsense_is_connected_anew() {
    let cell = Cell::new();
    let daemon = cell.start();
    let (mut proxy, _) = cell.accept_proxy();
    let mut log = cell.accept_log();
    log.write([0xff_u8; 64].as_slice());
    let mut log = cell.accept_log();
    log.write(&failed(1, false, vec![report(40_004)]));
    proxy.order();
    log.write(&FromLog::BackendUp { backend: "192.0.2.77:1".parse().unwrap() });
    drop(log);
    until(|| cell.status().loggers == [("l".to_owned(), false)] || cell.status().loggers[0].1);
    assert_eq!(daemon.terminate().0.code(), Some(0));
}

#[test]
fn a_second_start_is_refused_and_disturbs_nothing() {
    let cell = Cell::new();
    let daemon = cell.start();
    cell.accept_proxy();
    let _log = cell.accept_log();
    let second = cell.command().args(["--node", "p"]).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && error.contains("already running"), "{error}");
    assert_eq!(cell.status().recoveries.len(), 0);
    assert_eq!(daemon.terminate().0.code(), Some(0));
}

#[test]
fn a_node_that_is_no_proxy_is_refused() {
    let cell = Cell::new();
    let output = cell.command().args(["--node", "elsewhere"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("elsewhere") && error.contains("--node"), "{error}");
    assert!(!cell.dir().join("recovery-manager.lock").exists(), "a refused start left something behind");
}

/// The daemon's own share of the client's stall. The bound is loose, machines are shared; the median is printed.
#[test]
fn a_report_leaves_as_an_order_at_once() {
    let cell = Cell::new();
    let _daemon = cell.start();
    let (mut proxy, _) = cell.accept_proxy();
    let mut log = cell.accept_log();
    let mut times = Vec::new();
    for number in 1..=200 {
        let start = Instant::now();
        log.write(&failed(number, false, vec![report(41_000 + number as u16)]));
        let order = proxy.order();
        times.push(start.elapsed());
        proxy.write(&respliced(order.id));
        log.read();
    }
    times.sort();
    println!("report to order, both sockets included: median {:?}, worst {:?}", times[100], times[199]);
    assert!(times[100].as_millis() < 5, "median {:?}", times[100]);
}
