//! The program `nft-rules` as people and scripts use it.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output};

use netfilter::namespace::in_new;

const CLUSTER: &str = r#"
[cluster]
name = "test"
[service]
address = "10.9.9.9:80"
[[route]]
pool = "web"
[pool.web]
backends = ["b1", "b2"]
[backend.b1]
address = "10.0.2.2:80"
[backend.b2]
address = "10.0.3.2:80"
[proxy.p1]
address = "10.0.1.1"
[splice]
queues = 3
[logger.l1]
control = "10.0.1.2:7000"
"#;

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rt{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn nft_rules(file: &File, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nft-rules"));
    command.args(arguments.split_whitespace()).arg("--config").arg(&file.0).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[test]
fn the_verbs_do_what_they_say() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let file = File::new("verbs", CLUSTER);
    in_new(|| {
        for role in ["proxy", "logger"] {
            let run = |verb: &str| nft_rules(&file, &format!("{verb} --role {role} --json"));
            let json = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
            let before = run("check");
            assert_eq!((before.status.code(), &json(&before)["installed"]), (Some(1), &false.into()));
            for _ in 0..2 {
                let installed = run("install");
                assert!(installed.status.success(), "{}", text(&installed));
                assert!(["native", "target"].contains(&json(&installed)["form"].as_str().unwrap()));
            }
            let after = run("check");
            assert!(after.status.success(), "{}", text(&after));
            assert_eq!(json(&after)["ok"], true);
            assert_eq!(json(&run("remove"))["removed"], true);
            assert_eq!(json(&run("remove"))["removed"], false);
        }
    })
    .unwrap();
}

#[test]
fn print_names_the_form() {
    let file = File::new("print", CLUSTER);
    let native = text(&nft_rules(&file, "print --role proxy --form native --node p1"));
    assert!(native.starts_with("# table ip resplice_proxy, queues 100 to 102, native form\n"));
    assert!(native.contains("queue num 102\n"));
    let target = text(&nft_rules(&file, "print --role logger --form target"));
    assert!(target.starts_with("# table ip resplice_logger, queue 10, target form\n"));
    assert!(!target.contains("queue num"));
}

#[test]
fn mistakes_are_named() {
    let file = File::new("good", CLUSTER);
    let unknown = nft_rules(&file, "print --role proxy --form native --node p9");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown).contains("p9"), "{}", text(&unknown));
    let mixed = File::new("mixed", &CLUSTER.replace("10.0.3.2:80", "[fd00::2]:80"));
    let output = nft_rules(&mixed, "print --role proxy --form native");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("fd00::2"), "{}", text(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_nft-rules"));
    command.args(["install", "--role", "proxy", "--form", "target", "--config"]).arg(&file.0);
    let output = command.env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("install nftables"), "{}", text(&output));
}
