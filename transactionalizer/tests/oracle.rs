//! Reports against a whole-buffer oracle: whatever the segmentation, order, repetition and loss.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{Stretch, TAIL_BYTES};
use common::{Conn, World, b1, conn};
use packet::{Flags, Seq};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

/// A request and its response, and where the response's body begins.
#[derive(Debug, Clone)]
struct Exchange {
    request: Vec<u8>,
    response: Vec<u8>,
    head: usize,
}

fn body(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect()
}

fn with_length(start: &str, body: &[u8]) -> (Vec<u8>, usize) {
    let head = format!("{start}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    let length = head.len();
    ([head, body.to_vec()].concat(), length)
}

fn chunked(body: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let head = bytes.len();
    for chunk in body.chunks(700) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    (bytes, head)
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (0..6_u8, 0_usize..3000, 0_usize..40_000, any::<u8>()).prop_map(|(form, sent, received, seed)| {
        let (sent, received) = (body(sent, seed), body(received, !seed));
        let get = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
        let (request, (response, head)) = match form {
            0 => (get, with_length("HTTP/1.1 200 OK\r\n", &received)),
            1 => (get, chunked(&received)),
            2 => {
                let head = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
                let length = head.len();
                (get, (head, length))
            }
            3 => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".to_vec();
                let length = head.len();
                (b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), (head, length))
            }
            4 => {
                let (post, _) = with_length("POST /p HTTP/1.1\r\nHost: h\r\n", &sent);
                (post, with_length("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n", &received))
            }
            _ => {
                let (post, _) = with_length("PUT /p HTTP/1.1\r\nHost: h\r\n", &sent);
                (post, with_length("HTTP/1.1 404 Not Found\r\n", &received))
            }
        };
        Exchange { request, response, head }
    })
}

#[derive(Debug, Clone)]
struct Case {
    exchanges: Vec<Exchange>,
    /// Exchanges whose requests are sent together.
    pipelined: usize,
    /// How much of the last response, in 1/1000; beyond 1000 none is missing.
    cut: usize,
    /// How much of what is logged is acknowledged, in 1/1000.
    acked: usize,
    pieces: Vec<(usize, u32, bool)>,
    isn: (u32, u32),
    beyond: bool,
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(exchange(), 1..5),
        1_usize..4,
        0_usize..1100,
        0_usize..1001,
        prop::collection::vec((1_usize..5000, any::<u32>(), any::<bool>()), 1..40),
        any::<(u32, u32)>(),
        any::<bool>(),
    )
        .prop_map(|(exchanges, pipelined, cut, acked, pieces, isn, beyond)| Case {
            exchanges,
            pipelined,
            cut,
            acked,
            pieces,
            isn,
            beyond,
        })
}

/// Cuts `range` of a stream into segments, repeats some and shuffles them.
fn segments(from: usize, to: usize, pieces: &[(usize, u32, bool)]) -> Vec<(usize, usize)> {
    let mut cut = vec![];
    let mut at = from;
    for (length, key, twice) in pieces.iter().cycle() {
        if at >= to {
            break;
        }
        let end = (at + length).min(to);
        cut.push((*key, at, end));
        if *twice {
            // A repetition with other boundaries.
            cut.push((
                key.rotate_left(9),
                at.saturating_sub(length / 3).max(from),
                (end + length / 2).min(to),
            ));
        }
        at = end;
    }
    cut.sort_unstable();
    cut.into_iter().map(|(_, from, to)| (from, to)).collect()
}

fn send(world: &mut World, conn: Conn, from_client: bool, stream: &[u8], range: (usize, usize), case: &Case) {
    for (from, to) in segments(range.0, range.1, &case.pieces) {
        if from_client {
            world.client(conn, from as u32, &stream[from..to], 0);
        } else {
            world.backend(conn, from as u32, &stream[from..to], 0);
        }
    }
}

/// Streams up to each exchange's end.
fn ends(parts: impl Iterator<Item = usize>) -> Vec<usize> {
    parts
        .scan(0, |total, length| {
            *total += length;
            Some(*total)
        })
        .collect()
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let mut conn = conn(4000, b1());
    (conn.client_isn, conn.backend_isn) = (Seq(case.isn.0), Seq(case.isn.1));
    world.open(conn);
    let requests: Vec<u8> = case.exchanges.iter().flat_map(|exchange| exchange.request.clone()).collect();
    let responses: Vec<u8> = case.exchanges.iter().flat_map(|exchange| exchange.response.clone()).collect();
    let request_ends = ends(case.exchanges.iter().map(|exchange| exchange.request.len()));
    let response_ends = ends(case.exchanges.iter().map(|exchange| exchange.response.len()));
    let (mut asked, mut answered, mut done) = (0, 0, 0);
    let last = case.exchanges.len() - 1;
    let logged = {
        let start = if last == 0 { 0 } else { response_ends[last - 1] };
        start + (responses.len() - start) * case.cut.min(1000) / 1000
    };
    for first in (0..case.exchanges.len()).step_by(case.pipelined) {
        let to = (first + case.pipelined).min(case.exchanges.len()) - 1;
        send(&mut world, conn, true, &requests, (asked, request_ends[to]), case);
        asked = request_ends[to];
        send(&mut world, conn, false, &responses, (answered, response_ends[to].min(logged)), case);
        answered = response_ends[to].min(logged);
        done += response_ends[first..=to].iter().filter(|end| **end <= logged).count();
    }
    let ack = logged * case.acked / 1000;
    world.client(conn, asked as u32, b"", ack as u32);
    // Beyond a gap: forwarded, but not logged contiguously.
    if case.beyond && logged + 3 < responses.len() {
        world.backend(conn, logged as u32 + 2, &responses[logged + 2..], asked as u32);
    }
    prop_assert!(world.actions.is_empty(), "{:?}", world.actions);
    world.backend_flags(conn, Flags::RST, logged as u32, b"", asked as u32);
    world.run(1, |_| Some(transactionalizer::detector::probing::Answer::Refused));
    let reports = world.reports();
    let [(_, _, report)] = reports.as_slice() else { panic!("{reports:?}") };
    prop_assert_eq!(&report.unrecoverable, &None);
    let t_l_end = if done == 0 { 0 } else { response_ends[done - 1] };
    prop_assert_eq!(report.t_l as usize, done);
    prop_assert_eq!(report.ack_tl, (conn.backend_isn + 1 + t_l_end as u32).0);
    prop_assert_eq!(report.ack_cl, (conn.backend_isn + 1 + ack as u32).0);
    prop_assert_eq!(report.client_next, (conn.client_isn + 1 + requests.len() as u32).0);
    prop_assert_eq!(&report.unacked, &responses[ack..logged]);
    let pending: Vec<_> =
        report.pending.iter().map(|request| (&request.bytes, request.ordinal as usize)).collect();
    let expected: Vec<_> = case
        .exchanges
        .iter()
        .enumerate()
        .skip(done)
        .map(|(i, exchange)| (&exchange.request, i + 1))
        .collect();
    prop_assert_eq!(pending, expected);
    let partial = &responses[t_l_end..logged];
    let head = case.exchanges.get(done).map_or(0, |exchange| exchange.head);
    let (head, body) = partial.split_at(head.min(partial.len()));
    prop_assert_eq!(&report.partial.head, head);
    prop_assert_eq!(report.partial.body_bytes as usize, body.len());
    if !partial.is_empty() {
        let whole = Stretch { bytes: body.len() as u64, hash: xxh3_128(body) };
        prop_assert_eq!(&report.partial.hashes, &if body.is_empty() { vec![] } else { vec![whole] });
    }
    prop_assert_eq!(&report.partial.tail, &body[body.len().saturating_sub(TAIL_BYTES)..]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn reports_equal_the_oracle(case in case()) {
        check(&case)?;
    }

    #[test]
    fn arbitrary_packets_never_panic(
        packets in prop::collection::vec(
            (any::<bool>(), any::<bool>(), 0_u8..64, 0_u32..3000, 0_u32..3000, any::<u16>(),
             prop::sample::select(vec![
                 &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"xxxxxxxxx",
                 b"", b"HTTP/1.1 101 Up\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
             ])),
            1..120),
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        lap in any::<bool>(),
    ) {
        let mut world = World::new();
        let conn = conn(4000, b1());
        world.open(conn);
        for (i, (from_backend, held, flags, at, ack, window, payload)) in packets.into_iter().enumerate() {
            let (source, destination) = if from_backend {
                (conn.flow.backend, conn.flow.client)
            } else {
                (conn.flow.client, conn.flow.backend)
            };
            let (own, other) =
                if from_backend { (conn.backend_isn, conn.client_isn) } else { (conn.client_isn, conn.backend_isn) };
            let mut segment = packet::SegmentBuilder::new(source, destination);
            (segment.seq, segment.flags, segment.window) = (own + at % 90, Flags(flags), window);
            segment.ack = (flags & 16 != 0).then_some(other + ack % 90);
            segment.payload = payload;
            world.log(segment.build(), from_backend, held && from_backend);
            world.pass(u64::from(ack));
            world.timers();
            if lap && i % 10 == 9 {
                let mut out = vec![];
                world.engine.handle_lapped(3, &mut out);
                world.take(out);
            }
            if i % 3 == 0 {
                world.answer(&|_| Some(transactionalizer::detector::probing::Answer::Accepted));
            }
        }
        for packet in garbage {
            world.log(packet, true, true);
        }
        // Every hold is decided in the end, whatever came.
        world.run(200, |_| None);
        let _ = world.engine.status();
    }
}
