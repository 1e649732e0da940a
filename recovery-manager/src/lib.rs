//! Coordinates one recovery, from failure notice to re-splice (paper §4.2–4.3).
//!
//! Pure inside: [`plan`](plan()) computes what to do with one connection, [`Manager`] runs many of them.
//! Neither knows a socket or a clock. The binary feeds the manager what arrives (`handle_*`), carries out
//! what it asks for ([`Manager::poll_action`]) and wakes it at [`Manager::poll_timeout`].

mod equations;
mod manager;
mod plan;
mod range;
mod replay;
mod report;
mod story;

pub use equations::{AlternateState, logged_until, must_resend, t_r, t_sp};
pub use manager::{Action, Limits, LoggerId, Manager, Now};
pub use plan::{Plan, Refusal, Steps, plan};
pub use story::Story;
