//! All hosts of a cluster as network namespaces on one machine: demo, tests, benchmarks.
//!
//! A [`Lab`] is named; everything of it (namespaces, state directory, cluster) carries the name, so that
//! several can run side by side, and so that whatever a crash left can be found and removed.

#![allow(
    clippy::disallowed_methods,
    reason = "the lab is a shell: it owns namespaces, processes, sockets and a clock"
)]

pub mod accept_all;
pub mod bench;
pub mod chance;
pub mod cluster_file;
pub mod connections;
pub mod control;
pub mod daemons;
pub mod demo;
pub mod documents;
pub mod dump;
pub mod evidence;
pub mod faults;
pub mod fetch;
pub mod fronts;
pub mod http;
pub mod lab;
pub mod link;
pub mod netns;
pub mod network;
pub mod nginx;
pub mod operate;
pub mod owned;
pub mod php;
pub mod process;
pub mod settings;
pub mod testing;
pub mod topology;

pub use daemons::Daemon;
pub use faults::Fault;
pub use lab::Lab;
pub use topology::Node;
