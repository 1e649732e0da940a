//! `cluster.toml`: refused with what is wrong and a remedy, or good for everything that is made from it.

use std::collections::BTreeSet;

use cluster::config::Cluster;
use cluster::tags::{Asked, TagRules};
use nfq_splice::Settings;

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Cluster::parse(text, "cluster.toml") {
        Ok(cluster) => serves(&cluster),
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused without a reason");
            assert!(error.to_string().contains("cluster.toml"), "the message does not name the file");
        }
    }
}

fn serves(cluster: &Cluster) {
    let known: BTreeSet<_> = cluster.backends.values().map(|backend| backend.address).collect();
    assert!(!known.is_empty());
    let settings = Settings::new(cluster);
    assert!(settings.routing.wanted().iter().all(|(backend, _)| known.contains(backend)));
    for path in ["/", "/a", "/files/../x", "*", ""] {
        let asked = Asked { method: "GET", host: Some("example.org"), path, query: Some(path), head: None };
        TagRules::new(&cluster.tags).decide(&asked, None);
    }
}
