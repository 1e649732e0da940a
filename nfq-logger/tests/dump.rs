//! `nfq-logger dump` on a copied log: filters, formats, streams, captures.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test of a program owns files and processes, and fails by panicking"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use packet::{Flags as TcpFlags, SegmentBuilder, Seq, SynOptions};
use segment_log::{Flags, LeftOut, RecordMeta, Writer};
use serde_json::Value;

const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 7], 4711);
const OTHER: ([u8; 4], u16) = ([10, 0, 9, 8], 4712);
const BACKEND: ([u8; 4], u16) = ([10, 0, 1, 1], 8080);
const FIRST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const SECOND: &[u8] = b"HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const HEAD_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
const LARGE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
const SECOND_NS: u64 = 1_000_000_000;

/// A log in a file of its own, removed afterwards.
struct Log {
    path: PathBuf,
    writer: Option<Writer>,
    time_ns: u64,
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Log {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/dump-test-{}-{name}", std::process::id()));
        let writer = Some(Writer::open(&path, 1 << 20).unwrap());
        Self { path, writer, time_ns: 0 }
    }

    fn append(&mut self, packet: &SegmentBuilder<'_>, flags: Flags) {
        self.time_ns += SECOND_NS;
        let from_backend = packet.source == BACKEND.into();
        let flags = flags.with(Flags::FROM_BACKEND, from_backend);
        let hold = if flags.contains(Flags::HELD) { 3 } else { 0 };
        let meta = RecordMeta { time_ns: self.time_ns, flags, hold };
        self.writer.as_mut().unwrap().append(meta, &packet.build()).unwrap();
    }

    fn client(&mut self, client: ([u8; 4], u16), seq: u32, flags: TcpFlags, payload: &[u8]) {
        let bare = SegmentBuilder::new(client.into(), BACKEND.into());
        let ack = (!flags.syn()).then_some(Seq(501));
        let syn = flags.syn().then(SynOptions::default);
        self.append(
            &SegmentBuilder { seq: Seq(seq), ack, flags, payload, syn, window: 1000, ..bare },
            Flags::EMPTY,
        );
    }

    fn backend(&mut self, client: ([u8; 4], u16), seq: u32, flags: (TcpFlags, Flags), payload: &[u8]) {
        let bare = SegmentBuilder::new(BACKEND.into(), client.into());
        let ack = Some(Seq(101));
        let packet = SegmentBuilder { seq: Seq(seq), ack, flags: flags.0, payload, window: 1000, ..bare };
        self.append(&packet, flags.1);
    }

    /// A response of 1000 body bytes of which the middle 600 were left out, and the next one.
    fn large(name: &str) -> Self {
        let plain = (TcpFlags(0), Flags::EMPTY);
        let mut log = Self::new(name);
        log.client(CLIENT, 100, TcpFlags::SYN, b"");
        log.backend(CLIENT, 500, (TcpFlags::SYN, Flags::EMPTY), b"");
        log.client(CLIENT, 101, TcpFlags::PSH, FIRST);
        log.backend(CLIENT, 501, plain, &[LARGE_HEAD, &[1; 200]].concat());
        let at = 501 + LARGE_HEAD.len() as u32 + 200;
        log.backend_left_out(CLIENT, at, 600);
        log.backend(CLIENT, at + 600, plain, &[3; 200]);
        log.client(CLIENT, 101 + FIRST.len() as u32, TcpFlags::PSH, FIRST);
        log.backend(CLIENT, at + 800, plain, ANSWER);
        log.writer = None;
        log
    }

    fn backend_left_out(&mut self, client: ([u8; 4], u16), seq: u32, length: usize) {
        let payload = vec![2; length];
        let bare = SegmentBuilder::new(BACKEND.into(), client.into());
        let packet =
            SegmentBuilder { seq: Seq(seq), ack: Some(Seq(101)), payload: &payload, window: 1000, ..bare }
                .build();
        self.time_ns += SECOND_NS;
        let meta = RecordMeta { time_ns: self.time_ns, flags: Flags::FROM_BACKEND, hold: 0 };
        let writer = self.writer.as_mut().unwrap();
        writer.reserve(packet.len()).unwrap().copy_from_slice(&packet);
        let left_out = LeftOut { bytes: length as u32, since: seq, hash: 0xabc };
        writer.commit_headers(meta, 0, 0..packet.len() - length, left_out).unwrap();
    }

    /// Eleven records: a connection with two pipelined requests, whose answers come in bad order, one of them twice, and
    /// another client's SYN.
    fn conversation(name: &str) -> Self {
        let plain = (TcpFlags(0), Flags::EMPTY);
        let mut log = Self::new(name);
        log.client(CLIENT, 100, TcpFlags::SYN, b"");
        log.backend(CLIENT, 500, (TcpFlags::SYN, Flags::EMPTY), b"");
        log.client(CLIENT, 101, TcpFlags(0), b"");
        log.client(CLIENT, 101, TcpFlags::PSH, &[FIRST, &SECOND[..9]].concat());
        log.client(CLIENT, 101 + FIRST.len() as u32 + 9, TcpFlags::PSH, &SECOND[9..]);
        log.client(OTHER, 7000, TcpFlags::SYN, b"");
        let (middle, end) = (20, ANSWER.len() as u32);
        log.backend(CLIENT, 501 + middle, (TcpFlags(0), Flags::OUT_OF_ORDER), &ANSWER[20..]);
        log.backend(CLIENT, 501, plain, &ANSWER[..20]);
        log.backend(CLIENT, 501 + middle, (TcpFlags(0), Flags::RETRANSMISSION), &ANSWER[20..]);
        log.backend(CLIENT, 501 + end, plain, HEAD_ANSWER);
        log.backend(CLIENT, 501 + end + HEAD_ANSWER.len() as u32, (TcpFlags::FIN, Flags::HELD), b"");
        log.writer = None;
        log
    }

    fn dump(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nfq-logger"));
        command.args(["dump", "--read"]).arg(&self.path).args(arguments);
        command.output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.dump(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        output.stdout
    }

    fn values(&self, filter: &str) -> Vec<Value> {
        let said = String::from_utf8(self.good(&["--json", filter])).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn numbers(&self, filter: &str) -> Vec<u64> {
        self.values(filter).iter().map(|value| value["number"].as_u64().unwrap()).collect()
    }
}

#[test]
fn filters_choose_records() {
    let log = Log::conversation("filters");
    let all: Vec<u64> = (1..=11).collect();
    for (filter, expected) in [
        ("", &all[..]),
        ("tcp", &all),
        ("ip6", &[]),
        ("host 10.0.9.8", &[6]),
        ("src host 10.0.1.1 and syn", &[2]),
        ("dst port 8080 and data", &[4, 5]),
        ("port 4712 or fin", &[6, 11]),
        ("src port 4000-4711 && !data", &[1, 3]),
        ("net 10.0.8.0/23", &[6]),
        ("net 0.0.0.0/0 and from client", &[1, 3, 4, 5, 6]),
        ("not (from client or data)", &[2, 11]),
        ("client 10.0.0.7:4711 and backend 10.0.1.1 and out-of-order", &[7]),
        ("client 10.0.0.7:4712", &[]),
        ("connection 10.0.9.8:4712", &[6]),
        ("retransmission or held", &[9, 11]),
        ("greater 38 and less 43", &[10]),
        ("transaction 10.0.0.7:4711/1", &[4, 8, 9]),
        ("transaction 10.0.0.7:4711/2", &[4, 5, 10]),
        ("transaction 10.0.0.7:4711/3", &[]),
        ("syn and data or fin", &[11]),
        ("syn and (data or fin)", &[]),
    ] {
        assert_eq!(log.numbers(filter), expected, "{filter}");
    }
    assert_eq!(log.values("")[3]["transactions"], serde_json::json!([1, 2]));
}

#[test]
fn times_choose_records() {
    let log = Log::conversation("times");
    let times: Vec<u64> = log.values("").iter().map(|value| value["time_ns"].as_u64().unwrap()).collect();
    let written = |ns: u64| {
        humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(ns))
    };
    let filter = format!("since {} and until {}", written(times[2]), written(times[4]));
    assert_eq!(log.numbers(&filter), [3, 4, 5]);
    assert_eq!(log.numbers("since -10000d").len(), 11);
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    let log = Log::conversation("refused");
    for (filter, place) in [
        ("host", "its end"),
        ("host 10.0.0.300", "`10.0.0.300` (word 2)"),
        ("net 10.0.0.0/33", "word 2"),
        ("port 70000", "word 2"),
        ("port 9-8", "word 2"),
        ("syn fin", "`fin` (word 2)"),
        ("(syn", "its end"),
        ("syn)", "word 2"),
        ("src syn", "word 2"),
        ("from nowhere", "word 2"),
        ("transaction 10.0.0.7:4711/0", "word 2"),
        ("since tomorrow", "word 2"),
        ("/dev/shm/other.segments", "word 1"),
        (&"not ".repeat(100), "word 65"),
        (&"( ".repeat(5000), "word 1"),
    ] {
        let output = log.dump(&[filter]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{filter}");
        assert!(said.contains(place) && said.contains("--help"), "{filter}: {said}");
    }
}

#[test]
fn text_reads_as_in_tcpdump_and_is_coloured_only_where_asked() {
    let log = Log::conversation("text");
    let text = String::from_utf8(log.good(&["fin or out-of-order"])).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        lines,
        [
            "10.0.1.1:8080 > 10.0.0.7:4711: Flags [.], seq 21:44, ack 1, win 1000, length 23 (out-of-order)",
            "10.0.1.1:8080 > 10.0.0.7:4711: Flags [F.], seq 82, ack 1, win 1000, length 0 (held)",
        ]
    );
    assert!(!text.contains('\u{1b}'));
    let coloured = String::from_utf8(log.good(&["--color", "always", "fin"])).unwrap();
    assert!(coloured.contains("\u{1b}[31m"), "{coloured:?}");
}

#[test]
fn a_stream_is_each_byte_once_in_order() {
    let log = Log::conversation("stream");
    let stream = |side| log.good(&["--connection", "10.0.0.7:4711", "--stream", side]);
    assert_eq!(stream("client"), [FIRST, SECOND].concat());
    assert_eq!(stream("backend"), [ANSWER, HEAD_ANSWER].concat());
}

#[test]
fn a_stream_with_a_hole_ends_there_and_says_so() {
    let mut log = Log::new("hole");
    log.client(CLIENT, 100, TcpFlags::SYN, b"");
    log.client(CLIENT, 101, TcpFlags(0), b"abc");
    log.client(CLIENT, 110, TcpFlags(0), b"xyz");
    let output = log.dump(&["--connection", "10.0.0.7:4711", "--stream", "client"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b"abc"[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 bytes beyond the hole"));
}

#[test]
fn what_was_left_out_is_shown_with_its_length_and_hash() {
    let log = Log::large("left-out");
    let text = String::from_utf8(log.good(&["greater 599 and less 601"])).unwrap();
    let seq = 1 + LARGE_HEAD.len() + 200;
    let expected = format!(
        "10.0.1.1:8080 > 10.0.0.7:4711: Flags [.], seq {seq}:{}, ack 1, win 1000, length 600 (payload-left-out)",
        seq + 600
    );
    assert_eq!(text.trim_end().split_once(' ').unwrap().1, expected);
    let values = log.values("");
    assert_eq!(values[4]["left_out_bytes"], 600);
    assert_eq!(values[4]["left_out_hash"], format!("{:032x}", 0xabc));
    assert_eq!(values[3].get("left_out_bytes"), None);
    let transactions: Vec<_> = values.iter().map(|value| value.get("transactions")).collect();
    assert_eq!(transactions[4], Some(&serde_json::json!([1, 1])));
    assert_eq!(transactions[7], Some(&serde_json::json!([2, 2])), "what follows is still told apart");
}

#[test]
fn a_stream_ends_before_what_was_left_out_and_says_how_much_it_is() {
    let log = Log::large("left-out-stream");
    let output = log.dump(&["--connection", "10.0.0.7:4711", "--stream", "backend"]);
    assert_eq!((output.status.code(), output.stdout), (Some(1), [LARGE_HEAD, &[1; 200]].concat()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("600 bytes of this stream were left out"));
}

#[test]
fn captures_say_how_long_a_packet_was_whose_payload_was_left_out() {
    let log = Log::large("left-out-capture");
    let capture = log.path.with_extension("pcapng");
    log.good(&["--pcapng", "--write", capture.to_str().unwrap()]);
    let mut tshark = Command::new("tshark");
    tshark.args([
        "-T",
        "fields",
        "-E",
        "separator=|",
        "-e",
        "frame.len",
        "-e",
        "frame.cap_len",
        "-e",
        "tcp.len",
    ]);
    let output = tshark.args(["-e", "frame.comment", "-r"]).arg(&capture).output();
    std::fs::remove_file(&capture).unwrap();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(text.lines().nth(4), Some("640|40|600|payload-left-out, transaction 1"), "{text}");
}

#[test]
fn captures_are_read_by_tshark_without_a_complaint() {
    let log = Log::conversation("capture");
    let capture = log.path.with_extension("pcapng");
    log.good(&["--pcapng", "--write", capture.to_str().unwrap(), "connection 10.0.0.7:4711"]);
    let fields = [
        "frame.len",
        "tcp.srcport",
        "tcp.flags.fin",
        "frame.comment",
        "http.request.method",
        "_ws.expert.message",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-d", "tcp.port==8080,http", "-T", "fields", "-E", "separator=|", "-r"]).arg(&capture);
    let output = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output();
    std::fs::remove_file(&capture).unwrap();
    let output = output.unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = complaints.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let frames: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(frames.len(), 10, "{text}");
    assert_eq!(frames[3][1..5], ["4711", "0", "transactions 1 to 2", "GET"], "{text}");
    assert_eq!(frames[9][1..4], ["8080", "1", "held, hold 3"], "{text}");
    assert!(!text.to_lowercase().contains("malformed"), "{text}");
}

#[test]
fn a_fence_is_shown_but_is_no_packet_and_no_part_of_a_stream() {
    let mut log = Log::new("fence");
    log.client(CLIENT, 100, TcpFlags::SYN, b"");
    log.append(&SegmentBuilder::new(CLIENT.into(), BACKEND.into()), Flags::FENCED);
    log.client(CLIENT, 101, TcpFlags(0), b"abc");
    let text = String::from_utf8(log.good(&["connection 10.0.0.7:4711 and fenced"])).unwrap();
    assert!(text.ends_with("> 10.0.1.1:8080: Flags [], seq 0, win 0, length 0 (fenced)\n"), "{text}");
    assert_eq!(log.values("fenced")[0]["log"], serde_json::json!(["fenced"]));
    assert_eq!(log.good(&["--pcapng", "fenced"]), log.good(&["--pcapng", "unfenced"]));
    assert_eq!(log.good(&["--connection", "10.0.0.7:4711", "--stream", "client"]), b"abc");
}

#[test]
fn a_capture_is_not_mixed_with_other_formats() {
    let log = Log::conversation("exclusive");
    for arguments in [&["--pcapng", "--json"][..], &["--stream", "client"], &["--pcapng", "--stats"]] {
        assert_eq!(log.dump(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
