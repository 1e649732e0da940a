//! Packets: header views, sequence arithmetic, options, checksums, building, rewriting. Pure: no clock, no sockets.

mod options;
pub use options::SynOptions;
