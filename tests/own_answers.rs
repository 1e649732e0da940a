//! The proxy's own answers, as curl gets them; and set-ups that the daemon does not live to see finished.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, End, get_request};
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::{Daemon, Lab, Node, nginx::Nginx};
use rustix::process::Signal;

/// curl's status and head, of an answer that was complete and whose connection was closed cleanly.
fn answer(lab: &Lab, arguments: &[&str]) -> Result<(u16, String)> {
    let mut all = vec!["-D", "/dev/stdout", "-o", "/dev/null", "-sS", "--max-time", "20"];
    all.extend(arguments);
    let head = lab.on_client("curl", &all).with_context(|| format!("curl {arguments:?}"))?;
    let last = head.split("HTTP/1.1 ").last().unwrap_or_default().to_owned();
    let status = last.get(..3).unwrap_or_default().parse().with_context(|| head.clone())?;
    ensure!(
        last.contains("Connection: close\r\n")
            && last.contains("Content-Length: ")
            && last.contains(" GMT\r\n"),
        "{head}"
    );
    Ok((status, last))
}

fn routed() -> Settings {
    let set = vec![
        r#"route=[{path_prefix="/files/", pool="web"}]"#.into(),
        "splice.request_head_timeout_ms=1500".into(),
        "splice.request_head_bytes=8192".into(),
    ];
    Settings { set, ..Settings::default() }
}

#[test]
fn what_cannot_be_served_is_answered() -> Result<()> {
    in_lab(&routed(), |lab| {
        let (known, unknown) = (lab.url("/files/1k"), lab.url("/nowhere"));
        let long = lab.url(&format!("/files/{}", "x".repeat(9000)));
        let field = format!("X: {}", "y".repeat(9000));
        for (expected, arguments) in [
            (400, vec!["-H", "Host:", &known]),
            (400, vec!["-H", "Host: a b", &known]),
            (400, vec!["-H", "Content-Length: 5", "-H", "Transfer-Encoding: chunked", "-d", "hello", &known]),
            (400, vec!["-I", "-H", "Host:", &known]),
            (404, vec![&unknown]),
            (404, vec!["-I", &unknown]),
            (414, vec![&long]),
            (431, vec!["-H", &field, &known]),
            (501, vec!["-H", "Transfer-Encoding: gzip, chunked", "-d", "hello", &known]),
        ] {
            let (status, head) = answer(lab, &arguments)?;
            ensure!(status == expected, "{arguments:?}: {expected} expected, got {head}");
        }
        // An upload that nobody wants does not keep its client from reading the answer.
        let upload = ["-H", "Expect:", "-X", "POST", "-T", "/dev/stdin", &unknown].map(str::to_owned);
        let script = format!(
            "head -c 3000000 /dev/zero | curl -sS -o /dev/null -w '%{{http_code}}' {}",
            upload.join(" ")
        );
        let status = lab.on_client("sh", &["-c", &script])?;
        ensure!(status == "404", "an upload got {status}");
        slow_head_is_408(lab)
    })
}

fn slow_head_is_408(lab: &Lab) -> Result<()> {
    let mut slow = lab.open(Behaviour { patience: Duration::from_secs(15), ..Behaviour::default() })?;
    slow.send(b"GET /files/1k HTTP/1.1\r\nHo")?;
    let response = slow.receive(false, &mut |_| Ok(()))?;
    ensure!(response.status == 408 && response.end == End::Complete, "{response:?}");
    // With timestamps the fast path's program would conduct its handshake, and nobody would know of it.
    lab.on_client("sysctl", &["-qw", "net.ipv4.tcp_timestamps=0"])?;
    let mut silent = lab.open(Behaviour { patience: Duration::from_secs(15), ..Behaviour::default() })?;
    let response = silent.receive(false, &mut |_| Ok(()))?;
    ensure!(response.status == 0 && response.end == End::Closed, "closed, not reset: {response:?}");
    Ok(())
}

/// Backends that refuse: 502 until that is known, then 503 with a time to come back.
#[test]
fn no_backend_answers() -> Result<()> {
    in_lab(&routed(), |lab| {
        for node in Node::BACKENDS {
            Nginx::new(lab, node).kill()?;
        }
        let known = lab.url("/files/1k");
        let (mut statuses, mut seen) = (Vec::new(), String::new());
        await_condition("the failed backends are known", Duration::from_secs(15), || {
            let (status, head) = answer(lab, &[&known])?;
            statuses.push(status);
            seen = head;
            Ok(status == 503)
        })?;
        ensure!(statuses.iter().all(|status| [502, 503].contains(status)), "{statuses:?}");
        ensure!(seen.contains("Retry-After: "), "{seen}");
        Ok(())
    })
}

/// Connected, but the daemon dies before it has the request, or with it: the client's repetition is enough.
#[test]
fn a_set_up_survives_the_daemons_death() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let open = || lab.open(Behaviour { patience: Duration::from_secs(20), ..Behaviour::default() });
        let mut connections = (0..5).map(|_| open()).collect::<Result<Vec<_>>>()?;
        lab.stop_daemon(Daemon::NfqSplice, Signal::KILL)?;
        for connection in &mut connections {
            connection.send(&get_request("/files/64k"))?;
        }
        lab.start_daemon(Daemon::NfqSplice)?;
        for mut connection in connections {
            connection.receive(false, &mut |_| Ok(()))?.check("/files/64k")?;
        }
        Ok(())
    })
}
