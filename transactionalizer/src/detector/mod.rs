//! Adaptive failure detection (paper §3.5, design §5).
//!
//! * [`average`]: moving averages and the timeout they give.
//! * [`kinds`]: what is expected of each kind of request.
//! * [`probing`]: one question to a backend's host, asked until it is answered.
//! * [`backend`]: a backend's state: silence, second opinions, heartbeat.

pub mod average;
pub mod backend;
pub mod kinds;
pub mod probing;

pub use average::MovingAverage;
pub use kinds::{KindId, Kinds};
