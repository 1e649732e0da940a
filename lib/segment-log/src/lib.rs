//! The shared-memory segment log: layout, writer, reader.
