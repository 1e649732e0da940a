//! How fast one core takes messages apart, and how fast it follows a log: without sockets, packets made beforehand.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use cluster::config::Cluster;
use http1::{Event, RequestFramer, ResponseFramer};
use packet::{Flags, SegmentBuilder, Seq, SynOptions, Time};
use transactionalizer::engine::{Engine, Logged};
use transactionalizer::spans::{LogBytes, Record};

use crate::bench::rows::{Bound, Row, Samples};

const ROUNDS: usize = 5;
/// Transactions of a round, of the parser and of the engine.
const PARSED: u32 = 200_000;
const FOLLOWED: u32 = 60_000;
/// Transactions of each of the engine's connections.
const EACH: u32 = 1000;
const MAX_HEAD: usize = 65_536;

const WRK: &str = "GET /files/1k HTTP/1.1\r\nHost: 203.0.113.10\r\n\r\n";
const BROWSER: &str = "GET /mail/?_task=mail&_action=list&_mbox=INBOX HTTP/1.1\r\nHost: mail.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\
    Cookie: roundcube_sessid=0123456789abcdef; roundcube_sessauth=abcdef\r\n\r\n";
const NGINX: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 100\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\n\
    Connection: keep-alive\r\nETag: \"5f3e-64\"\r\nAccept-Ranges: bytes\r\n\r\n";
const CHUNK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n\
    01234567890123456789012345678901234567890123456789\r\n0\r\n\r\n";

const CONFIG: &str = r#"
[cluster]
name = "speed"
[service]
address = "10.9.9.9:80"
[[route]]
pool = "all"
[pool.all]
backends = ["b"]
[backend.b]
address = "10.0.3.1:8080"
[proxy.p]
address = "10.0.2.1"
[logger.l]
control = "10.0.2.2:7000"
"#;

/// The parser with small requests, which must reach a million transactions a second on one core, and the engine around it.
pub(super) fn measure(progress: &mut dyn FnMut(&str)) -> Vec<Row> {
    let response = format!("{NGINX}{}", "x".repeat(100));
    let must = Some(Bound { must: 1.0, aim: 2.0, least: true });
    let mut row = |what: &str, bound, rate: &dyn Fn() -> Result<f64>| {
        let mut samples = Samples::default();
        (0..ROUNDS).for_each(|_| samples.push(rate().map(|rate| rate / 1e6)));
        let row = samples.row(what, "M transactions/s", bound);
        progress(&format!("{what}: {:.2} M transactions/s", row.value.unwrap_or_default()));
        row
    };
    vec![
        row("parser, small requests, one core", must, &|| parse(WRK, &response)),
        row("parser, small requests and chunks, one core", None, &|| parse(WRK, CHUNK)),
        row("parser, a browser's requests, one core", None, &|| parse(BROWSER, &response)),
        row("transactionalizer, small requests, one core", None, &|| follow(WRK, &response)),
    ]
}

/// Transactions a second; each message comes in one piece, as a small one comes in one segment.
fn parse(request: &str, response: &str) -> Result<f64> {
    let (mut requests, mut responses) = (RequestFramer::new(MAX_HEAD), ResponseFramer::new(MAX_HEAD));
    let begin = Instant::now();
    let mut ends = 0_u32;
    for _ in 0..PARSED {
        let mut rest = request.as_bytes();
        loop {
            let step = requests.feed(rest)?;
            rest = rest.get(step.consumed..).unwrap_or_default();
            match step.event {
                Event::MessageEnd => ends += 1,
                Event::NeedMore => break,
                _ => {}
            }
        }
        responses.expect("GET")?;
        let mut rest = response.as_bytes();
        loop {
            let step = responses.feed(rest)?;
            rest = rest.get(step.consumed..).unwrap_or_default();
            match step.event {
                Event::MessageEnd => ends += 1,
                Event::NeedMore => break,
                _ => {}
            }
        }
    }
    ensure!(ends == 2 * PARSED, "{ends} messages ended, not {}", 2 * PARSED);
    Ok(f64::from(PARSED) / begin.elapsed().as_secs_f64())
}

/// Nothing fails, so nobody asks for bytes.
struct Nothing;

impl LogBytes for Nothing {
    fn read(&self, _: Record, _: usize, _: usize, _: &mut Vec<u8>) -> Option<()> {
        None
    }
}

/// Transactions a second of an engine that reads request, response and acknowledgement of each.
fn follow(request: &str, response: &str) -> Result<f64> {
    let now = Time::from_millis(1_000_000);
    let mut engine = Engine::new(Cluster::parse(CONFIG, "speed")?, now);
    engine.handle_managers(1);
    engine.handle_live(now);
    let (mut actions, mut took, mut number) = (vec![], 0.0, 0);
    for connection in 0..FOLLOWED / EACH {
        let packets = packets(10_000 + connection as u16, request.as_bytes(), response.as_bytes())?;
        let begin = Instant::now();
        for (packet, from_backend) in &packets {
            number += 1;
            let record = Record { position: None, number };
            let (hold, left_out, from_backend) = (None, None, *from_backend);
            let swallowed = false;
            let logged =
                Logged { record, writer: 1, time: now, hold, from_backend, swallowed, packet, left_out };
            engine.handle_record(&logged, &Nothing, &mut actions);
        }
        took += begin.elapsed().as_secs_f64();
    }
    let seen = engine.counters.transactions;
    ensure!(seen == u64::from(FOLLOWED), "{seen} transactions were seen, not {FOLLOWED}");
    Ok(f64::from(FOLLOWED) / took)
}

/// A connection from its handshake on; with each packet, whether it is the backend's.
fn packets(port: u16, request: &[u8], response: &[u8]) -> Result<Vec<(Vec<u8>, bool)>> {
    let (client, backend) = (SocketAddr::new("10.0.1.1".parse()?, port), "10.0.3.1:8080".parse()?);
    let options =
        SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamp: None };
    let packet = |from_backend: bool, seq: u32, ack: Option<u32>, syn: bool, payload: &[u8]| {
        let (from, to) = if from_backend { (backend, client) } else { (client, backend) };
        let mut segment = SegmentBuilder::new(from, to);
        (segment.seq, segment.ack, segment.window) = (Seq(seq), ack.map(Seq), 60_000);
        (segment.payload, segment.syn) = (payload, syn.then_some(options));
        segment.flags = if syn { Flags::SYN } else { Flags(0) };
        (segment.build(), from_backend)
    };
    let mut packets = vec![
        packet(false, 0, None, true, b""),
        packet(true, 0, Some(1), true, b""),
        packet(false, 1, Some(1), false, b""),
    ];
    let (mut asked, mut answered) = (1, 1);
    for _ in 0..EACH {
        packets.push(packet(false, asked, Some(answered), false, request));
        asked += request.len() as u32;
        packets.push(packet(true, answered, Some(asked), false, response));
        answered += response.len() as u32;
        packets.push(packet(false, asked, Some(answered), false, b""));
    }
    Ok(packets)
}
