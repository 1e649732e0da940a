//! Deterministic simulation: independent TCP stacks, networks that spoil packets, the kernel's part, checkers.

#![allow(missing_docs, reason = "a test harness, read with its source")]
#![allow(clippy::unwrap_used, reason = "what cannot be in a model is a bug of the test, and ends it")]

pub mod addresses;
pub mod apps;
pub mod checks;
pub mod content;
pub mod hosts;
pub mod kernel;
pub mod middlebox;
pub mod net;
pub mod rng;
pub mod windows;
