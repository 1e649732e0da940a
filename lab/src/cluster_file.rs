//! The lab's `cluster.toml`.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use cluster::config::{
    Backend, Balance, Cluster, Detector, Identity, Lines, Logger, Pool, PoolState, ProtocolName, Proxy,
    Records, Recovery, Route, Service, Splice, SplicePath, TagRule,
};

use crate::network::window_scale;
use crate::settings::{Path, Settings};
use crate::topology::{CONTROL_PORT, Node, PORT, SERVICE_PORT, VIP};

/// Size of the lab's segment logs, bytes: room for the whole window of every connection in the tests.
const RING_BYTES: u64 = 128 << 20;

/// The file's text for the lab `name` with the hosts' certificates in that directory.
pub fn text(name: &str, certificates: PathBuf, settings: &Settings) -> Result<String> {
    let mut value = toml::Value::try_from(cluster(name, certificates, settings))?;
    for setting in &settings.set {
        set(&mut value, setting).with_context(|| format!("--set {setting}"))?;
    }
    let text = toml::to_string(&value)?;
    toml::from_str::<Cluster>(&text).context("the --set options do not make a valid cluster.toml")?;
    Ok(text)
}

fn cluster(name: &str, certificates: PathBuf, settings: &Settings) -> Cluster {
    let address = |node: Node, port| SocketAddr::new(settings.address(node.address()), port);
    let control = SocketAddr::new(IpAddr::V4(Node::Logger.address()), CONTROL_PORT);
    let backends = settings.backends();
    let names = backends.iter().map(|node| node.name().to_owned()).collect();
    let backend = |node: Node| (node.name().to_owned(), Backend::new(address(node, SERVICE_PORT)));
    let pool =
        Pool { backends: names, balance: Balance::default(), balance_on: None, state: PoolState::default() };
    let logger = Logger { control, ring_bytes: RING_BYTES };
    let default = Splice::default();
    let path = match settings.path {
        Path::Kernel => SplicePath::Kernel,
        Path::Userspace => SplicePath::Userspace,
    };
    Cluster {
        cluster: Identity { name: name.to_owned(), certificates },
        service: Service {
            address: SocketAddr::new(settings.address(VIP), PORT),
            protocol: ProtocolName::default(),
            lines: Lines::default(),
            records: Records::default(),
        },
        routes: vec![Route { pool: "web".to_owned(), ..Route::default() }],
        pools: BTreeMap::from([("web".to_owned(), pool)]),
        backends: backends.into_iter().map(backend).collect(),
        proxies: BTreeMap::from([("proxy".to_owned(), Proxy { address: IpAddr::V4(Node::Proxy.address()) })]),
        loggers: BTreeMap::from([("logger".to_owned(), logger)]),
        splice: Splice { path, window_scale: window_scale().unwrap_or(default.window_scale), ..default },
        // Failures on purpose, one after the other: what has been healed is used again soon, also the tenth time.
        detector: Detector { heartbeat_successes: 1, heartbeat_successes_most: 1, ..Detector::default() },
        recovery: Recovery::default(),
        tags: vec![reads(), stores()],
    }
}

/// Reading documents and pages is deterministic and changes nothing. POST keeps the default.
fn reads() -> TagRule {
    TagRule {
        method: Some(vec!["GET".to_owned(), "HEAD".to_owned()]),
        deterministic: true,
        read_only: true,
        idempotent: true,
        ..TagRule::default()
    }
}

/// Storing the same thing again changes nothing.
fn stores() -> TagRule {
    TagRule { method: Some(vec!["PUT".to_owned()]), read_only: false, ..reads() }
}

/// Applies `a.b.c=VALUE`, the value in TOML.
fn set(root: &mut toml::Value, setting: &str) -> Result<()> {
    let (key, value) = setting.split_once('=').context("write KEY=VALUE, like detector.probe_after_ms=50")?;
    let parsed: toml::Table = toml::from_str(&format!("value = {value}")).context("the value is not TOML")?;
    let value = parsed.get("value").context("the value is not TOML")?.clone();
    let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
    let mut place = root;
    for part in parents.iter().flat_map(|parents| parents.split('.')) {
        let table = place.as_table_mut().with_context(|| format!("{part} is not in a table"))?;
        place = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    }
    place.as_table_mut().context("not a table")?.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_reads_back_with_its_overrides() {
        let settings = Settings {
            path: Path::Userspace,
            set: vec!["detector.probe_after_ms=50".into(), "splice.mss=1400".into()],
            ..Settings::default()
        };
        let read: Cluster = toml::from_str(&text("x", "/c".into(), &settings).unwrap()).unwrap();
        assert_eq!(read.detector.probe_after_ms, 50);
        assert_eq!(read.splice.mss, 1400);
        assert_eq!(read.splice.path, SplicePath::Userspace);
        assert_eq!(read.backends["b2"].address, "10.77.4.2:8080".parse().unwrap());
    }

    #[test]
    fn a_misspelt_override_is_refused() {
        let settings = Settings { set: vec!["detector.prob_after_ms=50".into()], ..Settings::default() };
        assert!(text("x", "/c".into(), &settings).is_err());
    }
}
