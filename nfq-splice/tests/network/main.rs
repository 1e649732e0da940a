//! What the network makes of a connection: options, fields, both families, ICMP errors, fragments.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod batches;
mod ecn;
mod fields;
mod given_up;
mod holes;
mod icmp;
mod large;
mod life;
mod options;
mod orders;
mod promises;
mod refused;
mod replays;
mod swallowed;
mod take_in;
mod unheard;
mod uploads;
mod windows;
mod world;
mod young;
