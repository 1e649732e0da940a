//! The logger (paper §3.1, §5): every segment to shared memory before it passes.
//!
//! [`Engine`] decides, without I/O and without a clock, what becomes of a queued packet: logged and let pass, logged and
//! held, or dropped. The daemon owns the queue, the segment log and the sockets, and does what the engine says.
//!
//! * A FIN or RST from a backend is held until the judge (the transactionalizer) says whether the response was complete.
//! * A fenced flow is dead for both directions until its client opens it anew, also for the next logger: fences are logged.
//! * Of a large file, once the transactionalizer says so, headers and a running hash are logged.
//! * [`dump`] shows what is logged.

mod counters;
pub mod dump;
mod engine;
mod fences;
mod flows;
mod held;
mod large;
mod sequence;

pub use counters::Counters;
pub use engine::{Arrival, Decision, Engine, Limits, Released};
pub use fences::fence_record;
