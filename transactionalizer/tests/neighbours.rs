//! What the kernel says of neighbours and links is looked into at once.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;

use cluster::config::BackendState;
use cluster::control::Evidence;
use common::{World, b1, b2, conn, dead, lives};
use transactionalizer::detector::neighbours::Lost;
use transactionalizer::detector::probing::Answer;

/// One connection of b1 on which nothing is owed, long before its next heartbeat.
fn idle() -> World {
    let mut world = World::new();
    world.open(conn(5000, b1()));
    world.run(10, lives);
    world
}

fn neighbour(address: IpAddr) -> Lost {
    Lost::Neighbour(address)
}

#[test]
fn a_backend_that_is_no_neighbour_any_more_is_down_within_milliseconds() {
    let mut world = idle();
    world.engine.handle_lost(neighbour(b1().ip()), world.now);
    world.run(18, dead);
    let failures = world.failures();
    assert_eq!((failures.len(), failures[0].backend, failures[0].backend_down), (1, b1(), true));
    assert_eq!((failures[0].evidence, failures[0].connections.len()), (Evidence::HostSilent, 1));
    assert_eq!(world.engine.down(), [b1()], "b2 is a neighbour still");
}

/// Whatever the kernel has lost, an answer of the host counts for more.
#[test]
fn a_host_that_answers_is_not_lost() {
    let mut world = idle();
    for _ in 0..50 {
        for lost in [neighbour(b1().ip()), neighbour("10.0.3.99".parse().unwrap()), Lost::Link] {
            world.engine.handle_lost(lost, world.now);
        }
        world.run(10, lives);
    }
    assert_eq!(world.actions, []);
    assert_eq!(world.counter("lost_neighbours"), 150);
    let probes = world.counter("probes");
    assert!(probes <= 20, "{probes} probes: they must become rare");
}

/// A gateway, or a cable: every backend may be behind it.
#[test]
fn behind_a_lost_link_those_that_do_not_answer_are_down() {
    for lost in [neighbour("10.0.3.99".parse().unwrap()), Lost::Link] {
        let mut world = idle();
        world.b2_lives = false;
        world.engine.handle_lost(lost, world.now);
        world.run(55, dead);
        assert!(world.engine.down().is_empty(), "each answer may take as long as ever");
        world.run(8, dead);
        assert_eq!(world.engine.down(), [b1(), b2()]);
    }
}

#[test]
fn what_the_network_calls_unreachable_then_is_given_up_sooner() {
    let mut world = idle();
    world.engine.handle_lost(Lost::Link, world.now);
    world.run(18, |_| Some(Answer::Unreachable));
    assert_eq!(world.failures()[0].evidence, Evidence::Unreachable);
}

#[test]
fn a_backend_in_maintenance_is_let_alone() {
    let mut world = idle();
    world.engine.handle_wanted(&[(b1(), BackendState::Maintenance)], world.now);
    world.engine.handle_lost(neighbour(b1().ip()), world.now);
    world.run(100, dead);
    assert_eq!(world.actions, []);
}
