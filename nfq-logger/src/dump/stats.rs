//! How full a log is.

use segment_log::{SeenReader, Stats};
use serde_json::json;

use super::Format;
use super::line::clock;

/// How full a log is; `oldest_ns` is when its oldest record was logged, nanoseconds since 1970.
pub fn stats_text(stats: &Stats, readers: &[SeenReader], oldest_ns: Option<u64>, format: Format) -> String {
    match format {
        Format::Json => json!({
            "ring_bytes": stats.ring_bytes,
            "used_bytes": stats.used_bytes,
            "generation": stats.generation,
            "epoch": stats.epoch,
            "writer_alive": stats.writer_alive,
            "oldest_record": stats.oldest,
            "oldest_time_ns": oldest_ns,
            "newest_record": stats.newest,
            "payload_bytes": stats.payload_bytes,
            "readers": readers.iter().map(|reader| json!({
                "process": reader.process,
                "lag_bytes": reader.lag_bytes,
            })).collect::<Vec<_>>(),
        })
        .to_string(),
        Format::Text { .. } => format!(
            "writer   {} (number {} of this file)\n\
             ring     {} of {} bytes in use\n\
             records  {} to {}, the oldest of {}\n\
             logged   {} bytes of packets since the file was created{}",
            if stats.writer_alive { "running" } else { "not running" },
            stats.epoch,
            stats.used_bytes,
            stats.ring_bytes,
            stats.oldest.map_or("none".to_owned(), |number| number.to_string()),
            stats.newest,
            oldest_ns.map_or("-".to_owned(), clock),
            stats.payload_bytes,
            readers.iter().map(reader_line).collect::<String>(),
        ),
    }
}

fn reader_line(reader: &SeenReader) -> String {
    format!("\nreader   process {}, {} bytes behind", reader.process, reader.lag_bytes)
}
