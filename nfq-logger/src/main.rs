//! The logger: every segment to shared memory before it passes.

fn main() {}
