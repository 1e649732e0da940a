//! Messages on a byte stream: a `u32` length (little endian), then that many bytes of postcard.
