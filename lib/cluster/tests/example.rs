//! The commented example is a configuration that every program takes, and what it calls defaults are the defaults.

#![allow(clippy::disallowed_methods, reason = "a test reads the example")]

use std::path::Path;

use cluster::config::{Cluster, Detector, Recovery, Splice};

#[test]
fn the_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let cluster = Cluster::parse(&text, "docs/cluster.toml").unwrap();
    // Again with every commented default switched on.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let spelt_out = Cluster::parse(&uncommented, "docs/cluster.toml, defaults spelt out").unwrap();
    assert_eq!(cluster, spelt_out);
    assert_eq!(cluster.splice, Splice::default());
    assert_eq!(cluster.detector, Detector::default());
    assert_eq!(cluster.recovery, Recovery::default());
}
