//! A million SYNs from random sources: the table and the memory stay bounded, and a real client gets through at any time.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]
#![allow(clippy::disallowed_methods, reason = "it reads how much memory it has")]

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use nfq_splice::{Action, Engine, Secret, Settings, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

const CONFIG: &str = r#"
[cluster]
name = "flood"
[service]
address = "203.0.113.80:80"
[[route]]
pool = "web"
[pool.web]
backends = ["b1"]
[backend.b1]
address = "10.0.1.11:80"
[proxy.p1]
address = "10.0.2.2"
[logger.l1]
control = "10.0.2.1:7070"
[splice]
half_open = 4096
"#;
const SYNS: u64 = 1_000_000;
/// One SYN a microsecond: far beyond what half-open connections take to expire.
const DISTANCE: Duration = Duration::from_micros(1);
/// Set-up state of 4096 half-open connections, with room to spare; a million would take some 500 MB.
const MEMORY: u64 = 32 << 20;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Gives the engine a packet; what it sent.
fn receive(engine: &mut Engine, now: Time, packet: &mut [u8]) -> Option<Vec<u8>> {
    assert_eq!(engine.handle_packet(now, packet, Stage::Tracked), Verdict::Drop);
    let mut sent = None;
    while let Some(action) = engine.poll_action() {
        if let Action::Send(bytes) | Action::SendFirst(bytes) = action {
            sent = Some(bytes);
        }
    }
    sent
}

/// A whole set-up: SYN, then the request; the backend is asked in the client's name, with all its options.
fn is_served(engine: &mut Engine, now: Time, port: u16) {
    let client = SocketAddr::new("198.51.100.9".parse().unwrap(), port);
    let bare = SegmentBuilder { window: 60_000, ..SegmentBuilder::new(client, address("203.0.113.80:80")) };
    let syn = SynOptions { mss: Some(1460), window_scale: Some(9), sack_permitted: true, timestamp: None };
    let first = SegmentBuilder {
        seq: Seq(77),
        flags: Flags::SYN,
        syn: Some(syn),
        timestamps: Some((1000, 0)),
        ..bare.clone()
    };
    let answer = receive(engine, now, &mut first.build()).unwrap();
    let answer = TcpSegment::parse(&answer).unwrap();
    let request = SegmentBuilder {
        seq: Seq(78),
        ack: Some(answer.seq() + 1),
        timestamps: Some((1001, answer.syn_options().timestamp.unwrap())),
        payload: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ..bare
    };
    let to_backend = receive(engine, now, &mut request.build()).unwrap();
    let to_backend = TcpSegment::parse(&to_backend).unwrap();
    assert_eq!((to_backend.destination(), to_backend.flags()), (address("10.0.1.11:80"), Flags::SYN));
    assert_eq!(to_backend.syn_options(), SynOptions { timestamp: Some(1001), ..syn });
}

#[test]
fn a_million_syns() {
    let cluster = Cluster::parse(CONFIG, "flood").unwrap();
    let mut engine = Engine::new(Settings::new(&cluster), Secret::new([3; 16]));
    let mut now = Time::from_millis(1000);
    let template = SegmentBuilder {
        flags: Flags::SYN,
        syn: Some(SynOptions { mss: Some(1460), ..SynOptions::default() }),
        ..SegmentBuilder::new(address("192.0.2.1:1"), address("203.0.113.80:80"))
    };
    let mut packet = template.build();
    let before = resident_bytes();
    let mut random = 88_172_645_463_325_252_u64;
    for n in 0..SYNS {
        now = now + DISTANCE;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Source address and port, sequence number; the engine does not look at checksums.
        packet[12..16].copy_from_slice(&(random as u32).to_be_bytes());
        packet[20..22].copy_from_slice(&((random >> 32) as u16).to_be_bytes());
        packet[24..28].copy_from_slice(&((random >> 20) as u32).to_be_bytes());
        assert!(receive(&mut engine, now, &mut packet).is_some(), "every SYN is answered");
        if n % 100_000 == 99_999 {
            is_served(&mut engine, now, 2000 + (n / 100_000) as u16);
        }
    }
    let status = engine.status();
    assert!(status.total <= 4096 + 10, "{} connections", status.total);
    assert_eq!(status.counters["half_open_now"], 4096);
    assert_eq!(status.counters["syn_cookies_accepted"], 10);
    assert_eq!(status.counters["syn_cookies_sent"] + status.counters["syn_accepted"], SYNS + 10);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more than before the flood");
}
