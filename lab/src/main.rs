//! All hosts of a cluster as network namespaces on one machine: demo, tests, benchmarks.

fn main() {}
