//! The proxy: accepts clients without a socket, routes, splices, un-splices, re-splices.

fn main() {}
