//! How a logged segment reads: one line, in the style of tcpdump, or one JSON object.

use std::collections::HashMap;

use cluster::control::Flow;
use packet::{Flags as TcpFlags, Seq, TcpSegment};
use segment_log::{Flags, Record, Stats};
use serde::Serialize;
use serde_json::json;

/// Flows whose sequence numbers are shown relative to their beginning; those beyond are shown as they are.
const FLOWS: usize = 65_536;
const SECONDS_A_DAY: u64 = 86_400;

/// How lines read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Makes lines; remembers where each flow began.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    starts: HashMap<Flow, Starts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Starts {
    client: Option<Seq>,
    backend: Option<Seq>,
}

#[derive(Serialize)]
struct Line<'a> {
    number: u64,
    time_ns: u64,
    client: String,
    backend: String,
    from_backend: bool,
    tcp_flags: String,
    seq: u32,
    ack: Option<u32>,
    relative_seq: Option<u32>,
    window: u16,
    length: usize,
    log: Vec<&'a str>,
    hold: Option<u64>,
}

impl Printer {
    /// No flow seen yet.
    pub fn new(format: Format) -> Self {
        Self { format, starts: HashMap::new() }
    }

    /// The line of a record that was logged at `unix_ns`, nanoseconds since 1970.
    pub fn line(&mut self, record: &Record<'_>, unix_ns: u64) -> String {
        let Ok(segment) = TcpSegment::parse(record.payload()) else {
            return self.unreadable(record);
        };
        let from_backend = record.flags().contains(Flags::FROM_BACKEND);
        let (client, backend) = if from_backend {
            (segment.destination(), segment.source())
        } else {
            (segment.source(), segment.destination())
        };
        let starts = self.starts(Flow { client, backend }, &segment, from_backend);
        match self.format {
            Format::Text => text(record, &segment, starts, from_backend, unix_ns),
            Format::Json => {
                let start = if from_backend { starts.backend } else { starts.client };
                let line = Line {
                    number: record.number(),
                    time_ns: unix_ns,
                    client: client.to_string(),
                    backend: backend.to_string(),
                    from_backend,
                    tcp_flags: flag_letters(segment.flags()),
                    seq: segment.seq().0,
                    ack: segment.flags().ack().then(|| segment.ack().0),
                    relative_seq: start.map(|start| segment.seq().since(start) as u32),
                    window: segment.window(),
                    length: segment.payload().len(),
                    log: record.flags().names().collect(),
                    hold: Some(record.hold()).filter(|hold| *hold != 0),
                };
                serde_json::to_string(&line).unwrap_or_default()
            }
        }
    }

    fn starts(&mut self, flow: Flow, segment: &TcpSegment<'_>, from_backend: bool) -> Starts {
        if !self.starts.contains_key(&flow) && self.starts.len() >= FLOWS {
            return Starts::default();
        }
        let starts = self.starts.entry(flow).or_default();
        if segment.flags().syn() {
            let start = if from_backend { &mut starts.backend } else { &mut starts.client };
            *start = Some(segment.seq());
        }
        *starts
    }

    fn unreadable(&self, record: &Record<'_>) -> String {
        let (number, bytes) = (record.number(), record.payload().len());
        match self.format {
            Format::Text => format!("#{number} unreadable packet of {bytes} bytes"),
            Format::Json => json!({ "number": number, "unreadable_bytes": bytes }).to_string(),
        }
    }

    /// The line that stands for records the writer overwrote before they were read.
    pub fn lapped(&self, records: u64, bytes: u64) -> String {
        match self.format {
            Format::Text => format!(
                "-- {records} records with {bytes} payload bytes were overwritten before they were read"
            ),
            Format::Json => json!({ "lost_records": records, "lost_bytes": bytes }).to_string(),
        }
    }
}

fn text(
    record: &Record<'_>,
    segment: &TcpSegment<'_>,
    starts: Starts,
    from_backend: bool,
    unix_ns: u64,
) -> String {
    let (own, other) =
        if from_backend { (starts.backend, starts.client) } else { (starts.client, starts.backend) };
    let relative =
        |number: Seq, start: Option<Seq>| start.map_or(number.0, |start| number.since(start) as u32);
    let length = segment.payload().len();
    let seq = relative(segment.seq(), own);
    let data = if length > 0 { format!(":{}", seq.wrapping_add(length as u32)) } else { String::new() };
    let ack = if segment.flags().ack() {
        format!(", ack {}", relative(segment.ack(), other))
    } else {
        String::new()
    };
    let log: Vec<&str> = record.flags().names().filter(|name| *name != "from-backend").collect();
    let log = if log.is_empty() { String::new() } else { format!(" ({})", log.join(", ")) };
    format!(
        "{} {} > {}: Flags [{}], seq {seq}{data}{ack}, win {}, length {length}{log}",
        clock(unix_ns),
        segment.source(),
        segment.destination(),
        flag_letters(segment.flags()),
        segment.window(),
    )
}

/// As tcpdump writes them.
fn flag_letters(flags: TcpFlags) -> String {
    let letters = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::ACK, '.'),
        (TcpFlags::URG, 'U'),
    ];
    letters.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, letter)| *letter).collect()
}

/// Time of day, UTC, microseconds.
fn clock(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000 % SECONDS_A_DAY;
    let micros = unix_ns / 1000 % 1_000_000;
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How full a log is; `oldest_ns` is when its oldest record was logged, nanoseconds since 1970.
pub fn stats_text(stats: &Stats, oldest_ns: Option<u64>, format: Format) -> String {
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
        })
        .to_string(),
        Format::Text => format!(
            "writer   {} (number {} of this file)\n\
             ring     {} of {} bytes in use\n\
             records  {} to {}, the oldest of {}\n\
             logged   {} bytes of packets since the file was created",
            if stats.writer_alive { "running" } else { "not running" },
            stats.epoch,
            stats.used_bytes,
            stats.ring_bytes,
            stats.oldest.map_or("none".to_owned(), |number| number.to_string()),
            stats.newest,
            oldest_ns.map_or("-".to_owned(), clock),
            stats.payload_bytes,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_day_is_utc() {
        assert_eq!(clock(1_000_000_000_123_456_789), "01:46:40.123456");
    }

    #[test]
    fn flags_read_as_in_tcpdump() {
        assert_eq!(flag_letters(TcpFlags::SYN.union(TcpFlags::ACK)), "S.");
        assert_eq!(flag_letters(TcpFlags::FIN.union(TcpFlags::PSH).union(TcpFlags::ACK)), "FP.");
    }
}
