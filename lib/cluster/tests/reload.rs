//! What a configuration may change while the daemons run, and what not.

use cluster::config::{Cluster, Problem};

const GOOD: &str = include_str!("good.toml");
const FILE: &str = "cluster.toml";

/// The good configuration with one piece of text replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} is not there exactly once");
    GOOD.replace(from, to)
}

#[test]
fn a_reload_changes_what_can_change() {
    let old = Cluster::parse(GOOD, FILE).unwrap();
    for (from, to) in [
        ("pool = \"web\"", "pool = \"images\""),
        ("[\"b1\", \"b2\"]", "[\"b1\", \"b2\", \"b3\"]"),
        ("10.0.2.11:80", "10.0.2.111:80"),
        ("[backend.b1]", "[backend.b9]\naddress = \"10.0.2.19:80\"\n[backend.b1]"),
        ("weight = 3", "weight = 4"),
        ("mss = 1400", "mss = 1300"),
        ("read_only = true", ""),
        ("history = 256", "history = 7"),
        ("heartbeat_ms = 1000", "heartbeat_ms = 900"),
    ] {
        let new = Cluster::parse(&with(from, to), FILE).unwrap();
        assert_ne!(old, new);
        assert_eq!(old.check_reload(&new, FILE), Ok(()), "{to}");
    }
}

#[test]
fn what_cannot_change_is_named() {
    let old = Cluster::parse(GOOD, FILE).unwrap();
    for (from, to, key, remedy) in [
        ("\"shop-1\"", "\"shop-2\"", "cluster.name", "put it back to \"shop-1\""),
        ("203.0.113.80:80", "203.0.113.81:80", "service.address", "put it back to \"203.0.113.80:80\""),
        ("\"10.0.1.2\"", "\"10.0.1.4\"", "proxy.p1.address", "put it back"),
        ("[proxy.p1]", "[proxy.p0]", "proxy.p0", "remove it"),
        ("[proxy.p1]", "[proxy.p0]", "proxy.p1", "put it back"),
        ("ring_bytes = 67108864", "", "logger.l1.ring_bytes", "put it back to 67108864"),
        ("connections = 1000", "connections = 1001", "splice.connections", "put it back to 1000"),
    ] {
        let new = Cluster::parse(&with(from, to), FILE).unwrap();
        let error = old.check_reload(&new, FILE).unwrap_err();
        let named = |p: &Problem| p.key == key && p.remedy.contains(remedy) && p.remedy.contains("restart");
        assert!(error.problems.iter().any(named), "{error}");
        assert_eq!(error.problems.len(), if to.contains("p0") { 2 } else { 1 }, "{error}");
        assert!(error.to_string().starts_with(FILE), "{error}");
    }
}
