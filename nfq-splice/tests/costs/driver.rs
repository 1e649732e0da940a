//! Drives an engine through connections, as the network and the kernel would.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each user needs a part; a test ends where it is surprised"
)]

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use nfq_splice::{Action, Engine, Secret, Settings, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

const CONFIG: &str = r#"
[cluster]
name = "costs"
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
connections = 1000000
window_scale = 7
"#;
const REQUEST: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: costs\r\nAccept: */*\r\n\r\n";
const CLIENT_ISN: Seq = Seq(1_000_000);
const BACKEND_ISN: Seq = Seq(70_000_000);

/// An engine, its clock, and packets to it.
pub struct Driver {
    pub engine: Engine,
    pub now: Time,
    pub service: SocketAddr,
    pub backend: SocketAddr,
    pub sent: u64,
}

impl Driver {
    /// `path`: `kernel` or `userspace`.
    pub fn new(path: &str) -> Self {
        let config = format!("{CONFIG}path = \"{path}\"\n");
        let cluster = Cluster::parse(&config, "costs").unwrap();
        let engine = Engine::new(Settings::new(&cluster), Secret::new([7; 16]));
        let [service, backend] = ["203.0.113.80:80", "10.0.1.11:80"].map(|text| text.parse().unwrap());
        Self { engine, now: Time::from_millis(1000), service, backend, sent: 0 }
    }

    /// Gives the engine a packet, and executes what it wants; the last packet sent.
    pub fn receive(&mut self, packet: &mut [u8], stage: Stage) -> (Verdict, Option<Vec<u8>>) {
        self.now = self.now + Duration::from_micros(1);
        let verdict = self.engine.handle_packet(self.now, packet, stage);
        let mut sent = None;
        while let Some(action) = self.engine.poll_action() {
            if let Action::Send(bytes) | Action::SendFirst(bytes) = action {
                self.sent += 1;
                sent = Some(bytes);
            }
        }
        self.engine.handle_timeout(self.now);
        (verdict, sent)
    }

    /// The `number`th client, at most some millions.
    pub fn client(number: u32) -> SocketAddr {
        let [_, a, b, c] = (number / 50_000).to_be_bytes();
        SocketAddr::from(([10, 100 + a, b, c], 10_000 + (number % 50_000) as u16))
    }

    /// A whole set-up, from the SYN to the splice.
    pub fn connect(&mut self, number: u32) {
        let client = Self::client(number);
        let options = SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamp: Some(number),
        };
        let syn = SegmentBuilder {
            seq: CLIENT_ISN,
            flags: Flags::SYN,
            window: u16::MAX,
            syn: Some(options),
            timestamps: Some((number, 0)),
            ..SegmentBuilder::new(client, self.service)
        };
        let answer = self.receive(&mut syn.build(), Stage::Tracked).1.unwrap();
        let answer = TcpSegment::parse(&answer).unwrap();
        let mut request = SegmentBuilder {
            seq: CLIENT_ISN + 1,
            ack: Some(answer.seq() + 1),
            window: 500,
            timestamps: Some((number + 1, answer.timestamps().unwrap().0)),
            ..SegmentBuilder::new(client, self.service)
        };
        self.receive(&mut request.build(), Stage::Tracked);
        request.payload = REQUEST;
        self.receive(&mut request.build(), Stage::Tracked);
        let syn_ack = SegmentBuilder {
            seq: BACKEND_ISN,
            ack: Some(CLIENT_ISN + 1),
            flags: Flags::SYN,
            window: u16::MAX,
            syn: Some(options),
            timestamps: Some((9000, number)),
            ..SegmentBuilder::new(self.backend, client)
        };
        self.receive(&mut syn_ack.build(), Stage::Tracked);
    }

    /// A segment of the backend's response, `length` bytes of data.
    pub fn response(&self, number: u32, at: u32, length: usize) -> Vec<u8> {
        SegmentBuilder {
            seq: BACKEND_ISN + 1 + at,
            ack: Some(CLIENT_ISN + 1 + REQUEST.len() as u32),
            window: 500,
            timestamps: Some((9001, number)),
            payload: &vec![b'x'; length],
            ..SegmentBuilder::new(self.backend, Self::client(number))
        }
        .build()
    }
}
