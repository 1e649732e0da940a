//! The command against fake daemons on real Unix sockets, and against configuration files.

#![allow(clippy::disallowed_methods, reason = "a test plays the daemons")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use cluster::config::BackendState;
use cluster::control::{
    BackendHealth, BackendStatus, ConnectionStatus, Done, Evidence, Flow, FromLog, FromProxy, HealthState,
    LogStatus, LoggerStatus, ManagerStatus, Mismatch, Mismatches, ProxyStatus, RecoveryRecord, ToLog,
    ToLogger, ToManager, ToProxy,
};
use cluster::frame;
use serde::{Serialize, de::DeserializeOwned};

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("resplice-command-{}-{number}", std::process::id()));
        assert!(std::fs::create_dir(&dir).is_ok(), "{}", dir.display());
        Self(dir)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        assert!(std::fs::write(&path, text).is_ok());
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers one connection. The thread ends with it.
fn daemon(dir: &Dir, name: &str, serve: impl FnOnce(UnixStream) + Send + 'static) {
    let listener =
        UnixListener::bind(dir.0.join(format!("{name}.sock"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    thread::spawn(move || listener.accept().map(|(stream, _)| serve(stream)));
}

fn answering<Q: DeserializeOwned + PartialEq + 'static, A: Serialize + Send + 'static>(
    dir: &Dir,
    name: &str,
    question: fn() -> Q,
    answers: Vec<A>,
) {
    daemon(dir, name, move |mut stream| {
        if frame::read::<Q>(&mut stream).is_ok_and(|asked| asked == Some(question())) {
            for answer in &answers {
                let _ = frame::write(&mut stream, answer);
            }
        }
        let _ = stream.read(&mut [0]);
    });
}

fn resplice(args: &[&str]) -> (bool, String, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_resplice")).args(args).output();
    let Ok(Output { status, stdout, stderr }) = run else { panic!("cannot run resplice") };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.success(), text(stdout), text(stderr))
}

fn status(dir: &Dir, json: bool) -> (bool, String) {
    let run_dir = dir.0.display().to_string();
    let mut args = vec!["status", "--run-dir", &run_dir];
    args.extend(json.then_some("--json"));
    let (success, stdout, stderr) = resplice(&args);
    assert_eq!(stderr, "");
    (success, stdout)
}

fn parsed(dir: &Dir) -> (bool, serde_json::Value) {
    let (success, output) = status(dir, true);
    (success, serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}")))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn counters(name: &str, value: u64) -> std::collections::BTreeMap<String, u64> {
    [(name.to_owned(), value)].into()
}

fn proxy_status() -> ProxyStatus {
    let connection = ConnectionStatus {
        client: address("192.0.2.9:40000"),
        backend: Some(address("10.0.2.12:80")),
        state: "spliced-kernel".to_owned(),
        resplices: 1,
    };
    ProxyStatus {
        connections: vec![connection],
        total: 7,
        backends: vec![
            BackendStatus {
                name: Some("b1".to_owned()),
                address: address("10.0.2.11:80"),
                state: BackendState::Up,
                down: true,
                connections: 0,
            },
            BackendStatus {
                name: Some("b2".to_owned()),
                address: address("10.0.2.12:80"),
                state: BackendState::Drain,
                down: false,
                connections: 7,
            },
        ],
        counters: counters("syn", 12),
    }
}

fn manager_status() -> ManagerStatus {
    let record = RecoveryRecord {
        at_ms: 1_700_000_000_000,
        flow: Flow { client: address("192.0.2.9:40000"), backend: address("10.0.2.11:80") },
        alternate: Some(address("10.0.2.12:80")),
        evidence: Evidence::PrematureFin,
        noticed_us: 800,
        t_l: 2,
        p: 150_000_000,
        request: Some("GET /files/300m\x1b[31m".to_owned()),
        outcome: "re-spliced, 5840 bytes re-sent".to_owned(),
        ok: true,
        steps: vec![("fenced".to_owned(), 300), ("re-spliced".to_owned(), 4_200)],
    };
    ManagerStatus {
        recoveries: vec![record],
        proxy_connected: true,
        loggers: vec![("l1".to_owned(), false)],
        down: vec![address("10.0.2.11:80")],
        counters: counters("recoveries", 1),
    }
}

fn all_daemons(dir: &Dir) {
    let ended = FromProxy::Ended { id: 1, outcome: cluster::control::Outcome::Gone("x".to_owned()) };
    // What else a daemon says before its answer is passed over.
    answering(dir, "nfq-splice", || ToProxy::Status, vec![ended, FromProxy::Status(proxy_status())]);
    answering(dir, "recovery-manager", || ToManager::Status, vec![manager_status()]);
    let log = LogStatus {
        backends: vec![(address("10.0.2.11:80"), false)],
        health: vec![BackendHealth {
            address: address("10.0.2.11:80"),
            state: HealthState::Returning,
            since_ms: 5000,
            good: 1,
            needed: 6,
            flaps: 3,
            late: 0,
            margin: 2,
        }],
        counters: counters("transactions", 99),
    };
    answering(dir, "transactionalizer", || ToLog::Status, vec![FromLog::Status(log)]);
    answering(
        dir,
        "nfq-logger",
        || ToLogger::Status,
        vec![LoggerStatus { counters: counters("logged", 5), ..LoggerStatus::default() }],
    );
}

#[test]
fn status_shows_what_each_daemon_says() {
    let dir = Dir::new();
    all_daemons(&dir);
    let (success, output) = status(&dir, false);
    assert!(success, "{output}");
    for part in [
        "Connections: 7",
        "192.0.2.9:40000",
        "spliced-kernel",
        "… and 6 more",
        "GET /files/300m",
        "(T_L 2, p 150000000)",
        "premature FIN, noticed after 800 µs",
        "fenced 300 µs, re-spliced 4.2 ms",
        "backend 10.0.2.11:80 -> 10.0.2.12:80",
        "l1 NOT connected",
        "returning for 5.0 s, 1 of 6 good heartbeats, 3 recent failures, patience x2",
        "transactions",
        "b2    10.0.2.12:80  drain  7",
    ] {
        assert!(output.contains(part), "{part:?} is missing in\n{output}");
    }
    assert!(!output.contains('\x1b'), "a client's control character reached the terminal");
}

#[test]
fn status_as_json_is_one_object() {
    let dir = Dir::new();
    all_daemons(&dir);
    let (success, object) = parsed(&dir);
    assert!(success);
    assert_eq!(object["daemons"]["nfq-logger"]["state"], "running");
    assert_eq!(object["connections_total"], 7);
    assert_eq!(object["connections"][0]["backend"], "10.0.2.12:80");
    assert_eq!(object["connections"][0]["resplices"], 1);
    assert_eq!(object["backends"][0]["address"], "10.0.2.11:80");
    for daemon in ["nfq-splice", "transactionalizer", "recovery-manager"] {
        assert_eq!(object["backends"][0][daemon], false, "{daemon}");
    }
    assert_eq!(object["backends"][1]["transactionalizer"], serde_json::Value::Null);
    assert_eq!(object["backends"][1]["name"], "b2");
    assert_eq!(object["backends"][1]["state"], "drain");
    assert_eq!(object["backends"][1]["connections"], 7);
    assert_eq!(object["backends"][1]["serves"], false);
    assert_eq!(object["recoveries"][0]["p"], 150_000_000);
    assert_eq!(object["recoveries"][0]["evidence"], "premature FIN");
    assert_eq!(object["recoveries"][0]["steps"][1]["us"], 4200);
    assert_eq!(object["counters"]["transactionalizer"]["transactions"], 99);
}

#[test]
fn absent_daemons_are_not_running() {
    let dir = Dir::new();
    answering(&dir, "nfq-logger", || ToLogger::Status, vec![LoggerStatus::default()]);
    // A socket file that a killed daemon left behind.
    drop(UnixListener::bind(dir.0.join("nfq-splice.sock")));
    let (success, object) = parsed(&dir);
    assert!(success);
    assert_eq!(object["daemons"]["nfq-logger"]["state"], "running");
    for daemon in ["nfq-splice", "recovery-manager", "transactionalizer"] {
        assert_eq!(object["daemons"][daemon]["state"], "not running", "{daemon}");
    }
    assert_eq!(object["connections"], serde_json::Value::Null);
}

#[test]
fn without_any_daemon_status_fails_and_says_so() {
    let (success, output) = status(&Dir::new(), false);
    assert!(!success);
    assert_eq!(output.matches("not running").count(), 4, "{output}");
}

#[test]
fn daemons_that_do_not_answer_are_given_up_on() {
    let dir = Dir::new();
    daemon(&dir, "nfq-splice", |mut stream| {
        // One byte now and then does not extend the time.
        let _ = stream.write_all(&[0xff, 0xff, 0, 0]);
        while stream.write_all(&[1]).is_ok() {
            thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    daemon(&dir, "nfq-logger", |mut stream| drop(stream.write_all(&[0xff; 64])));
    daemon(&dir, "transactionalizer", drop);
    let began = std::time::Instant::now();
    let (success, object) = parsed(&dir);
    assert!(!success);
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    for daemon in ["nfq-splice", "nfq-logger", "transactionalizer"] {
        assert_eq!(object["daemons"][daemon]["state"], "no answer", "{object:#}");
        assert!(object["daemons"][daemon]["error"].is_string());
    }
}

fn good() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lib/cluster/tests/good.toml")
}

#[test]
fn config_check_summarises_a_right_file() {
    let (success, output, _) = resplice(&["config", "check", &good().display().to_string()]);
    assert!(success);
    for part in [
        "is right",
        "203.0.113.80:80",
        "GET or POST, Accept: image/…, X-Canary: yes, cookie session=beta -> pool images: \
         b2 (10.0.2.12:80), b3 (10.0.2.13:8080, weight 3, drain); by header X-User",
        "l1 (10.0.1.1:7070)",
    ] {
        assert!(output.contains(part), "{part:?} is missing in\n{output}");
    }
}

#[test]
fn config_check_lists_all_mistakes_of_a_wrong_one() {
    let dir = Dir::new();
    let text = std::fs::read_to_string(good())
        .unwrap_or_default()
        .replace("mss = 1400", "mms = 0")
        .replace("b3\"]", "b7\"]");
    let file = dir.file("bad.toml", &text).display().to_string();
    let (success, output, errors) = resplice(&["config", "check", &file]);
    assert!(!success);
    assert_eq!(output, "");
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "{errors}");
    assert!(
        lines[0].starts_with(&format!("{file}:37:19: pool.images.backends[1]: backend `b7`")),
        "{errors}"
    );
    assert!(lines[1].contains("splice.mms") && lines[1].contains("did you mean `mss`"), "{errors}");
}

#[test]
fn tag_explain_names_the_deciding_rule() {
    let config = good().display().to_string();
    let explain = |args: &[&str]| resplice(&[&["tag", "--config", &config, "--explain"], args].concat());
    let request = [
        "GET http://IMG.example.org:80/a.png?size=small&v=2",
        "--header=accept: img/x",
        "--header=X-Plain: 1",
        "--header=Cookie: kept=long",
    ];
    let answered = [&request[..], &["--status", "200", "--content-type", "image/png"]].concat();
    let (success, output, errors) = explain(&answered);
    assert!(success, "{errors}");
    assert!(output.contains("GET /a.png (host img.example.org)"), "{output}");
    let rule = "decided by tag[0]: method GET or HEAD, host img.example.org, path /**, path matching \\.png$, \
                parameter size = \"small\", parameter v beginning with \"2\", field Accept beginning with \"img/\", \
                field X-Plain = \"1\", cookie kept = \"long\", status 200 or 3xx, content type image/*\n";
    assert!(output.contains(rule), "{output}");
    assert!(output.contains("\ndeterministic, read-only, idempotent, large file\n"), "{output}");
    assert!(
        output.contains("fields that may differ: Date, Expires\napplication timeout at least 300 ms"),
        "{output}"
    );
    let (_, output, _) = explain(&request);
    assert!(
        output.contains("decided by tag[1], static-files[1]: method GET or HEAD, path matching"),
        "{output}"
    );
    assert!(
        output.contains("\ndeterministic, read-only, idempotent\ndepends on the response: tag[0]"),
        "{output}"
    );
    let (_, output, _) = explain(&[&answered[..], &["--json"]].concat());
    let object: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(object["tags"]["large_file"], true);
    assert_eq!((&object["rule"]["index"], &object["query"]), (&0.into(), &"size=small&v=2".into()));
    let (_, output, _) = explain(&["POST /a", "--host", "img.example.org"]);
    assert!(output.contains("conservative default\nnon-deterministic, update, non-idempotent"), "{output}");
    let (success, _, errors) = explain(&["nonsense"]);
    assert!(!success);
    assert!(errors.contains("write it like 'GET /path'"), "{errors}");
}

fn with_run_dir(dir: &Dir, args: &[&str]) -> (bool, String, String) {
    let run_dir = dir.0.display().to_string();
    resplice(&[args, &["--run-dir", &run_dir]].concat())
}

#[test]
fn reload_asks_each_daemon_that_runs() {
    let dir = Dir::new();
    answering(&dir, "nfq-logger", || ToLogger::Reload, vec![Done::Ok("in force".to_owned())]);
    let status = FromProxy::Wanted(Vec::new());
    let done = FromProxy::Done(Ok("in force, too".to_owned()));
    answering(&dir, "nfq-splice", || ToProxy::Reload, vec![status, done]);
    let (success, output, errors) = with_run_dir(&dir, &["reload"]);
    assert!(success, "{errors}");
    assert_eq!(output, "nfq-logger: in force\nnfq-splice: in force, too\n");
}

#[test]
fn after_a_refusal_no_further_daemon_is_asked() {
    let dir = Dir::new();
    answering(&dir, "nfq-logger", || ToLogger::Reload, vec![Done::Ok("in force".to_owned())]);
    answering(&dir, "transactionalizer", || ToLog::Reload, vec![FromLog::Done(Err("x is wrong".to_owned()))]);
    daemon(&dir, "nfq-splice", |_| panic!("it was asked"));
    let (success, output, errors) = with_run_dir(&dir, &["reload"]);
    assert!(!success);
    assert_eq!(
        (output.as_str(), errors.as_str()),
        ("", "nfq-logger: in force\ntransactionalizer: x is wrong\n")
    );
    let (success, _, errors) = with_run_dir(&Dir::new(), &["reload"]);
    assert!(!success && errors.contains("no daemon runs") && errors.contains("--run-dir"), "{errors}");
}

#[test]
fn a_backend_is_put_into_a_state() {
    let dir = Dir::new();
    let question = || ToProxy::Want { backend: "b1".to_owned(), state: BackendState::Maintenance };
    answering(&dir, "nfq-splice", question, vec![FromProxy::Done(Ok("b1: maintenance".to_owned()))]);
    let (success, output, errors) = with_run_dir(&dir, &["backend", "maintenance", "b1"]);
    assert!(success && output == "b1: maintenance\n", "{errors}");
    let dir = Dir::new();
    let question = || ToProxy::Want { backend: "b9".to_owned(), state: BackendState::Drain };
    answering(&dir, "nfq-splice", question, vec![FromProxy::Done(Err("there is no b9".to_owned()))]);
    let (success, output, errors) = with_run_dir(&dir, &["backend", "drain", "b9"]);
    assert!(!success && output.is_empty() && errors.contains("no b9"), "{errors}");
    let (success, _, errors) = with_run_dir(&Dir::new(), &["backend", "up", "b1"]);
    assert!(!success && errors.contains("does not run"), "{errors}");
    let (success, _, errors) = with_run_dir(&dir, &["backend", "off", "b1"]);
    assert!(!success && errors.contains("maintenance"), "{errors}");
}

#[test]
fn help_is_complete() {
    for args in [&["--help"][..], &["status", "--help"], &["config", "check", "--help"], &["tag", "--help"]] {
        let (success, output, _) = resplice(args);
        assert!(success && output.contains("Usage"), "{args:?}");
    }
}

#[test]
fn mismatches_show_both_sides_of_the_first_differing_byte() {
    let found = || Mismatches {
        kinds: counters("GET /user/*", 3),
        last: vec![Mismatch {
            at_ms: 1_700_000_000_000,
            flow: Flow { client: address("192.0.2.9:40000"), backend: address("10.0.2.11:80") },
            alternate: address("10.0.2.12:80"),
            request: "GET /user/17\x1b[31m".to_owned(),
            kind: "GET /user/*".to_owned(),
            position: 180,
            before: b"Set-Cookie: id=".to_vec(),
            logged: b"a1\r\n".to_vec(),
            sent: b"b2\r\n".to_vec(),
        }],
    };
    let dir = Dir::new();
    let run_dir = dir.0.display().to_string();
    answering(&dir, "recovery-manager", || ToManager::Mismatches, vec![found()]);
    let (success, output, _) = resplice(&["mismatches", "--run-dir", &run_dir]);
    assert!(success, "{output}");
    for part in [
        "GET /user/*  3",
        "backend 10.0.2.11:80 -> 10.0.2.12:80",
        "response byte 180",
        r#"sent to the client  "Set-Cookie: id=" > "a1\r\n""#,
        r#"from the alternate  "Set-Cookie: id=" > "b2\r\n""#,
    ] {
        assert!(output.contains(part), "{part:?} is missing in\n{output}");
    }
    assert!(!output.contains('\x1b'));
    let dir = Dir::new();
    let run_dir = dir.0.display().to_string();
    answering(&dir, "recovery-manager", || ToManager::Mismatches, vec![found()]);
    let (success, output, _) = resplice(&["mismatches", "--json", "--run-dir", &run_dir]);
    let parsed: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}"));
    assert!(success && parsed["kinds"]["GET /user/*"] == 3, "{output}");
    assert_eq!(parsed["mismatches"][0]["from_alternate"], "b2\\r\\n");
}

#[test]
fn mismatches_of_a_manager_that_does_not_run_say_what_to_do() {
    let dir = Dir::new();
    let (success, _, error) = resplice(&["mismatches", "--run-dir", &dir.0.display().to_string()]);
    assert!(!success && error.contains("run this on a proxy"), "{error}");
}
