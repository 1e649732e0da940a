//! Adaptive failure detection (paper §3.5, design §5).
//!
//! * [`average`]: moving averages and the timeout they give.
//! * [`kinds`]: what is expected of each kind of request.
//! * [`probing`]: one question to a backend's host, asked until it is answered.
//! * [`backend`]: a backend's state: silence, second opinions, heartbeat.
//! * [`limits`]: the durations that are configured.
//! * [`finding`]: what is found out about a backend.
//! * `application`: whether an application that is late answers a check.
//! * [`hysteresis`]: how a failed backend comes back, and one that flaps does not.
//! * [`margin`]: patience learnt from suspicions that were wrong.
//! * [`neighbours`]: what the kernel says of neighbours and links.
//! * [`worst`]: what was worst of late.

mod application;
pub mod average;
pub mod backend;
pub mod finding;
pub mod hysteresis;
pub mod kinds;
pub mod limits;
pub mod margin;
pub mod neighbours;
pub mod probing;
pub mod worst;

pub use average::MovingAverage;
pub use kinds::{KindId, Kinds};
