//! Another configuration while connections are there: new backends are watched, removed ones while they are used.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use cluster::config::Cluster;
use common::{CONFIG, World, addr, b1, b2, conn};

fn watched(world: &World) -> Vec<SocketAddr> {
    world.engine.status().backends.into_iter().map(|(backend, _)| backend).collect()
}

fn configuration(from: &str, to: &str) -> Cluster {
    assert!(CONFIG.contains(from));
    Cluster::parse(&CONFIG.replace(from, to), "test").unwrap()
}

#[test]
fn a_removed_backend_is_watched_until_a_reload_finds_it_unused() {
    let mut world = World::new();
    let other = configuration("10.0.3.1:8080", "10.0.3.9:8080");
    let new = addr("10.0.3.9:8080");
    world.open(conn(1000, b1()));
    world.engine.handle_reload(other.clone(), world.now);
    assert_eq!(watched(&world), [b1(), b2(), new]);
    // Its connection is still there.
    world.engine.handle_reload(other.clone(), world.now);
    assert_eq!(watched(&world), [b1(), b2(), new]);

    let mut world = World::new();
    // The proxies may still send to it.
    world.engine.handle_reload(other.clone(), world.now);
    assert_eq!(watched(&world), [b1(), b2(), new]);
    world.engine.handle_reload(other, world.now);
    assert_eq!(watched(&world), [b2(), new]);
    assert_eq!(world.engine.status().counters["connections"], 0);
}
