//! How a logged segment reads: one line, in the style of tcpdump, or one JSON object.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use anstyle::{AnsiColor, Style};
use cluster::control::Flow;
use packet::{Flags as TcpFlags, Seq, TcpSegment};
use segment_log::{Flags, Record};
use serde::Serialize;
use serde_json::json;

use super::Format;
use super::view::View;

/// Flows whose sequence numbers are shown relative to their beginning; those beyond are shown as they are.
const FLOWS: usize = 65_536;
const SECONDS_A_DAY: u64 = 86_400;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_bytes: Option<u32>,
    /// xxh3-128, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_hash: Option<String>,
    /// Sequence number at which the hash begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_hash_since: Option<u32>,
    log: Vec<&'a str>,
    hold: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<[u64; 2]>,
}

impl Printer {
    /// No flow seen yet.
    pub fn new(format: Format) -> Self {
        Self { format, starts: HashMap::new() }
    }

    /// Notes a record that is not shown: sequence numbers are shown relative to the handshake.
    pub fn skip(&mut self, view: &View<'_>) {
        if view.segment.flags().syn() {
            self.starts(view.flow(), &view.segment, view.from_backend());
        }
    }

    /// The line of a record.
    pub fn line(&mut self, view: &View<'_>) -> String {
        // A fence has no place among the sequence numbers.
        let starts = if view.is_fence() {
            Starts::default()
        } else {
            self.starts(view.flow(), &view.segment, view.from_backend())
        };
        match self.format {
            Format::Text { colour } => text(view, starts, colour),
            Format::Json => object(view, starts),
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

    /// The line of a record that holds no TCP packet.
    pub fn unreadable(&self, record: &Record<'_>) -> String {
        let (number, bytes) = (record.number(), record.payload().len());
        match self.format {
            Format::Text { .. } => format!("#{number} unreadable packet of {bytes} bytes"),
            Format::Json => json!({ "number": number, "unreadable_bytes": bytes }).to_string(),
        }
    }

    /// The line that stands for records the writer overwrote before they were read.
    pub fn lapped(&self, records: u64, bytes: u64) -> String {
        match self.format {
            Format::Text { .. } => format!(
                "-- {records} records with {bytes} payload bytes were overwritten before they were read"
            ),
            Format::Json => json!({ "lost_records": records, "lost_bytes": bytes }).to_string(),
        }
    }
}

fn object(view: &View<'_>, starts: Starts) -> String {
    let segment = &view.segment;
    let start = if view.from_backend() { starts.backend } else { starts.client };
    let line = Line {
        number: view.record.number(),
        time_ns: view.unix_ns,
        client: view.flow().client.to_string(),
        backend: view.flow().backend.to_string(),
        from_backend: view.from_backend(),
        tcp_flags: flag_letters(segment.flags()),
        seq: segment.seq().0,
        ack: segment.flags().ack().then(|| segment.ack().0),
        relative_seq: start.map(|start| segment.seq().since(start) as u32),
        window: segment.window(),
        length: view.length(),
        left_out_bytes: view.record.left_out().map(|left_out| left_out.bytes),
        left_out_hash: view.record.left_out().map(|left_out| format!("{:032x}", left_out.hash)),
        left_out_hash_since: view.record.left_out().map(|left_out| left_out.since),
        log: view.record.flags().names().collect(),
        hold: Some(view.record.hold()).filter(|hold| *hold != 0),
        transactions: view.transactions.as_ref().map(|ordinals| [*ordinals.start(), *ordinals.end()]),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

fn text(view: &View<'_>, starts: Starts, colour: bool) -> String {
    let segment = &view.segment;
    let (own, other) =
        if view.from_backend() { (starts.backend, starts.client) } else { (starts.client, starts.backend) };
    let relative =
        |number: Seq, start: Option<Seq>| start.map_or(number.0, |start| number.since(start) as u32);
    let length = view.length();
    let seq = relative(segment.seq(), own);
    let data = if length > 0 { format!(":{}", seq.wrapping_add(length as u32)) } else { String::new() };
    let ack = if segment.flags().ack() {
        format!(", ack {}", relative(segment.ack(), other))
    } else {
        String::new()
    };
    let style = if colour { style_of(view) } else { Style::new() };
    format!(
        "{} {style}{} > {}: Flags [{}]{style:#}, seq {seq}{data}{ack}, win {}, length {length}{}",
        clock(view.unix_ns),
        segment.source(),
        segment.destination(),
        flag_letters(segment.flags()),
        segment.window(),
        remarks(view),
    )
}

/// Ends stand out, then repetitions; the directions differ.
fn style_of(view: &View<'_>) -> Style {
    let flags = view.segment.flags();
    let noted = view.record.flags();
    let colour = if flags.rst() || flags.fin() {
        AnsiColor::Red
    } else if noted.contains(Flags::RETRANSMISSION) || noted.contains(Flags::OUT_OF_ORDER) {
        AnsiColor::Yellow
    } else if view.from_backend() {
        AnsiColor::Green
    } else {
        AnsiColor::Cyan
    };
    colour.on_default()
}

fn remarks(view: &View<'_>) -> String {
    let noted = view.record.flags().names().filter(|name| *name != "from-backend").map(str::to_owned);
    let said: Vec<String> = noted.chain(view.transactions.as_ref().map(ordinals)).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// How the transactions of a segment's bytes are written.
pub(super) fn ordinals(ordinals: &RangeInclusive<u64>) -> String {
    match (ordinals.start(), ordinals.end()) {
        (first, last) if first == last => format!("transaction {first}"),
        (first, last) => format!("transactions {first} to {last}"),
    }
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
pub(super) fn clock(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000 % SECONDS_A_DAY;
    let micros = unix_ns / 1000 % 1_000_000;
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
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
