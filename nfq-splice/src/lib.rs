//! The proxy's pure engine: accepts clients without a socket, routes, splices, un-splices and re-splices.
//!
//! Call order: [`Engine::handle_packet`], [`Engine::handle_order`] and the other `handle_*` with the present
//! time, then [`Engine::poll_action`] until it gives `None`; [`Engine::handle_timeout`] when
//! [`Engine::poll_timeout`] has passed. Actions must be executed in the order in which they come.
//!
//! A connection's life, with the module of each stage: `setup` (SYN to routed request) → `connect` (handshake with
//! the backend) → `splice` (translation) → `recovery` and `alternate` (the backend failed) → `splice` again.

mod action;
mod alternate;
mod answer;
mod answered;
mod batch;
mod body_hash;
mod bridge;
mod chunks;
mod client;
mod common;
mod compact;
mod connect;
mod cookie;
mod counters;
mod difference;
mod ecn;
mod engine;
mod entries;
mod flow;
mod give_up;
mod held;
mod icmp;
mod key;
mod learnt;
mod leg;
mod message_end;
mod orders;
mod parked;
mod pass;
mod passed;
mod pieces;
mod recovery;
mod replays;
mod resets;
pub mod routing;
mod secret;
pub mod sender;
mod setup;
mod share;
mod splice;
mod stateless;
mod supply;
mod surplus;
mod swallowed;
mod table;
pub mod take_in;
mod timers;
mod window;
mod young;

pub use action::{Action, Ended, EntryState, KernelSplice, Stage, Verdict};
pub use answered::Promise;
pub use batch::{Batch, Part};
pub use common::Settings;
pub use engine::Engine;
pub use parked::Parked;
pub use secret::Secret;
pub use setup::SETUP_WINDOW;
pub use share::merge;
pub use splice::{CLOSED_LINGER, HALF_CLOSED_IDLE};
