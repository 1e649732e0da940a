//! One file describes the whole cluster; every program reads the same file and finds its own part.
//!
//! Pure:
//! * [`config`]: `cluster.toml` as types; [`load`](config::Cluster::load) refuses with file, key and remedy.
//! * [`tags`]: what the rules say of a request; [`transaction`]: its name.
//! * [`control`]: the messages between the programs.
//! * [`frame`]: length-prefixed, bounded encoding of those messages for any byte stream.
//! * [`runtime`]: where a node's sockets and lock files are.
//!
//! Shell side, for the binaries:
//! * [`lock`]: each daemon runs once.
//! * [`server`], [`connection`]: nonblocking control sockets, between machines by way of [`tls`] with an [`identity`].

pub mod config;
pub mod connection;
pub mod control;
pub mod frame;
pub mod identity;
pub mod lock;
mod pattern;
pub mod runtime;
pub mod server;
pub mod tags;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod transaction;
