//! The bodies of the fuzz targets. Each takes arbitrary bytes and panics where something that must always hold does not:
//! libFuzzer runs them through `fuzz/fuzz_targets`, the tests on the committed corpus (`tests/replay.rs`), the same code.
//!
//! [`TARGETS`] lists them. An input that once showed a bug stays in `fuzz/corpus/TARGET/`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target reports by panicking")]

mod config;
mod control;
mod engine;
mod icmp;
mod input;
mod netlink;
mod options;
mod packet;
mod reassembly;
mod request;
mod response;
mod segment_log;

pub use input::Input;

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("config", config::run),
    ("control", control::run),
    ("engine", engine::run),
    ("icmp", icmp::run),
    ("netlink", netlink::run),
    ("options", options::run),
    ("packet", packet::run),
    ("reassembly", reassembly::run),
    ("request", request::run),
    ("response", response::run),
    ("segment_log", segment_log::run),
];

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    body(bytes);
}
