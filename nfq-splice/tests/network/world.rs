//! An engine, one client and two backends whose segments the tests write themselves, over IPv4 or IPv6.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::Cluster;
use cluster::control::{ClientWindow, Flow, RecoveryOrder, TakeIn};
use nfq_splice::{Action, Engine, KernelSplice, Secret, Settings, Stage, Verdict};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// The client's and the first backend's initial sequence numbers: both wrap early.
pub(crate) const CLIENT_ISN: Seq = Seq(u32::MAX - 3);
pub(crate) const BACKEND_ISN: Seq = Seq(u32::MAX - 70);
const SYN_ACK: Flags = Flags::SYN;

/// What all offer unless a test says otherwise.
pub(crate) const OFFER: SynOptions =
    SynOptions { mss: Some(1400), window_scale: Some(7), sack_permitted: true, timestamp: Some(1000) };

/// Family and path of a world.
pub(crate) const ALL: [(bool, bool); 4] = [(false, true), (false, false), (true, true), (true, false)];

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    pub(crate) now: Time,
    pub(crate) v6: bool,
    /// The client's port.
    pub(crate) port: u16,
    /// Splices that the kernel was asked for.
    pub(crate) splices: Vec<KernelSplice>,
    /// The proxy's initial sequence number.
    pub(crate) iss: Seq,
    /// Timestamps are in use; the proxy's first one.
    pub(crate) stamps: bool,
    pub(crate) stamp: u32,
}

impl World {
    pub(crate) fn new(v6: bool, kernel: bool) -> Self {
        Self::with(v6, kernel, "")
    }

    /// The same with lines of its own in `[splice]`.
    pub(crate) fn with(v6: bool, kernel: bool, splice: &str) -> Self {
        let path = if kernel { "kernel" } else { "userspace" };
        let [service, b1, b2] = if v6 {
            ["[fd00:9::9]:80", "[fd00:2::1]:80", "[fd00:2::2]:80"]
        } else {
            ["203.0.113.80:80", "10.0.2.1:80", "10.0.2.2:80"]
        };
        let text = format!(
            "[cluster]\nname = \"network\"\n[service]\naddress = \"{service}\"\n[[route]]\npool = \"web\"\n\
             [pool.web]\nbackends = [\"b1\", \"b2\"]\n[backend.b1]\naddress = \"{b1}\"\n[backend.b2]\naddress = \"{b2}\"\n\
             [proxy.p]\naddress = \"10.0.3.1\"\n[logger.l]\ncontrol = \"10.0.3.2:7070\"\n[splice]\npath = \"{path}\"\nwindow_scale = 7\nmss = 1400\n{splice}"
        );
        let cluster = Cluster::parse(&text, "network").unwrap();
        let settings = Settings::new(&cluster);
        Self {
            engine: Engine::new(settings.clone(), Secret::new([7; 16])),
            settings,
            now: Time::from_millis(5000),
            v6,
            port: 4000,
            splices: Vec::new(),
            iss: Seq(0),
            stamps: false,
            stamp: 0,
        }
    }

    pub(crate) fn service(&self) -> SocketAddr {
        if self.v6 { "[fd00:9::9]:80" } else { "203.0.113.80:80" }.parse().unwrap()
    }

    pub(crate) fn client(&self) -> SocketAddr {
        let address = if self.v6 { "fd00:1::7" } else { "192.0.2.7" };
        SocketAddr::new(address.parse().unwrap(), self.port)
    }

    pub(crate) fn backend(&self, number: u8) -> SocketAddr {
        if self.v6 { format!("[fd00:2::{number}]:80") } else { format!("10.0.2.{number}:80") }
            .parse()
            .unwrap()
    }

    /// A hop between the hosts.
    pub(crate) fn router(&self) -> std::net::IpAddr {
        if self.v6 { "fd00:5::5" } else { "198.51.100.5" }.parse().unwrap()
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.engine.status().counters.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn state(&self) -> Option<String> {
        self.engine.status().connections.first().map(|connection| connection.state.clone())
    }

    /// Packets that the engine wants sent.
    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Send(packet) | Action::SendFirst(packet) => sent.push(packet),
                Action::Splice(splice) => self.splices.push(splice),
                _ => {}
            }
        }
        sent
    }

    /// A packet queued; what is sent then, the packet itself last if it goes on rewritten.
    pub(crate) fn receive(&mut self, packet: &[u8], stage: Stage) -> Vec<Vec<u8>> {
        let mut packet = packet.to_vec();
        let verdict = self.engine.handle_packet(self.now, &mut packet, stage);
        let mut sent = self.sent();
        match verdict {
            Verdict::Rewritten => sent.push(packet),
            Verdict::Drop => {}
            Verdict::Segments(_) => panic!("only of large packets"),
            Verdict::Untouched => panic!("left alone"),
        }
        sent
    }

    /// A segment of the client, not a SYN.
    pub(crate) fn client_segment(
        &self,
        seq: Seq,
        ack: Seq,
        payload: &'static [u8],
    ) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq,
            ack: Some(ack),
            window: 500,
            timestamps: self.stamps.then_some((1100, self.stamp)),
            payload,
            ..SegmentBuilder::new(self.client(), self.service())
        }
    }

    /// A segment of a backend, not a SYN.
    pub(crate) fn backend_segment(
        &self,
        number: u8,
        seq: Seq,
        payload: &'static [u8],
        stamp: u32,
    ) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq,
            ack: Some(CLIENT_ISN + 1 + REQUEST.len() as u32),
            window: 500,
            timestamps: self.stamps.then_some((stamp, 1100)),
            payload,
            ..SegmentBuilder::new(self.backend(number), self.client())
        }
    }

    /// The client's SYN, with these options, and the request; the proxy's SYN-ACK and the SYN to the first backend.
    pub(crate) fn request(&mut self, syn: &[u8]) -> [Vec<u8>; 2] {
        let answers = self.receive(syn, Stage::Tracked);
        let answer = TcpSegment::parse(&answers[0]).unwrap();
        self.iss = answer.seq();
        self.stamps = answer.timestamps().is_some();
        self.stamp = answer.timestamps().map_or(0, |(value, _)| value);
        let request = self.client_segment(CLIENT_ISN + 1, self.iss + 1, REQUEST).build();
        let to_backend = self.receive(&request, Stage::Tracked);
        [answers[0].clone(), to_backend[0].clone()]
    }

    pub(crate) fn syn(&self, options: SynOptions) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq: CLIENT_ISN,
            flags: Flags::SYN,
            window: 64_000,
            syn: Some(options),
            timestamps: options.timestamp.map(|value| (value, 0)),
            ..SegmentBuilder::new(self.client(), self.service())
        }
    }

    pub(crate) fn syn_ack(
        &self,
        number: u8,
        isn: Seq,
        ack: Seq,
        options: SynOptions,
    ) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq: isn,
            ack: Some(ack),
            flags: SYN_ACK,
            window: 64_000,
            syn: Some(options),
            timestamps: options.timestamp.map(|value| (value, 1000)),
            ..SegmentBuilder::new(self.backend(number), self.client())
        }
    }

    /// Both handshakes; the connection is spliced then, to the first backend. What was sent to it.
    pub(crate) fn splice(&mut self, offer: SynOptions, answer: SynOptions) -> Vec<Vec<u8>> {
        let syn = self.syn(offer).build();
        self.request(&syn);
        let syn_ack = self.syn_ack(1, BACKEND_ISN, CLIENT_ISN + 1, answer).build();
        self.receive(&syn_ack, Stage::Tracked)
    }

    /// `client space = backend space + delta`.
    pub(crate) fn delta(&self) -> u32 {
        self.iss.0.wrapping_sub(BACKEND_ISN.0)
    }

    /// The order to recover from the failure of `failed` on `alternate`, nothing to take in.
    pub(crate) fn order(
        &self,
        id: u64,
        failed: u8,
        alternate: u8,
        resend_from: Seq,
        resend: Vec<u8>,
    ) -> RecoveryOrder {
        RecoveryOrder {
            id,
            flow: Flow { client: self.client(), backend: self.backend(failed) },
            alternate: self.backend(alternate),
            options: Some(OFFER),
            client_next: (CLIENT_ISN + 1 + REQUEST.len() as u32).0,
            client_known: (CLIENT_ISN + 1).0,
            client_fin: false,
            rest: None,
            replayed: Vec::new(),
            replay: Vec::new(),
            beyond: Vec::new(),
            left_out: 0,
            client_window: ClientWindow { now: 64_000, most: 64_000 },
            resend_from: resend_from.0,
            resend,
            take_in: TakeIn::Nothing,
        }
    }
}

/// The TCP segments among packets that were sent.
pub(crate) fn segments(packets: &[Vec<u8>]) -> Vec<TcpSegment<'_>> {
    packets.iter().filter_map(|packet| TcpSegment::parse(packet).ok()).collect()
}

/// Gives a packet without options, of either family, this option field instead; the engine does not look at checksums.
pub(crate) fn with_options(mut packet: Vec<u8>, field: &[u8]) -> Vec<u8> {
    let v6 = packet[0] >> 4 == 6;
    let tcp = if v6 { 40 } else { 20 };
    packet.splice(tcp + 20..tcp + 20, field.iter().copied());
    packet[tcp + 12] = ((20 + field.len()) as u8 / 4) << 4;
    let (at, length) = if v6 { (4, packet.len() - 40) } else { (2, packet.len()) };
    packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}
