//! One file describes the whole cluster; every program reads the same file and finds its own part.
//!
//! * [`config`]: `cluster.toml` as types; [`load`](config::Cluster::load) refuses with file, key and remedy.
//! * [`control`]: the messages between the programs.
//! * [`frame`]: length-prefixed, bounded encoding of those messages for any byte stream.
//! * [`runtime`]: where a node's sockets and lock files are.

pub mod config;
pub mod control;
pub mod frame;
pub mod runtime;
