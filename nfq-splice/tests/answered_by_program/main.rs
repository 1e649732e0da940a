//! Clients whose handshake the fast path's program conducts, in a real kernel: what it answers is what the engine answers, and the
//! engine takes what it answered.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod anew;
#[path = "../../../lib/netfilter/tests/common/mod.rs"]
mod common;
mod continued;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use cluster::config::Cluster;
use common::{Net, config, wait};
use netfilter::Family;
use netfilter::conntrack::SpliceEntry;
use netfilter::fast_path::{Answered, Answers, FastPath, Owners};
use netfilter::queue::{Queue, Verdict};
use netfilter::raw::RawSender;
use netfilter::target::{self, Chain};
use nfq_splice::{Action, Engine, Promise, SETUP_WINDOW, Secret, Settings, Stage};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

const KEY: [u8; 16] = *b"key of this test";
const LIFE: u32 = 3;
const QUEUE: u16 = 9;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CONFIG: &str = r#"
[cluster]
name = "answered"
[service]
address = "10.9.9.9:8080"
[[route]]
pool = "web"
[pool.web]
backends = ["b1"]
[backend.b1]
address = "10.0.2.2:80"
[proxy.p1]
address = "10.0.1.1"
[logger.l1]
control = "10.0.2.1:7070"
"#;

fn service() -> SocketAddr {
    "10.9.9.9:8080".parse().unwrap()
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 1, 2).into(), port)
}

fn now() -> Time {
    daemon::now()
}

fn engine() -> Engine {
    engine_of(LIFE)
}

/// Of a daemon that had so many before it.
fn engine_of(life: u32) -> Engine {
    engine_since(now(), life)
}

/// It was started then.
fn engine_since(start: Time, life: u32) -> Engine {
    engine_with(CONFIG, start, life)
}

fn engine_with(config: &str, start: Time, life: u32) -> Engine {
    let settings = Settings::new(&Cluster::parse(config, "answered").unwrap());
    let mut engine = Engine::new(settings, Secret::of_life(KEY, life));
    engine.handle_promised(start, Promise { mss: 1460, window_scale: 10 });
    engine
}

fn sends(engine: &mut Engine, packet: &[u8]) -> Vec<Vec<u8>> {
    sends_at(engine, now(), packet)
}

fn sends_at(engine: &mut Engine, now: Time, packet: &[u8]) -> Vec<Vec<u8>> {
    engine.handle_packet(now, &mut packet.to_vec(), Stage::Tracked);
    let actions = std::iter::from_fn(|| engine.poll_action());
    actions
        .filter_map(|action| {
            if let Action::Send(bytes) | Action::SendFirst(bytes) = action { Some(bytes) } else { None }
        })
        .collect()
}

/// The program in the router, the client's raw socket, what reaches the client, and the engine.
struct Proxy {
    net: Net,
    fast: FastPath,
    sender: RawSender,
    arrived: Queue,
    engine: Engine,
}

impl Proxy {
    fn up(name: &str) -> Option<Self> {
        let net = Net::up(name)?;
        // The program does not ask who a neighbour is.
        let mac = net.run("c", "cat /sys/class/net/eth0/address");
        net.run("r", &format!("ip neigh replace 10.0.1.2 lladdr {} dev rc", mac.trim()));
        net.nft(
            "c",
            "table ip test {
                chain to_queue { }
                chain hand_over { jump to_queue; drop; }
                chain arrived { type filter hook prerouting priority raw; meta l4proto tcp goto hand_over; }
            }",
        );
        let chain = Chain { family: Family::Ip, table: "test", name: "to_queue" };
        net.inside("c", || target::fill_chain(chain, QUEUE)).unwrap();
        let fast = net.inside("r", || FastPath::open(10, Owners { threads: 1, seed: 0 })).unwrap();
        net.inside("r", || fast.attach()).unwrap();
        let sender = net.inside("c", || RawSender::open(0)).unwrap();
        let arrived = net.inside("c", || Queue::bind(&config(QUEUE))).unwrap();
        Some(Self { net, fast, sender, arrived, engine: engine() })
    }

    fn answer_for(&self, time: Duration) {
        let answers = Answers {
            service: "10.9.9.9:8080".parse().unwrap(),
            key: KEY,
            lead: Secret::of_life(KEY, LIFE).lead(),
            mss: 1460,
            window_scale: 10,
            window: SETUP_WINDOW as u16,
            takes_acks: true,
            until: Duration::from_nanos(now().as_nanos()) + time,
            owned_until: Duration::ZERO,
        };
        self.fast.answer(&answers).unwrap();
    }

    /// What comes back to the client, if something does soon.
    fn ask(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.sender.send(packet).unwrap();
        let end = Instant::now() + Duration::from_millis(100);
        let mut got = Vec::new();
        while got.is_empty() && Instant::now() < end {
            wait(&self.arrived);
            self.arrived
                .recv_batch(&mut |packet, verdicts| {
                    got.push(packet.payload.to_vec());
                    verdicts.push(packet.id, Verdict::Drop).unwrap();
                })
                .unwrap();
            self.arrived.flush().unwrap();
        }
        got.pop()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.net.inside("r", FastPath::detach_any);
    }
}

fn syn(port: u16, number: u32, options: SynOptions) -> SegmentBuilder<'static> {
    SegmentBuilder {
        seq: Seq(number.wrapping_mul(0x9e37_79b9)),
        flags: Flags::SYN,
        window: 64_240,
        syn: Some(options),
        timestamps: Some((number.wrapping_mul(0x0005_ca6b), 0)),
        ..SegmentBuilder::new(client(port), service())
    }
}

/// The acknowledgement of an answer, as the client's system would send it.
fn acknowledgement(syn: &SegmentBuilder<'_>, answer: &TcpSegment<'_>) -> SegmentBuilder<'static> {
    SegmentBuilder {
        seq: syn.seq + 1,
        ack: Some(answer.seq() + 1),
        window: 500,
        timestamps: Some((syn.timestamps.unwrap().0.wrapping_add(1), answer.timestamps().unwrap().0)),
        ..SegmentBuilder::new(syn.source, syn.destination)
    }
}

/// Without what the two choose themselves: the number, and the time.
fn without_number_and_clock(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for range in [4..6, 10..12, 24..28, 36..38, 48..52] {
        packet[range].fill(0);
    }
    packet
}

const OFFER: SynOptions =
    SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamp: None };

#[test]
fn answers_are_equal_and_what_is_answered_is_continued() {
    let Some(mut proxy) = Proxy::up("ha") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let mut port = 2000;
    for window_scale in [0, 7, 14] {
        for mss in [88, 535, 536, 1219, 1220, 1360, 1440, 1459, 1460, 8959, 8960, 65_535] {
            for sack_permitted in [false, true] {
                port += 1;
                let options =
                    SynOptions { mss: Some(mss), window_scale: Some(window_scale), sack_permitted, ..OFFER };
                let syn = syn(port, port.into(), options);
                let before = now();
                let answer = proxy.ask(&syn.build()).unwrap();
                let expected = sends(&mut engine(), &syn.build()).remove(0);
                assert_eq!(without_number_and_clock(&answer), without_number_and_clock(&expected));
                let [answer, expected] =
                    [&answer, &expected].map(|packet| TcpSegment::parse(packet).unwrap());
                assert!(answer.checksums_valid());
                let [clock, later] = [answer, expected].map(|segment| segment.timestamps().unwrap().0);
                let passed = now().since(before).as_millis() as u32 + 1;
                assert!(later.wrapping_sub(clock) <= passed, "{clock} {later} {passed}");
                let request = SegmentBuilder { payload: REQUEST, ..acknowledgement(&syn, &answer) };
                let sent = sends(&mut proxy.engine, &request.build());
                let sent = TcpSegment::parse(&sent[0]).unwrap();
                assert_eq!((sent.destination().port(), sent.flags(), sent.seq()), (80, Flags::SYN, syn.seq));
                let class = [8960, 1460, 1440, 1360, 1220, 536, 88].into_iter().find(|class| *class <= mss);
                let timestamp = request.timestamps.map(|(value, _)| value);
                assert_eq!(sent.syn_options(), SynOptions { mss: class, timestamp, ..options });
            }
        }
    }
    assert_eq!(proxy.fast.answered().unwrap(), Answered { syns: 72, acks: 0, handed_over: 0 });
}

#[test]
fn only_the_right_acknowledgement_is_taken() {
    let Some(mut proxy) = Proxy::up("hb") else { return };
    proxy.answer_for(Duration::from_secs(100));
    let syn = syn(3000, 7, OFFER);
    let answer = proxy.ask(&syn.build()).unwrap();
    let right = acknowledgement(&syn, &TcpSegment::parse(&answer).unwrap());
    let (value, echo) = right.timestamps.unwrap();
    let (seq, ack) = (right.seq, right.ack.unwrap());
    let wrong = [
        SegmentBuilder { seq: seq - 1, ..right.clone() },
        SegmentBuilder { seq: seq + 1, ..right.clone() },
        SegmentBuilder { ack: Some(ack + (1 << 10)), ..right.clone() },
        SegmentBuilder { ack: Some(ack + (2 << 29)), ..right.clone() },
        SegmentBuilder { timestamps: Some((value, echo.wrapping_add(1 << 20))), ..right.clone() },
        SegmentBuilder { timestamps: Some((value, echo.wrapping_sub(20_000))), ..right.clone() },
        SegmentBuilder { timestamps: None, ..right.clone() },
        SegmentBuilder { flags: Flags::FIN, ..right.clone() },
        SegmentBuilder { payload: b"G", ..right.clone() },
        SegmentBuilder { source: client(3001), ..right.clone() },
        SegmentBuilder { destination: "10.9.9.9:8081".parse().unwrap(), ..right.clone() },
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        proxy.ask(&wrong.build());
        assert_eq!(proxy.fast.answered().unwrap(), Answered { syns: 1, acks: 0, handed_over: 0 }, "{number}");
    }
    proxy.ask(&right.build());
    assert_eq!(proxy.fast.answered().unwrap(), Answered { syns: 1, acks: 1, handed_over: 0 });
    let first = SegmentBuilder { flags: Flags::PSH, payload: b"GET / HTTP/1.1", ..right.clone() };
    proxy.ask(&first.build());
    assert_eq!(proxy.fast.answered().unwrap(), Answered { syns: 1, acks: 1, handed_over: 1 });
    let mut handed_over = Vec::new();
    proxy.fast.ring(0).unwrap().receive(10, |packet| handed_over.push(packet.to_vec()));
    assert_eq!(handed_over, [first.build()]);
}

/// What the cookie cannot keep, what opens nothing, who has a connection: all that is the daemon's.
#[test]
fn other_syns_are_left_alone() {
    let Some(mut proxy) = Proxy::up("hc") else { return };
    assert_eq!(proxy.ask(&syn(4000, 1, OFFER).build()), None, "not told to");
    proxy.answer_for(Duration::from_millis(400));
    assert!(proxy.ask(&syn(4000, 1, OFFER).build()).is_some());
    let plain = syn(4001, 1, OFFER);
    let other = [
        SegmentBuilder { timestamps: None, ..plain.clone() },
        SegmentBuilder { syn: Some(SynOptions { mss: None, ..OFFER }), ..plain.clone() },
        SegmentBuilder { syn: Some(SynOptions { mss: Some(87), ..OFFER }), ..plain.clone() },
        SegmentBuilder { syn: Some(SynOptions { window_scale: Some(15), ..OFFER }), ..plain.clone() },
        SegmentBuilder { syn: Some(SynOptions { window_scale: None, ..OFFER }), ..plain.clone() },
        SegmentBuilder { flags: Flags::SYN.union(Flags::ECN), ..plain.clone() },
        SegmentBuilder { flags: Flags::SYN.union(Flags::FIN), ..plain.clone() },
        SegmentBuilder { flags: Flags::SYN.union(Flags::RST), ..plain.clone() },
        SegmentBuilder { ack: Some(Seq(1)), ..plain.clone() },
        SegmentBuilder { payload: b"data", ..plain.clone() },
        SegmentBuilder { destination: "10.9.9.9:8081".parse().unwrap(), ..plain.clone() },
        SegmentBuilder { destination: "10.9.9.8:8080".parse().unwrap(), ..plain.clone() },
    ];
    proxy.answer_for(Duration::from_secs(100));
    for (number, other) in other.iter().enumerate() {
        let answer = proxy.ask(&other.build());
        let opens = answer.is_some_and(|answer| TcpSegment::parse(&answer).unwrap().flags().syn());
        assert!(!opens, "{number}");
    }
    let mut wrong = plain.build();
    wrong[39] ^= 1;
    let answer = proxy.ask(&wrong).unwrap();
    assert!(!TcpSegment::parse(&answer).unwrap().checksums_valid(), "a wrong checksum was made right");
    proxy.fast.keep_off(client(4001)).unwrap();
    assert_eq!(proxy.ask(&plain.build()), None, "it has a connection");
    proxy.fast.let_begin(client(4001)).unwrap();
    assert!(proxy.ask(&plain.build()).is_some());
    proxy.answer_for(Duration::ZERO);
    assert_eq!(proxy.ask(&plain.build()), None, "the daemon is gone");
}

/// Conntrack has an entry of this client until it is told to be gone, also where the connection has ended or is none for the fast path.
#[test]
fn syns_of_those_whom_conntrack_knows_are_left_alone() {
    let Some(mut proxy) = Proxy::up("hd") else { return };
    proxy.answer_for(Duration::from_secs(100));
    for (port, ending) in [(5000, Flags::FIN), (5001, Flags::RST), (5002, Flags::SYN)] {
        let entry = entry(port);
        assert!(proxy.fast.add(&entry).unwrap());
        let syn = syn(port, 1, OFFER).build();
        let end = SegmentBuilder {
            flags: ending,
            ack: Some(Seq(1)),
            ..SegmentBuilder::new(entry.client, service())
        };
        assert_eq!(proxy.ask(&end.build()), None);
        assert_eq!(proxy.ask(&syn), None, "conntrack knows an old connection");
        proxy.fast.leave_alone_no_longer(entry.client).unwrap();
        assert!(proxy.ask(&syn).is_some());
        proxy.fast.leave_alone(entry.client).unwrap();
        assert_eq!(proxy.ask(&syn), None);
        // The next connection's place is not taken away by the end of the one before.
        proxy.fast.add(&entry).unwrap();
        proxy.fast.leave_alone_no_longer(entry.client).unwrap();
        assert_eq!(proxy.ask(&syn), None);
    }
}

fn entry(port: u16) -> SpliceEntry {
    SpliceEntry {
        client: client(port),
        service: service(),
        backend: "10.0.2.2:80".parse().unwrap(),
        server_offset: 1,
        client_offset: 0,
        timestamp_offset: 1,
        has_timestamps: true,
        mark: 7,
        timeout_s: 600,
        window_scales: None,
        sack_permitted: true,
    }
}
