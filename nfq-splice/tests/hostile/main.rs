//! What strangers and odd clients send before a connection is spliced, and what the proxy answers. Rows of a table of
//! hostile traffic: each test's name says what arrives.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod answers;
mod anything;
mod blind;
mod cookies;
mod handshake;
mod heads;
mod proxy;
mod stack;
mod strangers;
