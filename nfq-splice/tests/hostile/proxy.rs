//! An engine under test, and the segments of its clients.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use nfq_splice::{Action, Engine, Secret, Settings, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

const CONFIG: &str = r#"
[cluster]
name = "hostile"
[service]
address = "203.0.113.80:80"
[[route]]
path_prefix = "/known"
pool = "web"
[pool.web]
backends = ["b1", "b2"]
[backend.b1]
address = "10.0.1.11:80"
[backend.b2]
address = "10.0.1.12:80"
[proxy.p1]
address = "10.0.2.2"
[logger.l1]
control = "10.0.2.1:7070"
[splice]
half_open = 3
request_head_bytes = 1024
request_head_timeout_ms = 10000
"#;

pub(crate) const ISN: Seq = Seq(u32::MAX - 3);
pub(crate) const WINDOW: u16 = 60_000;
pub(crate) const REQUEST: &[u8] = b"GET /known HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn service() -> SocketAddr {
    "203.0.113.80:80".parse().unwrap()
}

pub(crate) fn client(port: u16) -> SocketAddr {
    SocketAddr::new("192.0.2.7".parse().unwrap(), port)
}

pub(crate) fn backend(last: u8) -> SocketAddr {
    SocketAddr::new([10, 0, 1, last].into(), 80)
}

/// What was sent, readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) to: SocketAddr,
    pub(crate) flags: Flags,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: SynOptions,
}

pub(crate) fn sent_of(segment: &TcpSegment<'_>) -> Sent {
    Sent {
        to: segment.destination(),
        flags: segment.flags(),
        seq: segment.seq(),
        ack: segment.ack(),
        window: segment.window(),
        payload: segment.payload().to_vec(),
        options: segment.syn_options(),
    }
}

pub(crate) struct Proxy {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
}

impl Proxy {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With other settings than the file's.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(&Cluster::parse(CONFIG, "hostile").unwrap());
        change(&mut settings);
        Self { engine: Engine::new(settings, Secret::new([7; 16])), now: Time::from_millis(5000) }
    }

    /// A new daemon takes over, with the key of the old one.
    pub(crate) fn restart(&mut self) {
        self.engine = Self::new().engine;
    }

    /// The same, and it knows how many had the key before.
    pub(crate) fn restart_in_life(&mut self, life: u32) {
        let settings = Settings::new(&Cluster::parse(CONFIG, "hostile").unwrap());
        self.engine = Engine::new(settings, Secret::of_life([7; 16], life));
    }

    pub(crate) fn drain(&mut self) -> Vec<Sent> {
        self.packets().iter().map(|bytes| sent_of(&TcpSegment::parse(bytes).unwrap())).collect()
    }

    /// What was sent, as it is.
    pub(crate) fn packets(&mut self) -> Vec<Vec<u8>> {
        let actions = std::iter::from_fn(|| self.engine.poll_action());
        let sent = actions.filter_map(|action| {
            if let Action::Send(bytes) | Action::SendFirst(bytes) = action { Some(bytes) } else { None }
        });
        sent.inspect(|bytes| assert!(TcpSegment::parse(bytes).unwrap().checksums_valid())).collect()
    }

    pub(crate) fn receive(&mut self, segment: &SegmentBuilder<'_>) -> Vec<Sent> {
        self.receive_bytes(segment.build())
    }

    pub(crate) fn receive_bytes(&mut self, mut packet: Vec<u8>) -> Vec<Sent> {
        assert_eq!(self.engine.handle_packet(self.now, &mut packet, Stage::Tracked), Verdict::Drop);
        self.drain()
    }

    /// Nothing happens for `time` but timers.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            sent.extend(self.drain());
        }
        self.now = end;
        sent
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.engine.status().counters.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.engine.status().total
    }

    /// Handshake done; the proxy's initial sequence number.
    pub(crate) fn establish(&mut self, port: u16) -> Seq {
        let answers = self.receive(&syn(port));
        let iss = answers[0].seq;
        assert!(self.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(port, 0, b"") }).is_empty());
        iss
    }
}

pub(crate) fn syn(port: u16) -> SegmentBuilder<'static> {
    SegmentBuilder {
        seq: ISN,
        flags: Flags::SYN,
        window: WINDOW,
        syn: Some(SynOptions { mss: Some(1400), window_scale: Some(7), ..SynOptions::default() }),
        ..SegmentBuilder::new(client(port), service())
    }
}

/// The client's bytes from `offset` on, without an acknowledgement yet.
pub(crate) fn data(port: u16, offset: u32, payload: &[u8]) -> SegmentBuilder<'_> {
    SegmentBuilder {
        seq: ISN + 1 + offset,
        window: WINDOW,
        payload,
        ..SegmentBuilder::new(client(port), service())
    }
}

pub(crate) const RST_ACK: Flags = Flags::RST.union(Flags::ACK);
pub(crate) const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);
