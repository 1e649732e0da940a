//! What the operator reads; `docs/recovery.md` shows the same lines.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{
    ConnectionReport, Evidence, Flow, FromLog, FromProxy, Outcome, PartialResponse, PendingRequest, Stretch,
    Tags, ToProxy,
};
use packet::Time;
use recovery_manager::{Action, Limits, LoggerId, Manager, Now};

const CLUSTER: &str = r#"
[cluster]
name = "test"
[service]
address = "192.0.2.1:80"
[[route]]
pool = "web"
[pool.web]
backends = ["b1", "b2"]
[backend.b1]
address = "198.51.100.1:80"
[backend.b2]
address = "198.51.100.2:80"
[proxy.p]
address = "127.0.0.1"
[logger.l]
control = "127.0.0.1:7001"
"#;
const REQUEST: &str =
    "GET /files/10m HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 10485760\r\n\
                    ETag: \"655e2d5c-a00000\"\r\nAccept-Ranges: bytes\r\n\r\n";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(us: u64) -> Now {
    Now { monotonic: Time::from_nanos(us * 1000), unix_ms: 0 }
}

fn request(ordinal: u32, summary: &str, bytes: &str, read_only: bool) -> PendingRequest {
    let tags = Tags { read_only, ..Tags::default() };
    PendingRequest {
        volatile_headers: None,
        ordinal,
        summary: summary.to_owned(),
        tags,
        complete: true,
        bytes: bytes.into(),
    }
}

/// In the middle of a body, the last ten segments not acknowledged.
fn download() -> ConnectionReport {
    let body_bytes = 1 << 20;
    let partial = PartialResponse {
        head: HEAD.into(),
        head_complete: true,
        body_bytes,
        hashes: vec![Stretch { bytes: body_bytes, hash: 0 }],
        tail: vec![0; 16 << 10],
        content: None,
        left_out: 0,
    };
    ConnectionReport {
        t_l: 4,
        ack_cl: (HEAD.len() as u64 + body_bytes) as u32 - 14_480,
        pending: vec![request(5, "GET /files/10m", REQUEST, true)],
        partial,
        unacked: vec![0; 14_480],
        ..ConnectionReport::new(Flow {
            client: address("203.0.113.5:40001"),
            backend: address("198.51.100.1:80"),
        })
    }
}

fn connected() -> Manager {
    let mut manager = Manager::new(&Cluster::parse(CLUSTER, "test").unwrap(), Limits::default(), 1);
    manager.handle_proxy_connected(Time::from_millis(0));
    manager.handle_log_connected(LoggerId(0));
    manager
}

fn failed(connection: ConnectionReport) -> FromLog {
    FromLog::Failed {
        number: 1,
        evidence: Evidence::PrematureFin,
        noticed_us: 70,
        backend_down: false,
        backend: address("198.51.100.1:80"),
        connections: vec![connection],
    }
}

/// The lines told so far, and the number of the order that left.
fn drain(manager: &mut Manager, now: Now) -> (Vec<String>, Option<u64>) {
    let (mut lines, mut order) = (Vec::new(), None);
    while let Some(action) = manager.poll_action(now.monotonic) {
        match action {
            Action::Tell(story) if story.is_bad() => lines.push(format!("WARN {story}")),
            Action::Tell(story) => lines.push(format!("INFO {story}")),
            Action::ToProxy(ToProxy::Recover(orders)) => order = orders.first().map(|it| it.id),
            _ => {}
        }
    }
    (lines, order)
}

fn assert_documented(lines: &[String]) {
    let page = include_str!("../../docs/recovery.md");
    for line in lines {
        assert!(page.contains(line), "docs/recovery.md lacks this line:\n{line}");
    }
}

#[test]
fn a_recovered_download_is_three_lines() {
    let mut manager = connected();
    manager.handle_log(at(0), LoggerId(0), failed(download()));
    let (mut lines, order) = drain(&mut manager, at(40));
    let steps = [("alternate connected", 370), ("compared", 1060), ("re-spliced", 1160)];
    let outcome = Outcome::Respliced {
        resent: 14_480,
        taken_in: 16_692,
        steps: steps.map(|(name, us)| (name.to_owned(), us)).to_vec(),
    };
    manager.handle_proxy(at(1300), FromProxy::Ended { id: order.unwrap(), outcome });
    lines.extend(drain(&mut manager, at(1300)).0);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_documented(&lines);
}

#[test]
fn a_reset_says_why() {
    let mut manager = connected();
    let pending = vec![request(2, "POST /order", "POST /order HTTP/1.1\r\n\r\n", false)];
    let client = Flow { client: address("203.0.113.5:40007"), ..download().flow };
    let partial = PartialResponse::default();
    let report = ConnectionReport {
        flow: client,
        t_l: 1,
        ack_cl: 0,
        pending,
        partial,
        unacked: Vec::new(),
        beyond: Vec::new(),
        ..download()
    };
    manager.handle_log(at(0), LoggerId(0), failed(report));
    let (lines, _) = drain(&mut manager, at(40));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_documented(&lines[1..]);
}
