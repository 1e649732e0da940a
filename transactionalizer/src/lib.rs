//! Streams to transactions, tags, failure detection (paper §3.1, §3.5, §4.2).
//!
//! Pure: log records, probe answers, manager messages and the time come in, [`engine::Action`]s come out.
//!
//! * [`engine`]: all connections and backends; judges, detects, reports.
//! * [`connection`]: one connection; [`direction`], [`request`], [`response`], [`spans`], [`transactions`] are its parts.
//! * [`kept`]: what all of them keep in memory, and its bound.
//! * [`protocol`]: how its streams fall into requests and responses.
//! * [`judge`]: what a backend's FIN or RST means.
//! * [`detector`]: moving averages, probes, a backend's state.

mod body;
pub mod connection;
mod content;
pub mod detector;
pub mod direction;
mod endpoint;
pub mod engine;
pub mod judge;
pub mod kept;
pub mod protocol;
pub mod request;
pub mod response;
pub mod spans;
pub mod transactions;
