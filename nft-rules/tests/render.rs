//! The rules as text, against golden files. `UPDATE_GOLDEN=1` rewrites them.

#![allow(clippy::disallowed_methods, reason = "golden files are files")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use netfilter::namespace::in_new;
use nft_rules::{Error, LoggerRules, ProxyRules, QueueForm, Ruleset};

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn proxy() -> ProxyRules {
    let backends = addresses(&["10.0.3.2:8080", "10.0.2.2:8080", "10.0.2.2:8080"]);
    ProxyRules::new("10.9.9.9:80".parse().unwrap(), backends, 100..102, 65_536).unwrap()
}

fn proxy6() -> ProxyRules {
    let backends = addresses(&["[fd00:2::2]:8080", "[fd00:3::2]:8080"]);
    ProxyRules::new("[fd00:9::9]:80".parse().unwrap(), backends, 100..102, 65_536).unwrap()
}

fn logger() -> LoggerRules {
    LoggerRules::new(addresses(&["10.0.2.2:8080", "10.0.3.2:8080"]), 10).unwrap()
}

fn logger6() -> LoggerRules {
    LoggerRules::new(addresses(&["[fd00:2::2]:8080"]), 10).unwrap()
}

#[test]
fn earlier_backends_stay_in_the_rules() {
    let earlier = addresses(&["10.0.9.9:8080", "10.0.3.2:8080"]);
    let rules = proxy().with_backends(earlier.clone()).unwrap();
    let listed = addresses(&["10.0.9.9:8080", "10.0.3.2:8080", "10.0.2.2:8080"]);
    let service = "10.9.9.9:80".parse().unwrap();
    assert_eq!(rules, ProxyRules::new(service, listed.clone(), 100..102, 65_536).unwrap());
    assert_eq!(logger().with_backends(earlier).unwrap(), LoggerRules::new(listed, 10).unwrap());
    let other = addresses(&["[fd00:2::2]:8080"]);
    assert!(matches!(proxy().with_backends(other.clone()), Err(Error::MixedFamilies(_))));
    assert!(matches!(logger().with_backends(other), Err(Error::MixedFamilies(_))));
}

fn all() -> [(&'static str, Box<dyn Ruleset>); 4] {
    [
        ("proxy", Box::new(proxy())),
        ("proxy6", Box::new(proxy6())),
        ("logger", Box::new(logger())),
        ("logger6", Box::new(logger6())),
    ]
}

#[test]
fn rules_read_as_in_the_golden_files() {
    for (name, rules) in all() {
        for form in [QueueForm::Native, QueueForm::Target] {
            let path = format!("{}/tests/golden/{name}.{}.nft", env!("CARGO_MANIFEST_DIR"), form.name());
            let text = rules.render(form);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, golden, "{path} differs; UPDATE_GOLDEN=1 rewrites it");
        }
    }
}

/// `nft -c` in an empty namespace: what nft says, or `None` if it accepts.
fn refused(file: &Path) -> Option<String> {
    let output = in_new(|| Command::new("nft").arg("-c").arg("-f").arg(file).output().unwrap()).unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nft_accepts_the_golden_files() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let native = in_new(netfilter::target::native_queue_available).unwrap().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for file in std::fs::read_dir(golden).unwrap() {
        let path = file.unwrap().path();
        match refused(&path) {
            None => {}
            // Syntax errors look different: nft reports them before it asks the kernel.
            Some(why) if !native && path.to_string_lossy().contains("native") => {
                assert!(why.contains("Could not process rule"), "{}: {why}", path.display());
                eprintln!("{}: only the syntax checked, the kernel has no queue expression", path.display());
            }
            Some(why) => panic!("{}: {why}", path.display()),
        }
    }
}

#[test]
fn mixed_families_and_no_backends_are_refused() {
    let service = "10.9.9.9:80".parse().unwrap();
    let mixed = addresses(&["10.0.2.2:80", "[fd00::2]:80"]);
    assert!(matches!(ProxyRules::new(service, mixed.clone(), 5..6, 1), Err(Error::MixedFamilies(_))));
    assert!(matches!(LoggerRules::new(mixed, 10), Err(Error::MixedFamilies(_))));
    assert!(matches!(ProxyRules::new(service, Vec::new(), 5..6, 1), Err(Error::NoBackends)));
    assert!(matches!(LoggerRules::new(Vec::new(), 10), Err(Error::NoBackends)));
}
