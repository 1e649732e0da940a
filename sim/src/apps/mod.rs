//! What runs on the hosts: a web server on each backend, clients that check every byte.

mod checker;
mod client;
mod server;

pub use client::{Client, Ending, Habits, Phase};
pub use server::{Server, Worker};
