//! The operator changes routes, drains a backend under load, takes one out and puts it back: no request fails, and no
//! connection is touched. A wrong configuration changes nothing.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::config::BackendState;
use lab::daemons::binary;
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::{Daemon, Fault, Lab, Node};
use rustix::process::Signal;

const B1: &str = "[backend.b1]\naddress = \"10.77.3.2:8080\"\n";
const B2: &str = "[backend.b2]\naddress = \"10.77.4.2:8080\"\n";
const BOTH: &str = "[[route]]\npool = \"web\"\n[pool.web]\nbackends = [\"b1\", \"b2\"]\n";
const ONLY_B1: &str = "[[route]]\npool = \"web\"\n[pool.web]\nbackends = [\"b1\"]\n";
const ONLY_B2: &str = "[[route]]\npool = \"web\"\n[pool.web]\nbackends = [\"b2\"]\n";
const ROUTES: &str = r#"
[[route]]
method = ["PUT"]
pool = "second"
[[route]]
pool = "second"
[[route.header]]
name = "X-Release"
prefix = "next"
[[route]]
pool = "second"
[[route.cookie]]
name = "tester"
[[route]]
host = "*.example.com"
pool = "second"
[[route]]
pool = "first"
[pool.first]
backends = ["b1"]
[pool.second]
backends = ["b2"]
"#;

/// Writes the lab's configuration with other routes, pools and backends.
fn write(lab: &Lab, parts: &[&str]) -> Result<()> {
    let mut file: toml::Table = toml::from_str(&fs::read_to_string(lab.cluster_file())?)?;
    let new: toml::Table = toml::from_str(&parts.concat())?;
    file.retain(|key, _| !["route", "pool", "backend"].contains(&key));
    file.extend(new);
    fs::write(lab.cluster_file(), toml::to_string(&file)?).context("writing cluster.toml")
}

/// `resplice` on a node: whether it went well, and what it said.
fn resplice(lab: &Lab, node: Node, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(binary("resplice")?);
    command.args(arguments).arg("--run-dir").arg(lab.run_dir(node));
    let output = lab.netns(node).output(&mut command)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn reload(lab: &Lab) -> Result<()> {
    for node in [Node::Logger, Node::Proxy] {
        let (good, said) = resplice(lab, node, &["reload"])?;
        ensure!(good, "{node}: {said}");
    }
    Ok(())
}

fn backend(lab: &Lab, state: &str, name: &str) -> Result<()> {
    let (good, said) = resplice(lab, Node::Proxy, &["backend", state, name])?;
    ensure!(good && said == format!("{name}: {state}\n"), "{said}");
    Ok(())
}

/// Which web server answers a new connection.
fn who(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let url = lab.url("/whoami");
    Ok(lab.on_client("curl", &[&["-fsS", "-m", "10", &url], arguments].concat())?.trim().to_owned())
}

fn serves(lab: &Lab, expected: &str, arguments: &[&str]) -> Result<()> {
    for _ in 0..3 {
        let served = who(lab, arguments)?;
        ensure!(served == expected, "{arguments:?} was answered by {served}, not {expected}");
    }
    Ok(())
}

fn routes_decide(lab: &Lab) -> Result<()> {
    write(lab, &[ROUTES, B1, B2])?;
    reload(lab)?;
    serves(lab, "b1", &[])?;
    serves(lab, "b2", &["-X", "PUT"])?;
    serves(lab, "b2", &["-H", "X-Release: next-1"])?;
    serves(lab, "b1", &["-H", "X-Release: now"])?;
    serves(lab, "b2", &["-b", "a=1; tester=yes"])?;
    serves(lab, "b1", &["-b", "testers=yes"])?;
    serves(lab, "b2", &["-H", "Host: a.example.com"])
}

fn a_wrong_configuration_changes_nothing(lab: &Lab) -> Result<()> {
    let good = fs::read_to_string(lab.cluster_file())?;
    let file = lab.cluster_file().display().to_string();
    for (from, to, words) in [
        ("\"b1\"]", "\"b7\"]", ["pool.first.backends[0]", "add [backend.b7]"]),
        ("10.77.0.1:80", "10.77.0.9:80", ["service.address", "put it back to \"10.77.0.1:80\""]),
        ("[cluster]", "[cluster", ["not TOML", "correct the line"]),
    ] {
        ensure!(good.contains(from), "{from} is not in\n{good}");
        fs::write(lab.cluster_file(), good.replacen(from, to, 1))?;
        for (node, daemon) in [(Node::Logger, Daemon::NfqLogger), (Node::Proxy, Daemon::RecoveryManager)] {
            let (went_well, said) = resplice(lab, node, &["reload"])?;
            ensure!(!went_well, "{to} was accepted: {said}");
            let log = lab.log_tail(daemon, 5);
            for word in
                [file.as_str(), words[0], words[1], "the old configuration stays in force", daemon.name()]
            {
                ensure!(said.contains(word), "{word} is not in what was said: {said}");
            }
            ensure!(log.contains(words[0]) && log.contains("old one stays"), "{}: {log}", daemon.name());
        }
        hang_up(lab, words[0])?;
        serves(lab, "b1", &[])?;
    }
    fs::write(lab.cluster_file(), good)?;
    hang_up(lab, "is in force")
}

/// SIGHUP to the splice daemon does what `resplice reload` does.
fn hang_up(lab: &Lab, word: &str) -> Result<()> {
    let log = || fs::read_to_string(lab.log(Daemon::NfqSplice.name())).unwrap_or_default();
    let before = log().len();
    lab.daemon(Daemon::NfqSplice).context("nfq-splice does not run")?.signal(Signal::HUP);
    await_condition("SIGHUP heard", Duration::from_secs(10), || {
        Ok(log().get(before..).is_some_and(|new| new.contains(word)))
    })
}

fn draining_under_load_fails_no_request(lab: &Lab) -> Result<()> {
    write(lab, &[BOTH, B1, B2])?;
    reload(lab)?;
    let mut kept = lab.curl(&["-H", "X-Kept: 1", "--limit-rate", "100M", &lab.url("/files/300m")])?;
    kept.read_to(1_000_000)?;
    let serving = lab.serving_any()?;
    let (drained, other) = if serving == Node::B1 { ("b1", "b2") } else { ("b2", "b1") };
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c8", "-d2s", "--timeout", "5s", "-H", "Connection: close", &lab.url("/files/1k")]);
    let wrk = lab.netns(Node::Client).spawn(wrk.stdout(Stdio::piped()))?;
    std::thread::sleep(Duration::from_millis(500));
    backend(lab, "drain", drained)?;
    serves(lab, other, &[])?;
    // It has nothing left but the connection that it had before.
    await_condition("the drained backend is quiet", Duration::from_secs(5), || {
        Ok(lab.connections(serving)?.len() <= 1)
    })?;
    let said = wrk.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stdout);
    ensure!(said.contains("requests in") && !said.contains("errors") && !said.contains("Non-2xx"), "{said}");
    let (_, status) = resplice(lab, Node::Proxy, &["status"])?;
    ensure!(status.lines().any(|line| line.contains(drained) && line.contains("drain")), "{status}");
    // What the operator said outlives the daemon, and the connection does too.
    lab.stop_daemon(Daemon::NfqSplice, Signal::KILL)?;
    lab.start_daemon(Daemon::NfqSplice)?;
    serves(lab, other, &[])?;
    kept.finish()?.check("/files/300m")?;
    let (good, said) = resplice(lab, Node::Proxy, &["backend", "drain", "b9"])?;
    ensure!(!good && said.contains("b9") && said.contains("b1, b2"), "{said}");
    backend(lab, "maintenance", other)?;
    let answer = lab.on_client("curl", &["-sS", "-m", "10", &lab.url("/whoami")])?;
    ensure!(answer.contains("503") && answer.contains("drained"), "{answer}");
    let status = lab.proxy_status()?;
    ensure!(status.counters.get("pool_web_503_drained") == Some(&1), "{:?}", status.counters);
    ensure!(status.backends.iter().all(|backend| backend.state != BackendState::Up));
    backend(lab, "up", "b1")?;
    backend(lab, "up", "b2")
}

fn rules(lab: &Lab) -> Result<String> {
    lab.netns(Node::Proxy).run(Command::new("nft").args(["list", "table", "ip", "resplice_proxy"]))
}

fn a_backend_is_taken_out_and_put_back(lab: &Lab) -> Result<()> {
    write(lab, &[ONLY_B1, B1, B2])?;
    reload(lab)?;
    let mut kept = lab.curl(&[&lab.url("/files/300m")])?;
    kept.read_to(1_000_000)?;
    write(lab, &[ONLY_B2, B2])?;
    reload(lab)?;
    reload(lab)?;
    serves(lab, "b2", &[])?;
    let (_, status) = resplice(lab, Node::Proxy, &["status"])?;
    ensure!(status.contains("(removed)") && status.contains("10.77.3.2:8080"), "{status}");
    // A daemon that never knew the removed backend leaves its connection alone, too.
    lab.stop_daemon(Daemon::NfqSplice, Signal::KILL)?;
    lab.start_daemon(Daemon::NfqSplice)?;
    kept.finish()?.check("/files/300m").context("a connection to a removed backend")?;
    // As if its time in TIME-WAIT had passed.
    lab.netns(Node::Proxy).run(Command::new("conntrack").arg("-F"))?;
    await_condition("the connection is over", Duration::from_secs(5), || Ok(lab.proxy_status()?.total == 0))?;
    reload(lab)?;
    reload(lab)?;
    ensure!(!rules(lab)?.contains("10.77.3.2"), "b1 is still in the rules:\n{}", rules(lab)?);
    write(lab, &[ONLY_B1, B1, B2])?;
    reload(lab)?;
    serves(lab, "b1", &[])?;
    write(lab, &[BOTH, B1, B2])?;
    reload(lab)?;
    // And the logger, its reader and the manager know it again: its connections are recovered.
    backend(lab, "drain", "b2")?;
    let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
    curl.read_to(1_000_000)?;
    lab.fail(Node::B1, Fault::Kill)?;
    curl.finish()?.check("/files/300m").context("a failure of the backend that was put back")
}

#[test]
fn the_operator_changes_routing() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        routes_decide(lab).context("routes")?;
        a_wrong_configuration_changes_nothing(lab).context("a wrong configuration")?;
        draining_under_load_fails_no_request(lab).context("drain")?;
        a_backend_is_taken_out_and_put_back(lab).context("out and back")
    })
}
