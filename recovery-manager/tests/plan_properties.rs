//! Random reports against what the paper and the design demand of every plan. The oracles know the byte
//! streams that a report was cut from; the planner sees only the report.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

use std::net::SocketAddr;

use cluster::config::Recovery;
use cluster::control::{
    ConnectionReport, Flow, PartialResponse, PendingRequest, Prefix, Stretch, TAIL_BYTES, Tags, TakeIn,
};
use proptest::collection::vec;
use proptest::prelude::*;
use recovery_manager::{AlternateState, Plan, plan};

/// The whole truth about a connection: what a report is cut from.
#[derive(Debug, Clone)]
struct World {
    report: ConnectionReport,
    /// Response bytes up to Ack_TL + p, at least as many as the client has not acknowledged.
    stream: Vec<u8>,
    /// Where the logged part of T_L + 1's body ends in the representation.
    body_offset: u64,
}

fn request() -> impl Strategy<Value = (Vec<u8>, Tags)> {
    let bytes = prop_oneof![
        Just(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        Just(b"GET /big HTTP/1.1\r\nHost: a\r\nRange: bytes=1000-\r\n\r\n".to_vec()),
        Just(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        vec(any::<u8>(), 0..200).prop_map(|body| {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.into_bytes(), body].concat()
        }),
        vec(any::<u8>(), 1..60),
    ];
    let tags = any::<(bool, bool, bool)>().prop_map(|(deterministic, read_only, idempotent)| Tags {
        deterministic,
        read_only,
        idempotent,
        large_file: false,
    });
    (bytes, tags)
}

/// Heads of responses that may be continued by range, and of those that may not.
fn head() -> impl Strategy<Value = (String, u64)> {
    let plain = ("(\"[a-z]{1,5}\"|W/\"[a-z]{1,5}\"|)", any::<bool>()).prop_map(|(etag, ranges)| {
        let ranges = if ranges { "Accept-Ranges: bytes\r\n" } else { "" };
        let etag = if etag.is_empty() { String::new() } else { format!("ETag: {etag}\r\n") };
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n{ranges}{etag}\r\n"), 0)
    });
    prop_oneof![
        4 => plain,
        1 => Just(("HTTP/1.1 206 P\r\nContent-Length: 9000000\r\nContent-Range: bytes 1000-9000999/9001000\r\n\
                    ETag: \"v\"\r\n\r\n".to_owned(), 1000)),
        1 => Just(("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"v\"\r\n\r\n".to_owned(), 0)),
        1 => "[ -~]{1,40}".prop_map(|text| (text, 0)),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let client = (vec(request(), 0..4), any::<bool>(), any::<u32>(), any::<bool>());
    let server = (head(), 0..40_000_usize, 0..3_u8, vec(any::<u8>(), 0..500), any::<u32>(), any::<u32>());
    (client, server, any::<prop::sample::Index>()).prop_map(
        |((requests, last_complete, client_next, client_fin), server, unacked)| {
            let ((head, first), body_bytes, stage, earlier, ack_tl, t_l) = server;
            let t_l = t_l.min(u32::MAX - 10);
            let partial = cut_response(&head, body_bytes, if requests.is_empty() { 0 } else { stage });
            let (partial, body) = partial;
            let stream = [earlier, partial.head.clone(), body].concat();
            let p = partial.head.len() as u32 + partial.body_bytes as u32;
            let unacked = unacked.index(stream.len() + 1);
            let report = ConnectionReport {
                t_l,
                ack_tl,
                ack_cl: ack_tl.wrapping_add(p).wrapping_sub(unacked as u32),
                client_next,
                client_fin,
                pending: number(requests, t_l, last_complete),
                unacked: stream[stream.len() - unacked..].to_vec(),
                partial,
                ..ConnectionReport::new(flow())
            };
            World { body_offset: first + report.partial.body_bytes, report, stream }
        },
    )
}

fn flow() -> Flow {
    Flow { client: "203.0.113.5:40000".parse().unwrap(), backend: "198.51.100.1:80".parse().unwrap() }
}

fn number(requests: Vec<(Vec<u8>, Tags)>, t_l: u32, last_complete: bool) -> Vec<PendingRequest> {
    let last = requests.len();
    let numbered = requests.into_iter().zip(1..).map(|((bytes, tags), place)| PendingRequest {
        volatile_headers: None,
        ordinal: t_l + place,
        summary: String::new(),
        tags,
        complete: last_complete || (place as usize) < last,
        bytes,
    });
    numbered.collect()
}

/// Nothing, a part of the head, or the head and `body_bytes`; with the body's bytes.
fn cut_response(head: &str, body_bytes: usize, stage: u8) -> (PartialResponse, Vec<u8>) {
    if stage == 0 {
        return (PartialResponse::default(), Vec::new());
    }
    if stage == 1 {
        let head = head.as_bytes()[..head.len() / 2].to_vec();
        return (PartialResponse { head, ..PartialResponse::default() }, Vec::new());
    }
    let body: Vec<u8> = (0..body_bytes).map(|place| (place * 7 + place / 256) as u8).collect();
    let partial = PartialResponse {
        head: head.into(),
        head_complete: true,
        body_bytes: body_bytes as u64,
        hashes: vec![Stretch { bytes: body_bytes as u64, hash: xxhash_rust::xxh3::xxh3_128(&body) }],
        content: None,
        left_out: 0,
        tail: body[body_bytes.saturating_sub(TAIL_BYTES)..].to_vec(),
    };
    (partial, body)
}

fn config() -> Recovery {
    Recovery { range_from_bytes: 20_000, ..Recovery::default() }
}

fn alternate() -> SocketAddr {
    "198.51.100.2:80".parse().unwrap()
}

fn decide(report: &ConnectionReport, state: AlternateState) -> Plan {
    plan(report, state, &[alternate()], &config())
}

/// The bytes of sequence numbers `[from, until)` of the response stream that ends before `end`.
fn bytes_between(stream: &[u8], end: u32, from: u32, until: u32) -> Vec<u8> {
    let place = |seq: u32| stream.len() - end.wrapping_sub(seq) as usize;
    stream[place(from)..place(until)].to_vec()
}

/// The lines of a head but for those that make it a range request.
fn without_range(head: &[u8]) -> Vec<String> {
    let head = String::from_utf8(head.to_vec()).unwrap();
    head.lines().filter(|line| !line.contains("Range: ")).map(str::to_owned).collect()
}

fn is_safe(request: &PendingRequest) -> bool {
    request.tags.read_only || request.tags.idempotent
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_updates_of_unknown_effect_reset_the_client(world in world()) {
        let report = &world.report;
        let begun = !report.partial.head.is_empty();
        let unknown = report.pending.iter().enumerate()
            .any(|(place, request)| !is_safe(request) && (request.complete || (place == 0 && begun)));
        let reset = matches!(decide(report, AlternateState::level_with(report.t_l)), Plan::GiveUp(_));
        prop_assert_eq!(reset, unknown);
    }

    #[test]
    fn what_is_resent_is_exactly_what_the_client_lacks(world in world()) {
        let report = &world.report;
        let Plan::Recover(steps) = decide(report, AlternateState::level_with(report.t_l)) else { return Ok(()) };
        let order = steps.into_order(1, report, "l");
        let p = report.partial.head.len() as u64 + report.partial.body_bytes;
        let end = report.ack_tl.wrapping_add(p as u32);
        prop_assert_eq!(order.resend_from, report.ack_cl);
        prop_assert_eq!(order.resend_from.wrapping_add(order.resend.len() as u32), end);
        prop_assert_eq!(order.resend, bytes_between(&world.stream, end, report.ack_cl, end));
    }

    #[test]
    fn every_pending_byte_is_replayed_once_and_in_order(world in world()) {
        let report = &world.report;
        let Plan::Recover(steps) = decide(report, AlternateState::level_with(report.t_l)) else { return Ok(()) };
        let requests: Vec<&[u8]> = report.pending.iter().map(|request| request.bytes.as_slice()).collect();
        let TakeIn::Range { first, .. } = steps.take_in else {
            prop_assert_eq!(steps.replay, requests.concat());
            return Ok(());
        };
        let changed = steps.replay.strip_suffix(requests[1..].concat().as_slice()).unwrap();
        let range = format!("\r\nRange: bytes={first}-\r\n");
        prop_assert!(String::from_utf8_lossy(changed).contains(&range));
        prop_assert_eq!(without_range(changed), without_range(requests[0]));
    }

    #[test]
    fn what_is_taken_in_is_what_the_client_has(world in world()) {
        let report = &world.report;
        let Plan::Recover(steps) = decide(report, AlternateState::level_with(report.t_l)) else { return Ok(()) };
        let partial = &report.partial;
        match steps.take_in {
            TakeIn::Nothing => prop_assert!(partial.head.is_empty()),
            TakeIn::Prefix(Prefix { head, head_complete, body_bytes, hashes, .. }) => {
                prop_assert_eq!(&head, &partial.head);
                prop_assert_eq!(
                    (head_complete, body_bytes, &hashes),
                    (partial.head_complete, partial.body_bytes, &partial.hashes)
                );
            }
            TakeIn::Range { first, complete, overlap, .. } => {
                prop_assert!(partial.body_bytes >= config().range_from_bytes);
                prop_assert!(!overlap.is_empty() && overlap.len() <= TAIL_BYTES);
                prop_assert_eq!(first + overlap.len() as u64, world.body_offset);
                prop_assert!(world.body_offset < complete);
                prop_assert!(world.stream.ends_with(&overlap));
                prop_assert!(!String::from_utf8_lossy(&partial.head).contains("W/"));
            }
        }
    }

    #[test]
    fn equations_2_and_3_hold_or_the_client_is_reset(world in world(), lag in 0..5_u32, ahead in 0..5_u32) {
        let report = &world.report;
        let t_a = report.t_l.saturating_sub(lag).saturating_add(if lag == 0 { ahead } else { 0 });
        let state = AlternateState { t_s: t_a.min(report.t_l), t_a };
        let Plan::Recover(steps) = decide(report, state) else { return Ok(()) };
        prop_assert_eq!(steps.t_sp, u64::from(report.t_l) + 1);
        let (t_a, t_l) = (u64::from(t_a), u64::from(report.t_l));
        let mut near = t_l.saturating_sub(10).max(1)..=t_l + 1;
        let first_not_there = near.find(|t| *t > t_a || *t > t_l).unwrap();
        prop_assert_eq!(steps.t_r, first_not_there);
        prop_assert!(steps.t_r >= steps.t_sp, "a transaction before T_SP would have to be replayed");
    }

    /// A report that was damaged, or made up, gives a plan that is safe all the same, or none.
    #[test]
    fn damaged_reports_are_survived(
        world in world(),
        damage in vec((0..9_u8, any::<u64>(), vec(any::<u8>(), 0..40)), 1..4),
    ) {
        let mut report = world.report;
        for (kind, number, bytes) in damage {
            harm(&mut report, kind, number, bytes);
        }
        let Plan::Recover(steps) = decide(&report, AlternateState::level_with(report.t_l)) else { return Ok(()) };
        prop_assert!(report.pending.iter().all(|request| is_safe(request) || !request.complete));
        let p = (report.partial.head.len() as u64).wrapping_add(report.partial.body_bytes);
        let lacking = report.ack_tl.wrapping_add(p as u32).wrapping_sub(report.ack_cl);
        prop_assert_eq!(steps.resend.len() as u32, lacking);
    }
}

fn harm(report: &mut ConnectionReport, kind: u8, number: u64, bytes: Vec<u8>) {
    match kind {
        0 => report.ack_cl = number as u32,
        1 => report.ack_tl = number as u32,
        2 => report.t_l = number as u32,
        3 => report.partial.body_bytes = number,
        4 => report.partial.head = bytes,
        5 => report.partial.tail = bytes,
        6 => report.unacked = bytes,
        7 => report.partial.head_complete = number.is_multiple_of(2),
        _ => {
            if let Some(request) = report.pending.first_mut() {
                request.bytes = bytes;
            }
        }
    }
}
